"""The same bytes through both readers of HTTP/1.1: ours for plain requests, and h11 for all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData, Updated
from starlette.types import Receive, Scope, Send

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.connections import CuredTaskGroup
from precipiq_hypercorn.hypercorn_config import QuietLogger, ServerConfig
from precipiq_hypercorn.protocols import CuredH11, http1

MakeProtocol = Callable[..., Any]
READERS: dict[str, MakeProtocol] = {"plain": http1, "h11": CuredH11}

TURNS = 12
_REQUEST_ID = re.compile(rb"req_[0-9a-f]{24}")


@dataclass
class Seen:
    """What the client and the application saw of one connection."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    idle: list[bool] = field(default_factory=list)
    is_closed: bool = False
    is_given_up: bool = False
    taken: int = 0

    @property
    def verdict(self) -> dict[str, Any]:
        """What must be the same whoever reads."""
        answers = _REQUEST_ID.sub(b"req_", b"".join(self.written))
        return {"calls": self.calls, "answers": answers, "closed": self.is_closed, "given up": self.is_given_up}


class Line:
    """A connection without a socket; Hypercorn's protocols find their limits at it."""

    def __init__(self, seen: Seen, config: ServerConfig) -> None:
        self.seen = seen
        self.limits = config

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self.write(event.data)
        elif isinstance(event, Closed):
            self.seen.is_closed = True
        elif isinstance(event, Updated):
            self.seen.idle.append(event.idle)

    async def write(self, data: bytes) -> None:
        if data and not self.seen.is_closed:
            self.seen.written.append(data)

    def post(self, data: bytes, *, last: bool = False) -> None:
        if data and not self.seen.is_closed:
            self.seen.written.append(data)

    def end_writing(self) -> None:
        pass

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        self.seen.is_closed = True


class Silent(QuietLogger):
    """Thousands of errors of the application are no news here."""

    async def exception(self, *_: Any, **__: Any) -> None:
        pass


def make_config(**settings: object) -> ServerConfig:
    config = ServerConfig(HypercornConfig.model_validate(settings))
    config.include_date_header = False
    config.logger_class = Silent
    return config


async def serve(
    make: MakeProtocol, pieces: Sequence[bytes], app: Any, config: ServerConfig, context: WorkerContext | None = None
) -> Seen:
    """Feed the pieces one after the other, each once the one before has had its effect; then the client closes."""
    seen = Seen()

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        call: dict[str, Any] = {"scope": scope, "body": b"", "last": None, "error": None}
        seen.calls.append(call)

        async def receive_recorded() -> Any:
            message = await receive()
            call["body"] += message.get("body", b"")
            call["last"] = (message["type"], message.get("more_body", False))
            return message

        try:
            await app(scope, receive_recorded, send)
        except Exception as error:
            call["error"] = f"{type(error).__name__}: {error}"
            raise

    line = Line(seen, config)
    async with CuredTaskGroup(asyncio.get_running_loop()) as group:
        protocol = make(
            ASGIWrapper(recorded),
            config,
            context or WorkerContext(None),
            group,
            {},
            False,
            ("127.0.0.1", 1),
            ("127.0.0.1", 2),
            line.protocol_send,
        )
        for piece in pieces:
            feeding = asyncio.ensure_future(protocol.handle(RawData(piece)))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if not feeding.done() or feeding.exception() is not None:
                seen.is_given_up = feeding.done()
                break
            seen.taken += 1
            if seen.is_closed:
                break
        await protocol.handle(Closed())
        await asyncio.gather(feeding, return_exceptions=True)
    return seen
