"""Hypercorn's connection and its tasks with the faults cured that no middleware can reach. For Hypercorn 0.18.

fault                                                         cure
unread events block the connection: a leak                    dropped once the application has ended
a closed connection lives on until its idle time is over      the idle timer ends with the reading
closing waits without bound for a client that reads slowly    aborted after ``close_timeout_s``
an endless body of tiny pieces keeps the event loop busy      slowed down to ``tiny_frames_per_second_max``
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

from precipiq_http1.idle import IdleTime
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.hypercorn_config import ServerConfig
from precipiq_peers.app_events import AppEvents
from precipiq_peers.places import Limit


class CuredConnection(TCPServer):
    """One connection, over as soon as the client has closed it and nothing runs on it; closing it is bounded.

    ``peer``: whose places it takes, see ``Places``.
    """

    _reading_ended = False
    _sealed = False
    _abort_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, peer: str = "") -> None:
        super().__init__(*arguments)
        self.limits = limits_of(self.config)
        self.peer = peer
        self._idle_time = IdleTime(self.config.keep_alive_timeout, self.context.terminated)

    async def run(self) -> None:
        """Serve the connection to its end."""
        self.limits.idle[self.make_room] = None
        try:
            await super().run()
        finally:
            self.limits.idle.pop(self.make_room, None)
            if self._abort_timer is not None:
                self._abort_timer.cancel()

    def take_place(self) -> Limit | None:
        """For one more request at the same time; or the limit that leaves none."""
        limit = self.limits.places.take(self.peer)
        if limit is not None:
            self.refuse(limit)
        return limit

    def give_back_place(self) -> None:
        """When that request has ended."""
        self.limits.places.give_back(self.peer)

    def make_room(self) -> None:
        """End at once, because others have no place and nothing runs here."""
        self.refuse(Limit.TOTAL)
        self.abort()

    def refuse(self, limit: str) -> None:
        """Tell that this limit kept the client out, or ended it."""
        self.limits.door.refuse(limit, self.peer)

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
        elif not isinstance(event, Updated):
            self.limits.idle.pop(self.make_room, None)
            await super().protocol_send(event)
        elif not self._reading_ended:
            self._note_idle(is_idle=event.idle)

    def _note_idle(self, *, is_idle: bool) -> None:
        self._idle_time.note(is_idle=is_idle)
        self.limits.idle.pop(self.make_room, None)
        if is_idle:
            self.limits.idle[self.make_room] = None
            if self.context.terminated.is_set():
                self._task_group.spawn(self._initiate_server_close)

    async def _idle_timeout(self) -> None:
        await self._idle_time.wait()
        if self._idle_time.is_idle:
            await asyncio.shield(self._initiate_server_close())

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
            self._abort_timer = self.loop.call_later(self.limits.close_timeout_s, self.abort)


def limits_of(config: Config) -> ServerConfig:
    """The deployment's; the defaults, and ``h2c`` as ever, for a connection that Hypercorn itself accepted."""
    return config if isinstance(config, ServerConfig) else ServerConfig(HypercornConfig(h2c=True))


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
        events = AppEvents(config.max_app_queue_size, limits_of(config).tiny_frames_per_second_max)

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
