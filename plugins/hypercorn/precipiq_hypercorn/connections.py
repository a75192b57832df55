"""Hypercorn's connection and its tasks with the faults cured that no middleware can reach. For Hypercorn 0.18.

fault                                                         cure
unread events block the connection: a leak                    dropped once the application has ended
a closed connection lives on until its idle time is over      the idle timer ends with the reading
closing waits without bound for a client that reads slowly    aborted after ``close_timeout_s``
the kernel's own time-out is raised in the application        the connection ends
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, cast

from hypercorn.asyncio.task_group import TaskGroup, _handle
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.hypercorn_config import ServerConfig

_CLOSE_TIMEOUT_S: float = HypercornConfig.model_fields["close_timeout_s"].default
_FRAMES_PER_SECOND_MAX: int = HypercornConfig.model_fields["websocket_frames_per_second_max"].default


class CuredConnection(TCPServer):
    """One connection, over as soon as the client has closed it and nothing runs on it; closing it is bounded."""

    _reading_ended = False
    _sealed = False
    _abort_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the connection to its end."""
        try:
            await super().run()
        finally:
            if self._abort_timer is not None:
                self._abort_timer.cancel()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                await self.protocol.handle(RawData(await self.reader.read(MAX_RECV)))
            except OSError:
                break
        self._reading_ended = True
        self._bound_close()  # nothing more will be sent: Hypercorn drops later messages of applications
        await self.protocol.handle(Closed())
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self.write(event.data)
        elif not (self._reading_ended and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def write(self, data: bytes) -> None:
        """Send, then wait while the client does not take it. A cancelled wait leaves the connection in order."""
        if self._sealed:
            return
        try:
            self.writer.write(data)
            async with self.send_lock:
                await self.writer.drain()
        except (OSError, RuntimeError):
            await self.protocol.handle(Closed())

    def post(self, data: bytes, *, last: bool = False) -> None:
        """Send a few bytes without waiting. ``last``: nothing is sent after them."""
        if not self._sealed and not self.writer.is_closing():
            self._sealed = last
            self.writer.write(data)

    def unsent(self) -> int:
        """Bytes that the client has not acknowledged: in this process and in the kernel."""
        connection = self.writer.get_extra_info("socket")
        count = bytearray(4)
        with suppress(OSError, ValueError, AttributeError):
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
        return int(self.writer.transport.get_write_buffer_size()) + int.from_bytes(count, sys.byteorder)

    def end_writing(self) -> None:
        """Shut down the sending side; not possible with TLS."""
        with suppress(NotImplementedError, OSError, RuntimeError):
            self.writer.write_eof()

    def abort(self) -> None:
        """Drop the connection and its unsent bytes."""
        self.writer.transport.abort()

    async def _close(self) -> None:
        self._bound_close()
        with suppress(OSError):
            await super()._close()

    async def _initiate_server_close(self) -> None:
        self._bound_close()
        await super()._initiate_server_close()

    def _bound_close(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(close_timeout_s(self.config), self.abort)


def close_timeout_s(config: Config) -> float:
    """The deployment's; of a configuration that is not ours, the default."""
    return config.close_timeout_s if isinstance(config, ServerConfig) else _CLOSE_TIMEOUT_S


def frames_per_second_max(config: Config) -> int:
    """The deployment's; of a configuration that is not ours, the default."""
    return config.websocket_frames_per_second_max if isinstance(config, ServerConfig) else _FRAMES_PER_SECOND_MAX


def connection_of(protocol_send: Callable[[Event], Awaitable[None]]) -> CuredConnection:
    """The connection whose method Hypercorn has handed to a protocol."""
    return cast("CuredConnection", protocol_send.__self__)  # type: ignore[attr-defined]


class CuredTaskGroup(TaskGroup):
    """The tasks of one connection. Events that an application did not read block nothing once the application ended."""

    def spawn(self, func: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start a task; nothing when the connection is about to end."""
        coroutine = func(*args)
        try:
            self._task_group.create_task(coroutine)
        except RuntimeError:
            coroutine.close()

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application; returns the function that feeds it with events."""
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
    """A bounded queue from one connection to one application. A disconnect never waits for room and is the last."""

    __slots__ = ("_closed", "_events", "_ready", "_room", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._events: list[ASGIReceiveEvent] = []  # short, and mostly empty: ten times smaller than a deque
        self._ready = asyncio.Event()
        self._room: asyncio.Event | None = None
        self._closed = False

    async def put(self, event: ASGIReceiveEvent) -> None:
        """Add an event, waiting for room; dropped after a disconnect and when the application has ended."""
        is_last = event["type"].endswith(".disconnect")
        while not is_last and not self._closed and len(self._events) >= self._size_max:
            self._room = self._room or asyncio.Event()
            await self._room.wait()
        if not self._closed:
            self._events.append(event)
            self._ready.set()
        if is_last:
            self._closed = True
            self._make_room()

    async def get(self) -> ASGIReceiveEvent:
        """The next event, waiting for one."""
        while not self._events:
            self._ready.clear()
            await self._ready.wait()
        event = self._events.pop(0)
        self._make_room()
        return event

    def close(self) -> None:
        """Drop the events: the application has ended and reads no more."""
        self._closed = True
        self._events.clear()
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
