"""The other limit for one request: the same endpoint on Hypercorn as it is installed, without our protocol and cures."""

from __future__ import annotations

import asyncio
import socket

import uvloop
from bare import answer
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def endpoint(request: Request) -> Response:
    await request.json()
    return answer(201)


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.accesslog = None
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    app = Starlette(routes=[Route("/api/v1/decisions", endpoint, methods=["POST"])])
    await serve(app, config, shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]


uvloop.run(main())
