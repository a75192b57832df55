"""The answer of long work: white space keeps its connection alive until the JSON is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from precipiq_core.http.answers import OwnAnswer, while_client_stays
from precipiq_core.http.envelope import JSON_TYPE

_WATCHED_AFTER_S = 0.25


@dataclass(frozen=True)
class LateAnswer(OwnAnswer):
    """``encode`` makes the body of the result of ``data``. After ``patience_s``, white space is sent each interval.

    The status is then sent already, so a later failure breaks the connection off: never a wrong answer. The work ends
    when the client leaves.
    """

    data: Awaitable[object]
    encode: Callable[[object], bytes]
    patience_s: float = 5.0
    interval_s: float = 1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self.data)
        try:
            async with while_client_stays(receive, after_s=_WATCHED_AFTER_S):
                await self._send(work, send)
        finally:
            work.cancel()

    async def _send(self, work: asyncio.Future[object], send: Send) -> None:
        done, _ = await asyncio.wait([work], timeout=self.patience_s)
        if done:
            work.result()  # an error has a status of its own until one is sent
        await send({"type": "http.response.start", "status": 200, "headers": [JSON_TYPE]})
        while not done:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            done, _ = await asyncio.wait([work], timeout=self.interval_s)
        await send({"type": "http.response.body", "body": self.encode(work.result())})
