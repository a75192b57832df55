"""Hypercorn's HTTP/2 with the faults cured that no middleware can reach. Written for Hypercorn 0.18 and h2 4.

fault                                                         cure
data after an early answer: KeyError, connection lost         those data are acknowledged and dropped
answers to a closed connection wait without bound             dropped
answers that are not taken pile up without bound              sending waits, as over HTTP/1.1
answers that a client takes by the byte, or never, stay       reset after ``tcp_user_timeout_s``
answers that were cut short never end for the client          the stream is reset
streams whose end the client does not take stay open          reset after ``close_timeout_s``
a path or method outside ASCII: traceback, connection lost    that one stream is reset
CONNECT without a path: traceback, connection lost            that one stream is reset
PRIORITY is obeyed, at a cost that grows with each            ignored (RFC 9113 section 5.3.2)
frames that carry nothing, and requests taken back, are       paid for, see ``http2_frames``; then ENHANCE_YOUR_CALM
  handled without bound, and all that came at once first
a frame of 16 MiB is kept until it is refused                 refused by its length
a head unpacks to 64 KiB, whatever the limits are             bounded by them, packed and unpacked
the client says how large our packing table is                its default size at most
65,536 closed streams are kept                                1,024
requests at the same time are bounded for a connection alone  they take places as connections do
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import h2.events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.utilities import SizeLimitDict
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, Data, EndBody, EndData, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from priority.priority import MissingStreamError

from precipiq_hypercorn.connections import connection_of
from precipiq_peers.allowance import Allowance
from precipiq_peers.http2_frames import REQUEST, Flood, FrameMeter
from precipiq_peers.round_robin import RoundRobin

TAKEN_BYTES_MIN = 4096
"""A client takes at least this much of an answer, or all that is left, in ``tcp_user_timeout_s``."""

_CLOSED_STREAMS_MAX = 1024
_PACKING_TABLE_BYTES_MAX = 4096
_FIELD_OVERHEAD_BYTES = 32  # RFC 9113 section 6.5.2


class CuredBuffer(StreamBuffer):
    """The unsent bytes of one HTTP/2 stream. Hypercorn resumes a waiting ``push`` even when no byte could be sent.

    ``taken``: bytes that were sent. ``is_watched``: a timer looks for more. ``is_cut``: the rest is dropped.
    """

    taken = 0
    is_watched = is_cut = False

    async def close(self) -> None:
        """Drop the bytes that are left."""
        self.is_cut = True
        await super().close()

    async def pop(self, max_length: int) -> bytes:
        """Take bytes to send."""
        data = await super().pop(max_length)
        self.taken += len(data)
        return data

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

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._was_cut_off = False
        self._limits = limits = connection_of(self.send).limits
        self.priority = cast("Any", RoundRobin())
        rate = limits.tiny_frames_per_second_max
        burst = 2 * rate + REQUEST * limits.h2_max_concurrent_streams
        # Twice what a request may have, so that one beyond it gets its 431.
        head_bytes_max = 2 * (limits.h2_max_header_list_size + _FIELD_OVERHEAD_BYTES * limits.header_fields_max)
        self._meter = FrameMeter(
            Allowance(rate, burst, asyncio.get_running_loop().time),
            frame_bytes_max=limits.h2_max_inbound_frame_size,
            head_bytes_max=head_bytes_max,
        )
        self.connection.decoder.max_header_list_size = head_bytes_max
        self.connection._closed_streams = SizeLimitDict(size_limit=_CLOSED_STREAMS_MAX)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            if not self._was_cut_off:
                await self._receive(event.data)
            return
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _receive(self, data: bytes) -> None:
        is_first = True
        try:
            for piece in self._meter.pieces(data):
                if not is_first:
                    await asyncio.sleep(0)  # the others' turn
                is_first = False
                await super().handle(RawData(piece))
                if self.closed:
                    return
        except Flood as flood:
            self._was_cut_off = True
            connection_of(self.send).refuse(f"http2_{flood.reason}".replace(" ", "_"))
            code = ErrorCodes.FRAME_SIZE_ERROR if flood.is_size else ErrorCodes.ENHANCE_YOUR_CALM
            with suppress(ProtocolError):
                self.connection.close_connection(code, additional_data=flood.reason.encode())
            await self._flush()
            await self.send(Closed())

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
            loop = asyncio.get_running_loop()
            loop.call_later(self._limits.close_timeout_s, self._give_up, stream_id, buffer)

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

    async def _send_data(self, stream_id: int) -> None:
        buffer = cast("CuredBuffer", self.stream_buffers[stream_id])
        taken = buffer.taken
        if buffer.buffer and not self._has_window(stream_id):
            self.priority.block(stream_id)
        else:
            await super()._send_data(stream_id)
            self._meter.note_sent(buffer.taken - taken)
        if stream_id not in self.stream_buffers:
            if not buffer.is_cut:
                self._meter.note_answered()
        elif buffer.buffer and not buffer.is_watched:
            self._watch(stream_id, buffer)

    def _has_window(self, stream_id: int) -> bool:
        try:
            return self.connection.local_flow_control_window(stream_id) > 0
        except ProtocolError:  # the stream is closed, which Hypercorn handles
            return True

    def _watch(self, stream_id: int, buffer: CuredBuffer) -> None:
        buffer.is_watched = True
        wanted = buffer.taken + min(len(buffer.buffer), TAKEN_BYTES_MIN)
        loop = asyncio.get_running_loop()
        loop.call_later(self._limits.stall_timeout_s, self._check_taken, stream_id, buffer, wanted)

    def _check_taken(self, stream_id: int, buffer: CuredBuffer, wanted: int) -> None:
        buffer.is_watched = False
        if self.closed or self.stream_buffers.get(stream_id) is not buffer or not buffer.buffer:
            return
        if buffer.taken >= wanted:
            self._watch(stream_id, buffer)
            return
        connection_of(self.send).refuse("http2_stall")
        self._reset(stream_id, ErrorCodes.CANCEL)
        self.task_group.spawn(self._close_stream, stream_id)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        if connection_of(self.send).take_place() is None:
            await super()._create_stream(request)
        else:
            self._reset(request.stream_id, ErrorCodes.REFUSED_STREAM)

    async def _close_stream(self, stream_id: int) -> None:
        if stream_id in self.streams:
            connection_of(self.send).give_back_place()
        await super()._close_stream(stream_id)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with suppress(ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and not _is_plain(event):
                with suppress(ProtocolError):
                    self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                packing = self.connection.encoder
                packing.header_table_size = min(packing.header_table_size, _PACKING_TABLE_BYTES_MAX)
                await super()._handle_events([event])
            elif not isinstance(event, h2.events.PriorityUpdated):
                await super()._handle_events([event])
        await self._flush()


def _is_plain(event: h2.events.RequestReceived) -> bool:
    """Whether it has a path, and path and method are ASCII."""
    fields = {bytes(name): bytes(value) for name, value in event.headers if name in (b":method", b":path")}
    return len(fields) == 2 and all(value.isascii() for value in fields.values())
