"""The limit for one delivery: a bare endpoint on Hypercorn as it is installed that only checks Stripe's signature."""

from __future__ import annotations

import os

from bare import answer, serve_stock
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import WebhookSignature

SECRET = os.environ["BENCH_SECRET"]


async def endpoint(request: Request) -> Response:
    WebhookSignature.verify_header(await request.body(), request.headers["stripe-signature"], SECRET, 300)
    return answer(200)


serve_stock(Starlette(routes=[Route("/{path:path}", endpoint, methods=["POST"])]))
