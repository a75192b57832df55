"""How frames reach a client: over a WebSocket or as server-sent events. Knows no chain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from precipiq_ws_stream.endings import BINARY, TOO_MANY_MESSAGES, Ending, departure
from precipiq_ws_stream.event_stream import SendBytes
from precipiq_ws_stream.frames import Batch, Frame, text_frame

if TYPE_CHECKING:  # commands import this module, and nothing that answers requests
    from precipiq_ws_stream.handshake import Socket

_MESSAGES_WINDOW_S = 60.0
_CLOSE_TIMEOUT_S = 1.0


WEBSOCKET = "websocket"
EVENTS = "events"


class Transport(Protocol):
    """One client's connection."""

    name: str
    hands_over_at_once: bool
    """Whether :meth:`send` may be used; else frames are to be sent one by one."""

    async def send(self, batches: Sequence[Batch]) -> None:
        """Write all frames, before the first wait.

        Waits while the client does not read; may be cancelled then.
        """
        ...

    def unsent(self) -> int | None:
        """Bytes that the client has not taken yet; None when the transport cannot tell."""
        ...

    async def send_frame(self, frame: Frame) -> None:
        """Write one frame, before the first wait."""
        ...

    async def tell_position(self, frame: Frame) -> None:
        """Keep the idle connection alive, and tell the client its position."""
        ...

    async def wait_until_left(self) -> Ending:
        """Wait until the client leaves, or breaks the rules; gives the ending."""
        ...

    async def close(self, ending: Ending, frame: Frame) -> None:
        """Tell the client why, by a close code or by the frame. Does not wait long."""
        ...


class WebSocketTransport:
    """Text frames. The server sends pings and drops a client that does not answer."""

    name = WEBSOCKET

    def __init__(self, socket: Socket, messages_per_minute_max: int) -> None:
        self._socket = socket
        self.hands_over_at_once = socket.takes_frames
        self._messages_max = messages_per_minute_max

    async def send(self, batches: Sequence[Batch]) -> None:
        frames = batches[0].websocket if len(batches) == 1 else b"".join([batch.websocket for batch in batches])
        await self._socket.send_frames(frames)

    def unsent(self) -> int | None:
        return self._socket.unsent()

    async def send_frame(self, frame: Frame) -> None:
        if self._socket.takes_frames:
            await self._socket.send_frames(text_frame(frame.text))
        else:
            await self._socket.send_text(frame.text)

    async def tell_position(self, frame: Frame) -> None:
        await self.send_frame(frame)

    async def wait_until_left(self) -> Ending:
        loop = asyncio.get_running_loop()
        count, window_end_s = 0, 0.0
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return departure(message.get("code") or 1005)
            if message.get("bytes") is not None:
                return BINARY
            if loop.time() >= window_end_s:
                count, window_end_s = 0, loop.time() + _MESSAGES_WINDOW_S
            count += 1
            if count > self._messages_max:
                return TOO_MANY_MESSAGES

    async def close(self, ending: Ending, frame: Frame) -> None:
        await self._socket.close(ending.code, ending.reason)


class EventTransport:
    """Server-sent events. A last event says why the stream ends, since HTTP has no close code."""

    name = EVENTS

    def __init__(self, send: SendBytes) -> None:
        self._send = send
        self.hands_over_at_once = True

    async def send(self, batches: Sequence[Batch]) -> None:
        await self._send(b"".join([batch.events for batch in batches]))

    def unsent(self) -> int | None:
        return None

    async def send_frame(self, frame: Frame) -> None:
        await self._send(frame.event)

    async def tell_position(self, frame: Frame) -> None:
        await self._send(b"id: %d\n\n" % frame.seq)  # no event, but a reconnect begins here

    async def wait_until_left(self) -> Ending:
        await asyncio.Event().wait()  # the server cancels the stream's task when the client leaves
        raise AssertionError

    async def close(self, ending: Ending, frame: Frame) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.send_frame(frame)
