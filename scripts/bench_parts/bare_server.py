"""The limit for one request: a bare Starlette endpoint under the same Hypercorn, same settings, same event loop.

It parses the same body and answers the same bytes; nothing is authenticated, checked, sealed, stored or logged.
"""

from __future__ import annotations

from bare import answer, serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def endpoint(request: Request) -> Response:
    await request.json()
    return answer(201)


serve(Starlette(routes=[Route("/api/v1/decisions", endpoint, methods=["POST"])]))
