"""Whether a process can serve: asks every part and every task in the background, in parallel. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

log = structlog.get_logger("precipiq.health")

PING_TIMEOUT_S = 2.0

Ping = Callable[[], Awaitable[None]]


class Readiness:
    """Asks the parts whether they can serve. ``pings``: their health checks by name."""

    def __init__(self, pings: Callable[[], Mapping[str, Ping]]) -> None:
        self._pings = pings

    async def parts(self) -> Mapping[str, bool]:
        """Whether each part can serve, by name. A part's error is logged, and its time is bounded."""
        pings = dict(self._pings())
        results = await asyncio.gather(*(_can_serve(name, ping) for name, ping in pings.items()))
        return dict(zip(pings, results, strict=True))


async def _can_serve(name: str, ping: Ping) -> bool:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await ping()
    except Exception as error:  # noqa: BLE001  (a part with any error is not ready)
        log.warning("part not ready", part=name, error=type(error).__name__, reason=str(error))
        return False
    return True
