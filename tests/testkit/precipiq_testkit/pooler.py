"""Proxies between a server and its PostgreSQL, for tests: a pooler of transactions, and a network that fails.

Both speak as much of the wire protocol (version 3) as they need, run in a thread with an event loop of their own, and
listen on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

CALL_TIMEOUT_S = 20.0
ACCEPTED_PARAMETERS = ("client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name")
"""The start-up parameters a client may send, in lower case; PgBouncer refuses others. They have no effect."""

_PROTOCOL_3_0, _CANCEL, _TLS, _GSS = (struct.pack("!i", code) for code in (196608, 80877102, 80877103, 80877104))


def _message(kind: bytes, *strings: str, head: bytes = b"", tail: bytes = b"") -> bytes:
    body = head + b"".join(text.encode() + b"\0" for text in strings) + tail
    return kind + struct.pack("!i", len(body) + 4) + body


def _reset(transport: asyncio.WriteTransport) -> None:
    """Close at once with a TCP reset: undelivered bytes are lost, and the peer gets an error, no end of file."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def _receive(reader: asyncio.StreamReader, *, startup: bool = False) -> bytes:
    """One message, or nothing at the end of the stream. Packets before the start of a session have no kind."""
    try:
        kind = b"" if startup else await reader.readexactly(1)
        size = await reader.readexactly(4)
        return kind + size + await reader.readexactly(max(0, int.from_bytes(size, "big") - 4))
    except (OSError, asyncio.IncompleteReadError):
        return b""


@dataclass
class _Exchange:
    """The answers that a server still owes its client: one ReadyForQuery for each Query, Sync and FunctionCall."""

    owed: int = 0
    unsynced: bool = False
    status: bytes = b"I"

    def is_answered(self, *statuses: bytes) -> bool:
        return not self.owed and not self.unsynced and self.status in statuses

    def note_request(self, message: bytes) -> None:
        if message[:1] in (b"Q", b"S", b"F"):
            self.owed += 1
            self.unsynced = False
        elif message[:1] in (b"P", b"B", b"D", b"E", b"C", b"H"):
            self.unsynced = True

    def note_answer(self, message: bytes) -> None:
        if message[:1] == b"Z":
            self.owed = max(0, self.owed - 1)
            self.status = message[5:6]


