"""Hypercorn's protocols with the faults cured that no middleware can reach. Written for Hypercorn 0.18.

    fault                                                         cure
    HTTP/2 data after an early answer: KeyError, connection lost  those data are acknowledged and dropped
    HTTP/2 answers to a closed connection wait without bound      dropped
    HTTP/2 answers that are not taken pile up without bound       sending waits, as over HTTP/1.1
    HTTP/2 answers that were cut short never end for the client   the stream is reset
    HTTP/2 streams whose end the client does not take stay open   reset after ``close_timeout_s``
    a head that is too large or malformed gets an empty answer    the documented error, with a request id
    HTTP/2 path outside ASCII: traceback, connection lost         that one stream is reset
    HTTP/2 CONNECT without a path: traceback, connection lost     that one stream is reset
    permessage-deflate cannot be switched off: 190 KB a client    not offered
    a request sent ahead of an answer that is cut short waits     given up with the connection
      without bound: a leak
    absolute-form targets are taken for paths                     their path is what counts
    Content-Length beside Transfer-Encoding keeps the connection  closed after the answer

The faults of connections are in ``connections.py``, those of WebSockets in ``websockets.py``. Hypercorn looks up the
names of its classes when a connection opens, so :func:`install` replaces them.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any, cast

import h2.events
import h11
import hypercorn.asyncio.run
import hypercorn.asyncio.tcp_server
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.protocol.ws_stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.asyncio.worker_context import EventWrapper
from hypercorn.events import Closed, Event
from hypercorn.protocol.events import Body, Data, EndBody, EndData, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H11Protocol
from priority.priority import MissingStreamError

from precipiq_contracts.errors import BadRequest
from precipiq_core.http.errors import HeadersTooLarge
from precipiq_hypercorn.connections import CuredConnection, CuredTaskGroup, close_timeout_s, connection_of
from precipiq_hypercorn.refusal import refusal
from precipiq_hypercorn.websockets import CuredWebSocket


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
    buffers: Any = hypercorn.protocol.h2
    buffers.StreamBuffer = CuredBuffer
    for protocol in (cast("Any", hypercorn.protocol.h11), cast("Any", hypercorn.protocol.h2)):
        protocol.WSStream = CuredWebSocket


_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class CanRead(EventWrapper):
    """Whether the next request of a connection may be read: once the answer before is complete."""

    _ended = False

    async def wait(self) -> None:
        """Raises ``ConnectionError`` when there will be no next request."""
        if not self._ended:
            await super().wait()
        if self._ended:
            raise ConnectionAbortedError

    def end(self) -> None:
        """There will be none."""
        self._ended = True
        self._event.set()


class CuredH11(H11Protocol):
    """One HTTP/1.1 connection; a request that the protocol itself refuses gets the documented error."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.can_read = self._can_read = CanRead()

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self._can_read.end()

    async def _maybe_recycle(self) -> None:
        states = {self.connection.our_state, self.connection.their_state}
        if states != {h11.DONE} or self.context.terminated.is_set():
            self._can_read.end()
        await super()._maybe_recycle()

    async def _create_stream(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:  # RFC 9112 section 6.1: a proxy may read it otherwise
            self.keep_alive_requests = self.config.keep_alive_max_requests
        absolute = _ABSOLUTE.match(request.target)
        if absolute is not None:  # section 3.2.2: every server must take it; which host it names is no matter here
            rest = request.target[absolute.end() :]
            target = rest if rest.startswith(b"/") else b"/" + rest
            request = h11.Request(
                method=request.method, target=target, headers=request.headers, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def write(self, stream_id: int, data: bytes) -> None:
        """A WebSocket's bytes, as they are."""
        await connection_of(self.send).write(data)

    def post(self, stream_id: int, data: bytes, *, last: bool = False) -> None:
        """The same, without waiting. ``last``: nothing is sent after them."""
        connection_of(self.send).post(data, last=last)

    def end_writing(self, stream_id: int) -> None:
        """Shut down the sending side, and go on reading."""
        connection_of(self.send).end_writing()

    def unsent(self, stream_id: int) -> int:
        """Bytes that the client has not taken yet."""
        return connection_of(self.send).unsent()

    def abort(self, stream_id: int) -> None:
        """Drop the connection."""
        connection_of(self.send).abort()

    async def _send_error_response(self, status_code: int) -> None:
        status, headers, body = refusal(HeadersTooLarge() if status_code == 431 else BadRequest())
        headers += self.config.response_headers("h11")
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class CuredBuffer(StreamBuffer):
    """The unsent bytes of one HTTP/2 stream. Hypercorn resumes a waiting ``push`` even when no byte could be sent."""

    async def push(self, data: bytes) -> None:
        """Add bytes, then wait while the client does not take them."""
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        while len(self.buffer) >= BUFFER_HIGH_WATER and not self._complete:
            await self._paused.clear()
            await self._paused.wait()


class CuredH2(H2Protocol):
    """One HTTP/2 connection; a stream that was answered early or is malformed costs only itself."""

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: StreamEvent) -> None:
        if self.closed and isinstance(event, Body | EndBody | Data | EndData):
            return
        await super().stream_send(event)
        if isinstance(event, StreamClosed) and not self.closed:
            self._finish(event.stream_id)

    async def write(self, stream_id: int, data: bytes) -> None:
        """A WebSocket's bytes, as they are."""
        await self.stream_send(Data(stream_id=stream_id, data=data))

    def post(self, stream_id: int, data: bytes, *, last: bool = False) -> None:
        """The same, without waiting. ``last``: the stream ends after them."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer._complete:
            buffer.buffer.extend(data)
            buffer._complete = last
            self._wake(stream_id)

    def end_writing(self, stream_id: int) -> None:
        """Do nothing: the last bytes have ended the stream."""

    def unsent(self, stream_id: int) -> int:
        """Bytes that the client has not taken yet, the connection's and the stream's own."""
        buffer = self.stream_buffers.get(stream_id)
        return connection_of(self.send).unsent() + (0 if buffer is None else len(buffer.buffer))

    def abort(self, stream_id: int) -> None:
        """Drop the stream, and with the last one the connection."""
        if self.streams.keys() <= {stream_id}:
            connection_of(self.send).abort()
        else:
            self._reset(stream_id, ErrorCodes.CANCEL)

    def _finish(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer._complete:
            self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)
        elif buffer is not None:
            delay_s = close_timeout_s(self.config)
            asyncio.get_running_loop().call_later(delay_s, self._give_up, stream_id, buffer)

    def _give_up(self, stream_id: int, buffer: StreamBuffer) -> None:
        if not self.closed and self.stream_buffers.get(stream_id) is buffer:
            self.abort(stream_id)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):
            self.connection.reset_stream(stream_id, code)
        self._wake(stream_id)
        self.task_group.spawn(self._flush)  # by the task: frames packed before are sent first

    def _wake(self, stream_id: int) -> None:
        """Let the sending task look at that stream."""
        with suppress(MissingStreamError):
            self.priority.unblock(stream_id)
        cast("Any", self.has_data)._event.set()

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
    paths = [bytes(value) for name, value in event.headers if name == b":path"]
    return bool(paths) and paths[0].isascii()
