"""Hypercorn's WebSocket stream with its faults cured, over HTTP/1.1 and HTTP/2. Written for Hypercorn 0.18.

    fault                                                         cure
    the application never learns the client's close code          ``websocket.disconnect`` has code and reason
    protocol errors end the connection without a close frame      a close frame with 1002, 1007, ... is sent
    a message that is too large: counted in characters, and the   counted in bytes; 1009, later data are dropped,
      connection stays for 10 s and keeps what comes                closed within ``CLOSE_WAIT_S``
    data before the handshake is accepted: the application gets   400 and ``websocket.disconnect``
      no event and never ends
    a handshake that is refused leaves its connection open        closed
    a handshake field outside ASCII: traceback, connection lost   400
    a wrong subprotocol chosen by the application: traceback      500
    TCP is closed before the client has answered our close        its answer is awaited for ``CLOSE_WAIT_S``
    a message after a close of another's raises                   ignored
    a close frame waits behind a client that does not read        it is queued at once
    pings are sent but pongs are ignored; a task for each         a timer; dropped after two without a pong
    tiny frames are parsed without a limit, delaying all          1008 beyond ``websocket_frames_per_second_max``
    an HTTP/2 client that ends its stream without a close frame   disconnect 1006
      is not noticed

Codes in ``websocket.disconnect``: the client's own, 1005 when its close frame had none, the code of the error that we
answered, 1006 when the connection was lost or the client did not answer our close in time.

The extension ``FRAMES``: ``{"type": FRAMES, "bytes": ...}`` hands over complete, unmasked frames as they are, before
the first wait. ``scope["extensions"][FRAMES]["unsent"]()``: bytes that the client has not taken yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.typing import ASGISendEvent, WebsocketAcceptEvent
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, Pong
from wsproto.events import Event as WebSocketEvent
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from precipiq_contracts.errors import BadRequest, Forbidden, InternalError, NotFound, PrecipiqError, Unavailable
from precipiq_contracts.server import FRAMES
from precipiq_core.system import SystemClock
from precipiq_hypercorn.connections import limits_of
from precipiq_hypercorn.refusal import refusal
from precipiq_peers.frame_rate import FrameRate

CLOSE_WAIT_S = 1.0
PINGS_UNANSWERED_MAX = 2

_clock = SystemClock()
_PING = b"\x89\x00"
_COMES_BACK = (CloseReason.SERVICE_RESTART, CloseReason.TRY_AGAIN_LATER)
_REFUSALS: dict[int, Callable[[], PrecipiqError]] = {
    400: lambda: BadRequest("the WebSocket handshake is not valid"),
    403: lambda: Forbidden("the WebSocket was refused"),
    404: NotFound,
    500: InternalError,
    503: lambda: Unavailable("the server is stopping; try again", retry_after_s=2),
}


class Outlet(Protocol):
    """The connection below a WebSocket: ``CuredH11`` or ``CuredH2``."""

    async def write(self, stream_id: int, data: bytes) -> None:
        """Send, waiting while the client does not take it."""

    def post(self, stream_id: int, data: bytes, *, last: bool = False) -> None:
        """Send without waiting. ``last``: nothing is sent after these."""

    def end_writing(self, stream_id: int) -> None:
        """Shut down the sending side, where that is possible."""

    def unsent(self, stream_id: int) -> int:
        """Bytes that the client has not taken yet."""

    def abort(self, stream_id: int) -> None:
        """Drop the connection or stream below the WebSocket, without a close frame."""


class CuredWebSocket(WSStream):
    """One WebSocket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outlet = cast("Outlet", cast("Any", self.send).__self__)  # Hypercorn hands down a method of it
        self._timer: asyncio.TimerHandle | None = None  # the next ping, later the end of the wait for the client
        self._pings_unanswered = 0
        self._message_bytes = 0
        self._rate = FrameRate(limits_of(self.config).websocket_frames_per_second_max)
        self._told = False  # the application has got ``websocket.disconnect``
        self._deaf = False  # later data are dropped

    async def handle(self, event: Event) -> None:
        """Handle an event of the client."""
        if self.closed:
            return
        if isinstance(event, Request):
            await self._open(event)
        elif isinstance(event, StreamClosed):
            self.closed = True
            self._set_timer(None)
            was_refused = self.state is ASGIWebsocketState.HTTPCLOSED
            await self._tell(CloseReason.NORMAL_CLOSURE if was_refused else CloseReason.ABNORMAL_CLOSURE)
        elif isinstance(event, EndBody):
            await self._end_of_input()
        elif isinstance(event, Body | Data) and not self._deaf:
            if self.state is ASGIWebsocketState.HANDSHAKE:
                await self._refuse_early()
            elif self.state in (ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED):
                await self._receive(event.data)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Handle a message of the application; None: it has ended."""
        if self.closed:
            return
        if message is None:
            await self._end_of_application()
            return
        kind: str = message["type"]
        if self._told or self.state in (ASGIWebsocketState.CLOSED, ASGIWebsocketState.HTTPCLOSED):
            return
        if kind == FRAMES:
            if self.state is ASGIWebsocketState.CONNECTED:
                await self._outlet.write(self.stream_id, cast("Any", message)["bytes"])
        elif kind == "websocket.close":
            await self._close_for_application(cast("Any", message))
        else:
            await super().app_send(message)

    async def _open(self, request: Request) -> None:
        try:
            await super().handle(request)
        except UnicodeDecodeError:
            await self._refuse(400)
            self.closed = True
        if self.closed:
            self._end_soon()
        else:  # the application has not started yet: nothing has waited since its task was made
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[FRAMES] = {"unsent": partial(self._outlet.unsent, self.stream_id)}

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        subprotocol, extra = message.get("subprotocol"), message.get("headers", [])
        status_code, headers, self.connection = self.handshake.accept(subprotocol, extra)
        self.state = ASGIWebsocketState.CONNECTED
        self._set_timer(self._tick, self.config.websocket_ping_interval)
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self._log_access(status_code)

    async def _receive(self, data: bytes) -> None:
        with suppress(LocalProtocolError):  # the closing handshake is complete
            self.connection.receive_data(data)
        ping: Ping | None = None  # only the newest is answered (RFC 6455 section 5.5.3)
        for event in self.connection.events():
            if not self._rate.admits():
                await self._end_flood()
                return
            if isinstance(event, Message):
                await self._take(event)
            elif isinstance(event, Ping):
                ping = event
            elif isinstance(event, Pong):
                self._pings_unanswered = 0
            elif isinstance(event, CloseConnection):
                await self._take_close(event)
        if ping is not None:
            await self._send_wsproto_event(ping.response())

    async def _end_flood(self) -> None:
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._fail(CloseReason.POLICY_VIOLATION, "too many frames")
            return
        self._deaf = True
        self._outlet.abort(self.stream_id)

    async def _take(self, event: Message[Any]) -> None:
        if self.state is not ASGIWebsocketState.CONNECTED:
            return
        data = event.data
        self._message_bytes += len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)
        if self._message_bytes > self.config.websocket_max_message_size:
            await self._fail(CloseReason.MESSAGE_TOO_BIG, "the message is too large")
            return
        self.buffer.extend(event)
        if event.message_finished:
            received = self.buffer.to_message()
            self.buffer.clear()
            self._message_bytes = 0
            assert self.app_put is not None
            await self.app_put(received)

    async def _take_close(self, event: CloseConnection) -> None:
        """Handle the client's close frame, or an error in its data."""
        state = self.connection.state
        if state is ConnectionState.OPEN:
            await self._fail(event.code, event.reason)
            return
        self._deaf = True
        if state is ConnectionState.REMOTE_CLOSING:
            self.state = ASGIWebsocketState.CLOSED
            self._outlet.post(self.stream_id, self.connection.send(event.response()), last=True)
        if state is not ConnectionState.LOCAL_CLOSING:
            await self._tell(event.code, event.reason)
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _fail(self, code: int, reason: str | None) -> None:
        """Close because of a fault of the client, and ignore its later data."""
        self._deaf = True
        self._close(code, reason)
        self.buffer.clear()
        self._outlet.end_writing(self.stream_id)
        await self._tell(code, reason)

    async def _refuse_early(self) -> None:
        self._deaf = True
        self.state = ASGIWebsocketState.HTTPCLOSED
        self._set_timer(self._end_soon, CLOSE_WAIT_S)
        await self._tell(CloseReason.ABNORMAL_CLOSURE)
        await self._send_error_response(400)
        self._outlet.end_writing(self.stream_id)

    async def _end_of_input(self) -> None:
        """The client has ended its HTTP/2 stream."""
        if self.state is ASGIWebsocketState.HANDSHAKE:
            await self._refuse_early()
        elif self.state is not ASGIWebsocketState.RESPONSE:
            self._outlet.post(self.stream_id, b"", last=True)
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _end_of_application(self) -> None:
        if self.state is ASGIWebsocketState.CONNECTED:
            self._close(CloseReason.INTERNAL_ERROR, None)
            return
        if self.state is ASGIWebsocketState.HANDSHAKE:
            await self._send_error_response(500)
        if self._timer is None:
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _close_for_application(self, message: dict[str, Any]) -> None:
        code = int(message.get("code", CloseReason.NORMAL_CLOSURE))
        if self.state is ASGIWebsocketState.CONNECTED:
            self._close(code, message.get("reason"))
        elif self.state is ASGIWebsocketState.HANDSHAKE:
            self.state = ASGIWebsocketState.HTTPCLOSED
            await self._send_error_response(503 if code in _COMES_BACK else 403)
            await self._tell(code)

    def _close(self, code: int, reason: str | None) -> None:
        """Send the close frame, and wait up to ``CLOSE_WAIT_S`` for the client's."""
        data = self.connection.send(CloseConnection(code=code, reason=reason))
        self.state = ASGIWebsocketState.CLOSED
        self._outlet.post(self.stream_id, data, last=True)
        self._set_timer(self._end_soon, CLOSE_WAIT_S)

    def _end_soon(self) -> None:
        self.task_group.spawn(self.send, StreamClosed(stream_id=self.stream_id))

    async def _tell(self, code: int, reason: str | None = None) -> None:
        if not self._told and self.app_put is not None:
            self._told = True
            await self.app_put({"type": "websocket.disconnect", "code": int(code), "reason": reason or ""})

    async def _send_wsproto_event(self, event: WebSocketEvent) -> None:
        with suppress(LocalProtocolError):  # a close frame was sent
            await self._outlet.write(self.stream_id, self.connection.send(event))

    def _tick(self) -> None:
        if self._pings_unanswered >= PINGS_UNANSWERED_MAX:
            self._outlet.abort(self.stream_id)
            self._end_soon()
            return
        self._pings_unanswered += 1
        self._outlet.post(self.stream_id, _PING)
        self._set_timer(self._tick, self.config.websocket_ping_interval)

    def _set_timer(self, action: Callable[[], None] | None, delay_s: float | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if action is not None and delay_s is not None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, action)

    async def _send_error_response(self, status_code: int) -> None:
        await self._refuse(status_code)
        await self._log_access(status_code)

    async def _log_access(self, status_code: int) -> None:
        duration_s = _clock.now_us() / 1e6 - self.start_time
        await self.config.log.access(self.scope, {"status": status_code, "headers": []}, duration_s)

    async def _refuse(self, status_code: int) -> None:
        status, headers, body = refusal(_REFUSALS[status_code]())
        await self.send(Response(stream_id=self.stream_id, status_code=status, headers=headers))
        self._outlet.post(self.stream_id, body, last=True)
