"""Accepts connections: as many as the limits allow, before any byte or TLS handshake of theirs is looked at.

Hypercorn's own server has no limit, and while no file is left asyncio's logs an error each second. Connections that are
refused here get the documented error where they speak HTTP, and are closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, LifespanState

from precipiq_contracts.errors import Unavailable
from precipiq_hypercorn.connections import CuredConnection
from precipiq_hypercorn.hypercorn_config import ServerConfig
from precipiq_hypercorn.refusal import refusal
from precipiq_peers.places import Limit

PAUSE_S = 0.5
"""Until the next attempt when no file is left."""

_ACCEPTS_PER_TURN = 32
_RETRY_S = 5


class Acceptor:
    """Serves the connections of one listening socket, from :meth:`start` on."""

    def __init__(self, listening: socket.socket, app: AppWrapper, config: ServerConfig) -> None:
        self._listening = listening
        self._app = app
        self._config = config
        self._tls = config.create_ssl_context()
        self._context = WorkerContext(None)
        self._state: LifespanState = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on, in this event loop."""
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more, let idle connections close, and end the others when the time is over."""
        self._loop.remove_reader(self._listening.fileno())
        if self._pause is not None:
            self._pause.cancel()
        await self._context.terminated.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                break
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection waits in the kernel
                self._config.door.note_files(error.strerror or str(error))
                self._loop.remove_reader(self._listening.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self.start)
                return
            connection.setblocking(False)
            self._admit(connection, address[0])
        self._config.door.note_files(None)

    def _admit(self, connection: socket.socket, address: str) -> None:
        places = self._config.places
        peer = places.peer_of(address)
        limit = places.take(peer)
        if limit is Limit.TOTAL and self._end_longest_idle():
            limit = places.take(peer, is_replacing=True)
        if limit is not None:
            self._config.door.refuse(limit, address)
            self._turn_away(connection)
            return
        task = self._loop.create_task(self._serve(connection, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end_longest_idle(self) -> bool:
        """Those who hold connections without a request must not keep the others out; False: there is none."""
        make_room = next(iter(self._config.idle), None)
        if make_room is None:
            return False
        del self._config.idle[make_room]
        make_room()
        return True

    def _turn_away(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._tls is None:
                status, headers, body = refusal(Unavailable("too many connections", retry_after_s=_RETRY_S))
                fields = b"".join(b"%b: %b\r\n" % field for field in headers)
                connection.send(b"HTTP/1.1 %d \r\n%b\r\n%b" % (status, fields, body))
                connection.shutdown(socket.SHUT_WR)

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            opened = await self._open(connection)
            if opened is not None:
                await CuredConnection(
                    self._app, self._loop, self._config, self._context, self._state, *opened, peer=peer
                )
        finally:
            self._config.places.give_back(peer)

    async def _open(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Its streams, after the TLS handshake; None when that fails, or takes longer than a request's head may."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        timeout_s = None if self._tls is None else self._config.keep_alive_timeout
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )
        except (OSError, ssl.SSLError):
            connection.close()
            return None
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)
