"""The answer of work that may take long: white space keeps its connection alive until the JSON is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.envelope import JSON_TYPE


@dataclass(frozen=True)
class LateAnswer(OwnAnswer):
    """``encode`` makes the body of what ``data`` gives. White space is sent each interval once ``patience_s`` is over.

    The status is then already sent, so a failure after that breaks the connection off: never a wrong answer.
    """

    data: Awaitable[object]
    encode: Callable[[object], bytes]
    patience_s: float = 5.0
    interval_s: float = 1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self.data)
        try:
            done, _ = await asyncio.wait([work], timeout=self.patience_s)
            if done:
                work.result()  # what it raises has a status of its own, as long as none is sent
            await send({"type": "http.response.start", "status": 200, "headers": [JSON_TYPE]})
            while not done:
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                done, _ = await asyncio.wait([work], timeout=self.interval_s)
            await send({"type": "http.response.body", "body": self.encode(work.result())})
        finally:
            work.cancel()
