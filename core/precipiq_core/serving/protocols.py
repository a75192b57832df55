"""Hypercorn's parts with the faults cured that no middleware can reach. Written for Hypercorn 0.18.

    fault                                                         cure
    events nobody reads block the connection for ever: a leak     dropped once the application has ended
    a closed connection lives on until its idle time is over      the idle timer ends with the reading
    HTTP/2 data after an early answer: KeyError, connection lost  those data are acknowledged and dropped
    HTTP/2 answers to a closed connection wait for ever           dropped
    a head that is too large or malformed gets an empty answer    the documented error, with a request id
    HTTP/2 path outside ASCII: traceback, connection lost         that one stream is reset
    permessage-deflate cannot be switched off: 190 KB a client    not offered

Hypercorn looks these names up when a connection opens, so :func:`install` puts ours in their place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import h2.events
import h11
import hypercorn.asyncio.run
import hypercorn.asyncio.tcp_server
import hypercorn.protocol
import hypercorn.protocol.ws_stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.asyncio.task_group import TaskGroup, _handle
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Body, Data, EndBody, EndData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from precipiq_core.clock import Randomness, SystemRandomness
from precipiq_core.errors import BadRequest, HeadersTooLarge
from precipiq_core.http.envelope import error_answer

_REQUEST_ID_BYTES = 12


def install() -> None:
    """Make Hypercorn use the cured parts, in this process, from now on. May be called again."""
    connections: Any = hypercorn.asyncio.tcp_server
    connections.TaskGroup = CuredTaskGroup
    server: Any = hypercorn.asyncio.run
    server.TCPServer = CuredConnection
    module: Any = hypercorn.protocol
    module.H11Protocol = CuredH11
    module.H2Protocol = CuredH2
    streams: Any = hypercorn.protocol.ws_stream
    streams.server_extensions_handshake = lambda *_: None


class CuredConnection(TCPServer):
    """One connection, over as soon as the client has closed it and nothing runs on it."""

    _reading_ended = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._reading_ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not (self._reading_ended and isinstance(event, Updated)):
            await super().protocol_send(event)


class CuredTaskGroup(TaskGroup):
    """The tasks of one connection. What an application does not read holds nothing up once the application ended."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application; what feeds it with events."""
        events = AppEvents(config.max_app_queue_size)

        async def handle() -> None:
            try:
                in_executor = partial(self._loop.run_in_executor, None)
                await _handle(app, config, scope, events.get, send, in_executor, self._run_in_loop)
            finally:
                events.close()

        self.spawn(handle)
        return events.put

    def _run_in_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(function(*arguments), self._loop).result()


class AppEvents:
    """A bounded queue from one connection to one application. A disconnect never waits for room."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._events: deque[ASGIReceiveEvent] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def put(self, event: ASGIReceiveEvent) -> None:
        """Add an event, waiting for room; dropped when the application has ended."""
        if not event["type"].endswith(".disconnect"):
            while not self._closed and len(self._events) >= self._size_max:
                self._room.clear()
                await self._room.wait()
        if not self._closed:
            self._events.append(event)
            self._ready.set()

    async def get(self) -> ASGIReceiveEvent:
        """The next event, waiting for one."""
        while not self._events:
            self._ready.clear()
            await self._ready.wait()
        event = self._events.popleft()
        self._room.set()
        return event

    def close(self) -> None:
        """The application has ended: nobody reads any more."""
        self._closed = True
        self._events.clear()
        self._room.set()


class CuredH11(H11Protocol):
    """One HTTP/1.1 connection; what is refused before any layer sees it is refused in the same shape."""

    _randomness: ClassVar[Randomness] = SystemRandomness()  # one for all: each stays known to ``os.fork`` for ever

    async def _send_error_response(self, status_code: int) -> None:
        answer = error_answer(HeadersTooLarge() if status_code == 431 else BadRequest())
        request_id = f"req_{self._randomness.bytes(_REQUEST_ID_BYTES).hex()}"
        headers = [
            *answer.headers,
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=answer.status, headers=headers))
        await self._send_h11_event(h11.Data(data=answer.body))
        await self._send_h11_event(h11.EndOfMessage())


class CuredH2(H2Protocol):
    """One HTTP/2 connection; a stream that was answered early or is malformed costs only itself."""

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: StreamEvent) -> None:
        if not (self.closed and isinstance(event, Body | EndBody | Data | EndData)):
            await super().stream_send(event)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with suppress(ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and not _has_plain_path(event):
                with suppress(ProtocolError):
                    self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()


def _has_plain_path(event: h2.events.RequestReceived) -> bool:
    return all(bytes(value).isascii() for name, value in event.headers if name == b":path")
