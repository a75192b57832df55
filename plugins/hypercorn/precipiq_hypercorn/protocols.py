"""Hypercorn's HTTP/1.1 with the faults cured that no middleware can reach, and what puts the cures in place. For 0.18.

    fault                                                         cure
    a head that is too large or malformed gets an empty answer    the documented error, with a request id
    a head that came at once is parsed whatever its size          read in pieces, and refused with 431
    permessage-deflate cannot be switched off: 190 KB a client    not offered
    a request sent ahead of an answer that is cut short waits     given up with the connection
      without bound: a leak
    absolute-form targets are taken for paths                     their path is what counts
    Content-Length beside Transfer-Encoding keeps the connection  closed after the answer
    ``Upgrade: h2c`` is obeyed, past a proxy's rules              ignored; HTTP/2 without TLS only where it is asked for

Plain requests: ``precipiq_http1``. Faults of connections: ``connections.py``; others: ``http2.py``, ``websockets.py``.
Hypercorn looks up the names of its classes when a connection opens, so :func:`install` replaces them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, cast

import h11
import hypercorn.asyncio.run
import hypercorn.asyncio.tcp_server
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.protocol.ws_stream
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import AppWrapper

from precipiq_contracts.errors import BadRequest
from precipiq_core.http.errors import HeadersTooLarge
from precipiq_http1.can_read import CanRead
from precipiq_http1.protocol import PlainHttp1
from precipiq_hypercorn.connections import CuredConnection, CuredTaskGroup, connection_of, limits_of
from precipiq_hypercorn.http2 import CuredBuffer, CuredH2
from precipiq_hypercorn.refusal import refusal
from precipiq_hypercorn.websockets import CuredWebSocket


def install() -> None:
    """Make Hypercorn use the cured parts, in this process, from now on. May be called again."""
    connections: Any = hypercorn.asyncio.tcp_server
    connections.TaskGroup = CuredTaskGroup
    server: Any = hypercorn.asyncio.run
    server.TCPServer = CuredConnection
    module: Any = hypercorn.protocol
    module.H11Protocol = http1
    module.H2Protocol = CuredH2
    streams: Any = hypercorn.protocol.ws_stream
    streams.server_extensions_handshake = lambda *_: None
    buffers: Any = hypercorn.protocol.h2
    buffers.StreamBuffer = CuredBuffer
    for protocol in (cast("Any", hypercorn.protocol.h11), cast("Any", hypercorn.protocol.h2)):
        protocol.WSStream = CuredWebSocket


def http1(app: AppWrapper, config: Config, *others: Any) -> PlainHttp1:
    """The protocol of a connection, for which Hypercorn would make an ``H11Protocol``: that is for the odd requests."""
    make_h11 = partial(CuredH11, app, config, *others)
    return PlainHttp1(make_h11, limits_of(config).tiny_frames_per_second_max, app, config, *others)


_PIECE_BYTES = 4096
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class CuredH11(H11Protocol):
    """One HTTP/1.1 connection; a request that the protocol itself refuses gets the documented error."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.can_read = self._can_read = CanRead()

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._receive(event.data)
            return
        await super().handle(event)
        if isinstance(event, Closed):
            self._can_read.end()

    async def _receive(self, data: bytes) -> None:
        """A head is handed on in small pieces: h11 bounds only heads that are not complete."""
        at = 0
        while at < len(data):
            start, at = at, at + (_PIECE_BYTES if self.connection.their_state is h11.IDLE else len(data))
            try:
                await super().handle(RawData(data[start:at]))
            except H2ProtocolAssumedError as error:
                error.data += data[at:]
                raise

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.http_version == b"2.0" and connection_of(self.send).limits.h2c:
            await super()._check_protocol(event)

    async def _maybe_recycle(self) -> None:
        states = {self.connection.our_state, self.connection.their_state}
        if states != {h11.DONE} or self.context.terminated.is_set():
            self._can_read.end()
        await super()._maybe_recycle()

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version == b"2.0":
            await self._send_error_response(505)
            await self.send(Closed())
            return
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
