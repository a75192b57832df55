"""The handshake: admission, authentication and parsing before the upgrade; refusals that every client can read.

A refusal is an HTTP answer in the documented shape. A browser hides it from its page, so a client that offers
the endpoint's subprotocol is accepted first, then closed with a code that mirrors the status, and a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from pydantic import BaseModel
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import Principal
from precipiq_contracts.errors import InternalError, PrecipiqError, RateLimited
from precipiq_contracts.server import FRAMES
from precipiq_core.http.authentication import address_of, authenticate, credential_of, peer_of
from precipiq_core.http.endpoint import Admission, Peer
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.envelope import DENIAL, error_answer, send_answer
from precipiq_core.http.validation import parse_query
from precipiq_core.http.websocket import WebSocketEndpoint

log = structlog.get_logger("precipiq.http")

_REASON_BYTES_MAX = 123
_CLOSE_TIMEOUT_S = 2.0
_CLOSE_CODE_OF_STATUS = {422: 4400}

QueryT = TypeVar("QueryT", bound=BaseModel)


class Socket:
    """A WebSocket that may still be refused. Text goes out as UTF-8 bytes."""

    def __init__(self, scope: AsgiScope, receive: Receive, send: Send, subprotocol: str) -> None:
        self._receive = receive
        self._send = send
        self._subprotocol = subprotocol if subprotocol in scope.get("subprotocols", ()) else None
        extensions = scope.get("extensions") or {}
        self._can_deny = DENIAL in extensions
        self.takes_frames = FRAMES in extensions
        self._unsent: Callable[[], int] | None = extensions.get(FRAMES, {}).get("unsent")
        self.accepted = False

    async def accept(self) -> None:
        """Complete the handshake."""
        self.accepted = True
        await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})

    async def receive(self) -> Message:
        """The next message or ``websocket.disconnect``. Without a receive all the time the connection stalls."""
        return await self._receive()

    async def send_frames(self, frames: bytes) -> None:
        """Send whole frames as they are; only where ``takes_frames``. Waits while the client does not read."""
        await self._send({"type": FRAMES, "bytes": frames})

    async def send_text(self, text: bytes) -> None:
        """Send one text message. Waits while the client does not read."""
        await self._send({"type": "websocket.send", "text": text.decode()})

    def unsent(self) -> int | None:
        """Bytes that the client has not taken yet; None when the server cannot tell."""
        return None if self._unsent is None else self._unsent()

    async def close(self, code: int, reason: str) -> None:
        """Close with that code. Does not wait long for a client that does not read."""
        shown = reason.encode()[:_REASON_BYTES_MAX].decode("utf-8", "ignore")
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._send({"type": "websocket.close", "code": code, "reason": shown})

    async def refuse(self, error: PrecipiqError) -> None:
        """Refuse with a reason: by an HTTP answer, or by a close code to a client that is or can be accepted."""
        if self._subprotocol is not None and not self.accepted:
            await self.accept()
        if self.accepted:
            await self.close(close_code(error), _reason(error))
        elif self._can_deny:
            await send_answer(self._send, error_answer(error), kind=DENIAL)
        else:
            await self._send({"type": "websocket.close", "code": close_code(error), "reason": _reason(error)})


@dataclass(frozen=True, slots=True)
class WebSocketCall(Generic[QueryT]):
    """One handshake for its handler: admitted, authenticated, parsed; not yet accepted."""

    principal: Principal
    query: QueryT
    peer: Peer
    socket: Socket
    request_id: str


class WebSocketApp:
    """A WebSocket endpoint as an ASGI application.

    ``subprotocol``: clients that offer it are refused by a close code. ``admission``: the check before the key. An
    error of the handler refuses or closes the WebSocket; the handler must accept it, and receive all the time.
    """

    def __init__(self, endpoint: WebSocketEndpoint, edge: Edge, subprotocol: str, admission: Admission) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._subprotocol = subprotocol
        self._admission = admission

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._endpoint.path
        await receive()  # websocket.connect
        socket = Socket(scope, receive, send, self._subprotocol)
        try:
            await self._endpoint.handler(await self._call(scope, socket))
        except PrecipiqError as error:
            if isinstance(error, InternalError):
                log.exception("websocket failed", error=type(error).__name__)
            await self._refuse(socket, error, address_of(scope))
        except Exception as error:
            log.exception("websocket failed", error=type(error).__name__)
            await self._refuse(socket, InternalError(), address_of(scope))

    async def _call(self, scope: AsgiScope, socket: Socket) -> WebSocketCall[Any]:
        endpoint, edge = self._endpoint, self._edge
        await self._admission.admit(address_of(scope))
        credential = credential_of(scope, key_in_query=True)
        principal = await authenticate(edge.authenticators, scope, credential, endpoint.scope)
        query = parse_query(endpoint.query, scope["query_string"])
        peer = peer_of(edge.authenticators, scope, credential)
        return WebSocketCall(principal, query, peer, socket, scope["precipiq.request_id"])

    async def _refuse(self, socket: Socket, error: PrecipiqError, address: str | None) -> None:
        if not socket.accepted:
            self._admission.note_refusal(error.code, address)
        await socket.refuse(error)


def close_code(error: PrecipiqError) -> int:
    """The close code that mirrors the error's HTTP status: 4000 more; bad parameters are 4400."""
    status = error_answer(error).status
    return _CLOSE_CODE_OF_STATUS.get(status, 4000 + status)


def _reason(error: PrecipiqError) -> str:
    if isinstance(error, RateLimited):
        return f"{error.message}; retry in {max(1, round(error.retry_after_s))} s"
    for path, messages in (error.details or {}).items():
        return f"{path}: {messages[0]}"
    return error.message
