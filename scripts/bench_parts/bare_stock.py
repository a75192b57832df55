"""The other limit for one request: the same endpoint on Hypercorn as it is installed."""

from __future__ import annotations

from bare import answer, serve_stock
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def endpoint(request: Request) -> Response:
    await request.json()
    return answer(201)


serve_stock(Starlette(routes=[Route("/api/v1/decisions", endpoint, methods=["POST"])]))
