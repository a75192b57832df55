"""A small application under the real server, in a process of its own: ``served_app.py SCENARIO [SETTING=VALUE ...]``.

Says ``ready URL`` when it serves and, when its lifespan ends, ``accepted [...]``: the ids of the requests that reached
it. Exits with the server's exit code. Scenarios name what goes wrong, or ``fine``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from precipiq_contracts.errors import DeploymentError
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.serving import run
from precipiq_peers.unread_body import UnreadBody

ACCEPTED: list[str] = []


async def work(request: Request) -> Response:
    name = request.path_params["name"]
    ACCEPTED.append(name)
    await asyncio.sleep(0.05)
    return PlainTextResponse(name)


async def hang(request: Request) -> Response:
    print("hanging", flush=True)
    await asyncio.Event().wait()
    return PlainTextResponse("never")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    if websocket.url.path == "/own-goodbye":
        draining = asyncio.Event()
        websocket.scope["precipiq.on_drain"](draining.set)
        print("connected", flush=True)
        await draining.wait()
        await websocket.close(4503, "resume later")
        return
    print("connected", flush=True)
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()


@asynccontextmanager
async def lifespan(scenario: str) -> AsyncIterator[None]:
    if scenario == "start-refused":
        raise DeploymentError(["ledger: no disk", "keys: no master key"])
    if scenario == "start-crashes":
        raise RuntimeError("boom at start")
    if scenario == "start-hangs":
        print("starting", flush=True)
        await asyncio.Event().wait()
    yield
    if scenario == "stop-crashes":
        raise RuntimeError("boom at stop")
    print("accepted", json.dumps(ACCEPTED), flush=True)


def main() -> int:
    scenario, *pairs = sys.argv[1:]
    settings = HypercornConfig.model_validate({"bind": "127.0.0.1:0", **dict(pair.split("=", 1) for pair in pairs)})
    app = Starlette(
        routes=[
            Route("/job/{name}", work, methods=["GET", "POST"]),
            Route("/hang", hang),
            WebSocketRoute("/socket", socket),
            WebSocketRoute("/own-goodbye", socket),
        ]
    )
    gate = DrainGate(app)

    def ready(addresses: object) -> None:
        assert isinstance(addresses, list)
        print("ready", addresses[0], flush=True)

    return run(UnreadBody(gate), settings, lifespan=lifespan(scenario), gate=gate, on_ready=ready)


if __name__ == "__main__":
    sys.exit(main())