class _Proxy:
    """A listener with a thread and an event loop of its own. A context manager; ``port`` is known once it started."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.port = 0
        self.connections_open = self.connections_total = 0
        self._stopping = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._failures: list[BaseException] = []

    def start(self) -> Self:
        """Listen."""
        started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(started),), name="proxy", daemon=True)
        self._thread.start()
        assert started.wait(CALL_TIMEOUT_S), "the proxy does not start"
        return self

    def stop(self) -> None:
        """Drop every connection and end the thread. Raises the first error of the proxy itself, if there was one."""
        if self.port:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(CALL_TIMEOUT_S)
            assert not self._thread.is_alive(), "the proxy does not stop"
        if self._failures:
            raise self._failures.pop(0)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        # Holds the port without listening: while the listener is closed, connections are refused and the port is ours.
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.port = reserved.getsockname()[1]
            await self._listen(True)
            started.set()
            await self._stopping.wait()
            await self._listen(False)
            await self._cancel_tasks()
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0.001)  # the aborted sockets are closed in the next turn of the loop

    async def _listen(self, wanted: bool) -> None:
        if wanted and self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        elif not wanted and self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)
        self.connections_total += 1
        self.connections_open += 1
        self._spawn(self._serve(reader, writer)).add_done_callback(lambda _: self._drop_client(writer))

    def _drop_client(self, writer: asyncio.StreamWriter) -> None:
        self.connections_open -= 1
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.upstream)
        self._transports.add(writer.transport)
        return reader, writer

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):  # a peer that went away is no failure
            self._failures.append(error)

    async def _cancel_tasks(self) -> None:
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Fatal(Exception):
    """The client gets this as its last message."""

    def __init__(self, text: str, sqlstate: str = "08P01") -> None:
        super().__init__(text)
        self.answer = _message(b"E", "SFATAL", "VFATAL", f"C{sqlstate}", f"M{text}", tail=b"\0")


@dataclass(eq=False)
class _Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    server: _Server | None = None
    last_slot: int = -1


@dataclass(eq=False)
class _Server:
    slot: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: bytes = b""
    exchange: _Exchange = field(default_factory=_Exchange)
    client: _Client | None = None
    cancels: int = 0


class TransactionPooler(_Proxy):
    """PgBouncer with ``pool_mode = transaction`` and without support for prepared statements.

    A client holds a server connection from its first message until the server reports that no transaction is open, and
    next time gets another one if another is free. Nothing resets a server connection in between: what a session left
    behind (SET, prepared statements, LISTEN, session locks) is lost to the client and met by the next one. Clients
    wait in the order they came. Only the ``user`` and ``database`` of the pool are let in, without a password.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        user: str,
        database: str,
        password: str | None = None,
        server_connections: int = 3,
        max_waiting: int = 100,
        query_wait_timeout_s: float = 10.0,
    ) -> None:
        super().__init__(host, port)
        self.transactions = 0  # how often a client was given a server connection
        self.server_logins = 0
        self.waiting = 0
        self.lost_notifications = 0  # arrived while no client held the server connection
        self._login = {"user": user, "database": database}
        self._password = password
        self._max_waiting = max_waiting
        self._wait_s = query_wait_timeout_s
        self._servers: list[_Server | None] = [None] * server_connections
        self._idle = deque(range(server_connections))
        self._turns = asyncio.Semaphore(server_connections)
        self._clients: dict[bytes, _Client] = {}
        self._reports = b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        try:
            while client.key not in self._clients and (packet := await _receive(reader, startup=True)):
                await self._take_from_stranger(client, packet)
            while (message := await _receive(reader)) and message[:1] != b"X" and not writer.is_closing():
                await self._take_from_client(client, message)
        except _Fatal as fatal:
            writer.write(fatal.answer)
        finally:
            self._clients.pop(client.key, None)
            if (server := client.server) is not None:
                if not server.exchange.is_answered(b"I"):  # in the middle of a transaction: no client can use it
                    self._drop(server)
                self._unlink(server)

    async def _take_from_stranger(self, client: _Client, packet: bytes) -> None:
        if packet[4:8] in (_TLS, _GSS):
            client.writer.write(b"N")
            return
        if packet[4:8] == _CANCEL:
            await self._cancel(packet[8:16])
            client.writer.close()
            return
        if packet[4:8] != _PROTOCOL_3_0:
            raise _Fatal("unsupported protocol")
        words = packet[8:].decode().split("\0")
        for name, value in zip(words[0:-2:2], words[1:-1:2], strict=False):
            if name in self._login and value != self._login[name]:
                raise _Fatal(f"no such {name} in this pool: {value}", "28000")
            if name not in self._login and name.lower() not in ACCEPTED_PARAMETERS:
                raise _Fatal(f"unsupported startup parameter: {name}")
        if not self.server_logins:  # only a server knows the parameters to report
            self._unlink(await self._link(client))
        self._clients[client.key] = client
        welcome = _message(b"R", head=bytes(4)) + self._reports + _message(b"K", head=client.key)
        client.writer.write(welcome + _message(b"Z", head=b"I"))

    async def _take_from_client(self, client: _Client, message: bytes) -> None:
        server = client.server
        if server is None:
            if message[:1] in (b"d", b"c", b"f"):  # the rest of a COPY that failed: a server ignores it
                return
            server = await self._link(client)
            self.transactions += 1
            if getattr(client.reader, "_eof", False) or client.reader.exception() is not None:  # it has left the queue
                return
        server.exchange.note_request(message)
        server.writer.write(message)

    async def _link(self, client: _Client) -> _Server:
        if self._turns.locked() and self.waiting >= self._max_waiting:
            raise _Fatal("too many clients wait for a server connection", "53300")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turns.acquire()
        except TimeoutError:
            raise _Fatal("query_wait_timeout") from None
        finally:
            self.waiting -= 1
        slot = next((slot for slot in self._idle if slot != client.last_slot), self._idle[0])
        self._idle.remove(slot)
        try:
            server = self._servers[slot] or await self._log_in(slot)
        except BaseException as error:
            if (unfinished := self._servers[slot]) is not None:
                self._drop(unfinished)
            self._free(slot)
            if isinstance(error, OSError):  # TimeoutError is one too
                raise _Fatal(f"server login failed: {error}") from error
            raise
        client.server, client.last_slot, server.client = server, slot, client
        return server

    def _free(self, slot: int) -> None:
        self._idle.append(slot)
        self._turns.release()

    def _unlink(self, server: _Server) -> None:
        if server.client is not None:
            server.client.server, server.client = None, None
            if not server.cancels:  # a cancel request on its way must not meet the next client
                self._free(server.slot)

    def _drop(self, server: _Server) -> None:
        if self._servers[server.slot] is server:
            self._servers[server.slot] = None
        server.writer.write(_message(b"X"))
        server.writer.close()

    async def _log_in(self, slot: int) -> _Server:
        words = [word for pair in self._login.items() for word in pair]
        async with asyncio.timeout(self._wait_s):
            server = self._servers[slot] = _Server(slot, *await self._connect())
            server.writer.write(_message(b"", *words, head=_PROTOCOL_3_0, tail=b"\0"))
            while (message := await _receive(server.reader))[:1] != b"Z":
                kind, body = message[:1], message[5:]
                if kind == b"R" and body == struct.pack("!i", 3) and self._password is not None:
                    server.writer.write(_message(b"p", self._password))
                elif kind in (b"", b"E") or (kind == b"R" and any(body)):
                    raise ConnectionError(repr(body))
                elif kind == b"S" and not self.server_logins:  # said twice after a failed login, which does no harm
                    self._reports += message
                elif kind == b"K":
                    server.key = body
        self.server_logins += 1
        self._spawn(self._relay_answers(server))
        return server

    async def _relay_answers(self, server: _Server) -> None:
        while message := await _receive(server.reader):
            server.exchange.note_answer(message)
            if server.client is not None:
                server.client.writer.write(message)
                if message[:1] == b"Z" and server.exchange.is_answered(b"I"):
                    self._unlink(server)
            elif message[:1] == b"A":
                self.lost_notifications += 1
        self._drop(server)
        if server.client is not None:
            server.client.writer.write(_Fatal("server conn crashed?").answer)
            server.client.writer.close()
            self._unlink(server)

    async def _cancel(self, key: bytes) -> None:
        client = self._clients.get(key)
        if client is None or (server := client.server) is None:
            return
        server.cancels += 1
        try:
            reader, writer = await self._connect()
            with contextlib.closing(writer):
                writer.write(_message(b"", head=_CANCEL + server.key))
                await reader.read()  # the server closes the connection once the signal is sent
        finally:
            server.cancels -= 1
            if not server.cancels and server.client is None:
                self._free(server.slot)


