"""The limit for one delivery: a bare endpoint under the same Hypercorn that only checks Stripe's signature."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import WebhookSignature

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.service import run

ANSWER = json.loads(os.environ["BENCH_ANSWER"]).encode()
HEADERS = json.loads(os.environ["BENCH_HEADERS"])
SECRET = os.environ["BENCH_SECRET"]


async def endpoint(request: Request) -> Response:
    WebhookSignature.verify_header(await request.body(), request.headers["stripe-signature"], SECRET, 300)
    return Response(ANSWER, 200, headers=HEADERS)


app = Starlette(routes=[Route("/{path:path}", endpoint, methods=["POST"])])
code = run(
    app,
    HypercornConfig(bind="127.0.0.1:0"),
    lifespan=nullcontext(),
    gate=DrainGate(app),
    on_ready=lambda addresses: print(addresses[0], flush=True),
)
sys.exit(code)
