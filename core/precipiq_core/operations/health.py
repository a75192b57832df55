"""``/healthz`` (the process answers) and ``/readyz`` (every part can serve, and works in the background)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_core.http.envelope import Answer, encode, send_answer

log = structlog.get_logger("precipiq.health")

PING_TIMEOUT_S = 2.0


async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
    """The process is alive; says nothing of its parts, so that a broken database restarts nothing."""
    await _send(send, 200, {"status": "ok"})


def readyz(pings: Callable[[], Mapping[str, Callable[[], Awaitable[None]]]]) -> ASGIApp:
    """The application behind ``/readyz``: 200 when every ping succeeds, else 503 naming the parts that failed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        parts = dict(pings())
        results = await asyncio.gather(*(_ready(name, ping) for name, ping in parts.items()))
        ready = all(results)
        names = {name: "ok" if result else "failed" for name, result in zip(parts, results, strict=True)}
        await _send(send, 200 if ready else 503, {"status": "ready" if ready else "not ready", "parts": names})

    return app


async def _ready(name: str, ping: Callable[[], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await ping()
    except Exception as error:  # noqa: BLE001  (whatever a part raises, it is not ready)
        log.warning("part not ready", part=name, error=type(error).__name__, reason=str(error)[:200])
        return False
    return True


async def _send(send: Send, status: int, content: object) -> None:
    await send_answer(send, Answer(status, encode(content)))
