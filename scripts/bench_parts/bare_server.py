"""The limit for one request: a bare Starlette endpoint under the same Hypercorn, same settings, same event loop.

It parses the same body and answers the same bytes; nothing is authenticated, checked, sealed, stored or logged.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.service import run

ANSWER = json.loads(os.environ["BENCH_ANSWER"]).encode()
HEADERS = json.loads(os.environ["BENCH_HEADERS"])


async def endpoint(request: Request) -> Response:
    await request.json()
    return Response(ANSWER, 201, headers=HEADERS)


app = Starlette(routes=[Route("/api/v1/decisions", endpoint, methods=["POST"])])
code = run(
    app,
    HypercornConfig(bind="127.0.0.1:0"),
    lifespan=nullcontext(),
    gate=DrainGate(app),
    on_ready=lambda addresses: print(addresses[0], flush=True),
)
sys.exit(code)
