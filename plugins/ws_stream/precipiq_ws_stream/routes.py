"""The stream's two endpoints: from handshake and request to the service."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from precipiq_contracts.auth import Principal
from precipiq_contracts.errors import ValidationFailed
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, Peer
from precipiq_core.http.validation import RequestModel
from precipiq_core.http.websocket import WebSocketEndpoint
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.endings import DRAINING
from precipiq_ws_stream.errors import CannotResume
from precipiq_ws_stream.event_stream import EventStream, SendBytes
from precipiq_ws_stream.frames import Wanted
from precipiq_ws_stream.handshake import WebSocketApp, WebSocketCall
from precipiq_ws_stream.position import Position
from precipiq_ws_stream.service import Request, Streams
from precipiq_ws_stream.subscription import Subscription
from precipiq_ws_stream.transport import EventTransport, WebSocketTransport

WEBSOCKET_PATH = "/ws/v1/stream"
EVENTS_PATH = "/stream"
SUBPROTOCOL = "precipiq.v1"

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KINDS_MAX = 50
_SEQ = re.compile(r"[0-9]{1,18}")


def _kinds(text: str) -> str:
    names = text.split(",")
    if len(names) > _KINDS_MAX or not all(map(_KIND.fullmatch, names)):
        raise ValueError(f"must be up to {_KINDS_MAX} kinds of entry, divided by commas")
    return text


class StreamQuery(RequestModel):
    """What to stream, and where to begin."""

    after_seq: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="resume after this entry: 0 replays the whole chain; without it the stream begins now"
    )
    after_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="hash of the entry after_seq; refused when the chain no longer has it there"
    )
    kinds: Annotated[str, AfterValidator(_kinds)] | None = Field(
        None, description="only entries of these kinds, divided by commas"
    )
    agent_id: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="only entries whose body names this agent"
    )


class StreamRoutes:
    """Handlers of the stream's endpoints."""

    def __init__(self, streams: Streams, config: WsStreamConfig) -> None:
        self._streams = streams
        self._config = config

    def endpoints(self) -> Sequence[Endpoint | WebSocketEndpoint]:
        """Both of them."""
        return [
            WebSocketEndpoint(
                WEBSOCKET_PATH,
                self.open_websocket,
                "read",
                StreamQuery,
                partial(WebSocketApp, subprotocol=SUBPROTOCOL, admission=self._streams),
            ),
            Endpoint(
                "GET",
                EVENTS_PATH,
                self.open_events,
                "read",
                EventStream,
                query=StreamQuery,
                errors=("cannot_resume",),
                admission=self._streams,
            ),
        ]

    async def open_websocket(self, call: WebSocketCall[StreamQuery]) -> None:
        """Stream the entries of the key's chain over a WebSocket.

        With `after_seq` it first replays what came after that entry, then goes on live, without a gap or a repeat.
        """
        after = _after(call.query, None)
        request = _request(call.principal, call.peer, call.query, after)
        socket = call.socket
        async with AsyncExitStack() as stack:
            try:
                opening = await stack.enter_async_context(self._streams.open(request))
            except CannotResume:
                await socket.accept()  # the contract promises the close code 4409 to every client
                raise
            await socket.accept()
            transport = WebSocketTransport(socket, self._config.client_messages_per_minute_max)
            await self._streams.serve(opening, transport, _ends_at_drain(call.peer))

    async def open_events(self, call: Call[NoBody, StreamQuery]) -> EventStream:
        """Stream the entries of the key's chain as server-sent events.

        Each event's `data` is a frame, its id the entry's seq: a client that reconnects with `Last-Event-ID` goes on
        where it was. The last event before the server ends a stream has the type `connection.closing`.
        """
        last_event_ids = call.header_values("last-event-id")
        after = _after(call.query, last_event_ids[0] if last_event_ids else None)
        request = _request(call.principal, call.peer, call.query, after)
        stack = AsyncExitStack()
        opening = await stack.enter_async_context(self._streams.open(request))

        async def run(send: SendBytes) -> None:
            async with stack:
                transport = EventTransport(send)
                await self._streams.serve(opening, transport, _ends_at_drain(call.peer))

        return EventStream(run)


def _ends_at_drain(peer: Peer) -> Callable[[Subscription], None]:
    def register(subscription: Subscription) -> None:
        peer.on_drain(lambda: subscription.end(DRAINING))

    return register


def _request(principal: Principal, peer: Peer, query: StreamQuery, after: Position | None) -> Request:
    kinds = None if query.kinds is None else frozenset(query.kinds.split(","))
    return Request(principal, peer.credential_id, peer.recheck, peer.address, Wanted(kinds, query.agent_id), after)


def _after(query: StreamQuery, last_event_id: str | None) -> Position | None:
    """The position to resume from. ``Last-Event-ID`` is newer than the URL's, which a reconnect repeats."""
    if last_event_id:
        if _SEQ.fullmatch(last_event_id) is None:
            raise ValidationFailed(details={"Last-Event-ID": ["must be the id of an event of this stream"]})
        seq = int(last_event_id)
        return Position(seq, query.after_hash if seq == query.after_seq else None)
    if query.after_seq is None:
        if query.after_hash is not None:
            raise ValidationFailed(details={"after_hash": ["needs after_seq"]})
        return None
    return Position(query.after_seq, query.after_hash)