class _Relay:
    """One connection through a :class:`FaultProxy`, and the requests of its client."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.exchange = _Exchange()
        self.cutting = False
        self._statements: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    def resolve(self, message: bytes) -> bytes:
        """The request in that message: for Execute the text and the arguments of its statement."""
        kind, (name, _, rest) = message[:1], message[5:].partition(b"\0")
        if kind == b"P":
            self._statements[name] = rest
        elif kind == b"B":
            self._portals[name] = self._statements.get(rest.partition(b"\0")[0], b"") + rest
        elif kind == b"E":
            return self._portals.get(name, b"")
        return message if kind in (b"Q", b"F", b"d") else b""


class FaultProxy(_Proxy):
    """A relay in front of PostgreSQL that fails on request. A switch has been made when its method returns.

    TLS is answered with no. A pattern is looked for in a message's request: the text of a simple query,
    or the text and arguments of the prepared statement that an Execute runs, whenever that was prepared.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.hits = 0  # connections that a pattern has cut
        self._before_request: list[bytes] = []
        self._before_answer: list[bytes] = []
        self._resetting = False
        self._flowing = asyncio.Event()
        self._flowing.set()

    def pass_through(self) -> None:
        """Relay and accept everything again; forget the patterns. Deliver the messages held back by :meth:`freeze`."""
        self._before_request.clear()
        self._before_answer.clear()
        self._loop.call_soon_threadsafe(self._flowing.set)
        self._accept_connections(True, reset=False)

    def cut_all(self) -> None:
        """Reset every open connection, on both sides. New ones are not affected."""
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(CALL_TIMEOUT_S)

    def refuse(self, *, reset: bool = False) -> None:
        """Refuse new connections; with ``reset`` accept them and reset them at once. Open ones are not affected."""
        self._accept_connections(reset, reset=reset)

    def freeze(self) -> None:
        """Keep connections, accept new ones, and relay nothing in either direction, not even the end of one."""
        self._flowing.clear()

    def cut_before_answer(self, pattern: bytes, *, times: int = 1) -> None:
        """Let the server execute the request with the pattern, then reset the client's connection without an answer."""
        self._before_answer.extend([pattern] * times)

    def cut_before_request(self, pattern: bytes, *, times: int = 1) -> None:
        """Reset the client's connection before the server gets the request with the pattern."""
        self._before_request.extend([pattern] * times)

    def _accept_connections(self, wanted: bool, *, reset: bool) -> None:
        self._resetting = reset
        asyncio.run_coroutine_threadsafe(self._listen(wanted), self._loop).result(CALL_TIMEOUT_S)

    async def _cut_all(self) -> None:
        for transport in list(self._transports):
            _reset(transport)
        await self._cancel_tasks()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._resetting:
            _reset(writer.transport)
            return
        await self._flowing.wait()
        server_reader, server_writer = await self._connect()
        relay = _Relay(writer, server_writer)
        pumps = [self._spawn(self._requests(relay, reader)), self._spawn(self._answers(relay, server_reader))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            server_writer.close()

    async def _next(self, reader: asyncio.StreamReader, *, startup: bool = False) -> bytes:
        message = await _receive(reader, startup=startup)
        await self._flowing.wait()
        return message

    async def _requests(self, relay: _Relay, reader: asyncio.StreamReader) -> None:
        while (packet := await self._next(reader, startup=True)) and packet[4:8] in (_TLS, _GSS):
            relay.client.write(b"N")
        relay.server.write(packet)
        while message := await self._next(reader):
            asked = relay.resolve(message)
            if not relay.cutting and self._hit(self._before_request, asked):
                _reset(relay.client.transport)
                return
            relay.cutting = relay.cutting or self._hit(self._before_answer, asked)
            relay.exchange.note_request(message)
            relay.server.write(message)

    async def _answers(self, relay: _Relay, reader: asyncio.StreamReader) -> None:
        while message := await self._next(reader):
            relay.exchange.note_answer(message)
            if not relay.cutting:
                relay.client.write(message)
            elif relay.exchange.is_answered(b"I", b"T", b"E"):
                break
        if relay.cutting:
            _reset(relay.client.transport)

    def _hit(self, patterns: list[bytes], asked: bytes) -> bool:
        hit = next((pattern for pattern in patterns if pattern in asked), None)
        if hit is not None:
            patterns.remove(hit)
            self.hits += 1
        return hit is not None
