"""Bare servers to measure against: how they are started, and how they serve: as the product does, with nothing in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import hypercorn.asyncio
import uvloop
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.responses import Response

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.serving import run


@dataclass(frozen=True)
class Bare:
    """A bare server that runs."""

    port: int
    pid: int


@contextmanager
def bare_server(script: str, answer: str, headers: dict[str, str], **environment: str) -> Iterator[Bare]:
    """That script's server, which answers that."""
    command = [sys.executable, str(Path(__file__).parent / script)]
    described = {"BENCH_ANSWER": json.dumps(answer), "BENCH_HEADERS": json.dumps(headers)}
    bare = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **described, **environment})
    try:
        assert bare.stdout is not None
        yield Bare(int(bare.stdout.readline().strip().rpartition(":")[2]), bare.pid)
    finally:
        bare.send_signal(signal.SIGTERM)
        bare.wait(30)


def cpu_s(pid: int) -> float:
    """What that process, without its children, has used of all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(status: int) -> Response:
    """What :func:`bare_server` was told to have answered."""
    text, headers = _answer()
    return Response(text, status, headers=headers)


@cache
def _answer() -> tuple[bytes, dict[str, str]]:
    return json.loads(os.environ["BENCH_ANSWER"]).encode(), json.loads(os.environ["BENCH_HEADERS"])


def serve(app: Starlette, lifespan: AbstractAsyncContextManager[None] | None = None) -> NoReturn:
    """Serve under the same server, settings and event loop as the product."""
    code = run(
        app,
        HypercornConfig(bind="127.0.0.1:0"),
        lifespan=lifespan or nullcontext(),
        gate=DrainGate(app),
        on_ready=lambda addresses: print(addresses[0], flush=True),
    )
    sys.exit(code)


def serve_stock(app: Starlette) -> None:
    """Serve on Hypercorn as it is installed, without our protocol and cures."""

    async def serving() -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        config = Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.accesslog = None
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        await hypercorn.asyncio.serve(app, config, shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]

    uvloop.run(serving())
