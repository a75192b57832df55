"""What a client without a key can send: bytes that cost little to make, and who measures what others feel meanwhile."""

from __future__ import annotations

import http.client
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, PRIORITY_FLAG = 1, 4, 0x20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

WEBHOOK = b"/api/v1/webhooks/stripe/whe_unknown"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def settings(**values: int) -> bytes:
    names = {"header_table_size": 1, "initial_window_size": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", names[name], value) for name, value in values.items()))


def head(method: bytes = b"GET", path: bytes = b"/healthz") -> bytes:
    """The packed pseudo-fields of a request, without the packing table."""
    known = {b"GET": b"\x82", b"POST": b"\x83"}[method]
    return known + b"\x86" + b"\x04" + bytes([len(path)]) + path + b"\x01\x04test"


def requests(count: int, packed: bytes, *, flags: int = END_STREAM | END_HEADERS, after: bytes = b"") -> bytes:
    """That many streams; ``after``: the payload of a RST_STREAM that follows each."""
    made = []
    for stream in range(1, 2 * count, 2):
        made.append(frame(HEADERS, flags, stream, packed))
        if after:
            made.append(frame(RST_STREAM, 0, stream, after))
    return b"".join(made)


OPENING = PREFACE + settings()
STUCK = PREFACE + settings(initial_window_size=0)
CANCEL = struct.pack("!I", 8)
_TABLE_ENTRY = b"\x40\x01x\x7f\x81\x1e" + b"a" * 4000  # the literal x: aaa..., added to the packing table
_STATIC_FIELDS = b"\x8f" * 1000  # accept-charset, empty: 46 bytes each, unpacked


@dataclass(frozen=True)
class Attack:
    """``opening`` is sent once for each connection, then ``repeated`` again and again. ``count``: of connections."""

    opening: bytes
    repeated: bytes = b""
    count: int = 4


def chunked(path: bytes = WEBHOOK) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"


HTTP2 = {
    "priority": Attack(
        OPENING + b"".join(frame(PRIORITY, 0, n, struct.pack("!IB", 1 << 31, 1)) for n in range(1, 20_001, 2))
    ),
    "priority, again and again": Attack(
        OPENING + b"".join(frame(PRIORITY, 0, n, struct.pack("!IB", 1 << 31, 1)) for n in range(1, 1_801, 2)),
        b"".join(frame(PRIORITY, 0, n, struct.pack("!IB", 1 << 31, 1)) for n in range(1, 1_801, 2)) * 10,
    ),
    "priority in heads": Attack(
        OPENING + requests(90, struct.pack("!IB", 1 << 31, 1) + head(), flags=END_STREAM | END_HEADERS | PRIORITY_FLAG)
    ),
    "settings": Attack(OPENING, settings() * 5000),
    "settings of many values": Attack(OPENING, frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 65_535) * 2700) * 4),
    "ping": Attack(OPENING, frame(PING, 0, 0, b"12345678") * 3000),
    "unknown frames": Attack(OPENING, frame(0xEE, 0, 0) * 5000),
    "rapid reset": Attack(OPENING + requests(2000, head(), after=CANCEL)),
    "rapid reset of bodies": Attack(OPENING + requests(2000, head(b"POST", WEBHOOK), flags=END_HEADERS, after=CANCEL)),
    "window by 1": Attack(
        STUCK + requests(90, head(path=b"/openapi.json")), frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1)) * 4000
    ),
    "window by 1 of a stream": Attack(
        STUCK + requests(90, head(path=b"/openapi.json")), frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 1)) * 4000
    ),
    "empty data": Attack(OPENING + requests(1, head(b"POST", WEBHOOK), flags=END_HEADERS), frame(DATA, 0, 1) * 6000),
    "tiny data": Attack(
        OPENING + requests(1, head(b"POST", WEBHOOK), flags=END_HEADERS), frame(DATA, 0, 1, b" ") * 6000
    ),
    "padding alone": Attack(
        OPENING + requests(1, head(b"POST", WEBHOOK), flags=END_HEADERS), frame(DATA, 8, 1, b"\x31" + bytes(49)) * 1000
    ),
    "empty continuations": Attack(OPENING + frame(HEADERS, 0, 1, head()), frame(CONTINUATION, 0, 1) * 6000),
    "long continuations": Attack(OPENING + frame(HEADERS, 0, 1, head()), frame(CONTINUATION, 0, 1, b"\x8f" * 16_000)),
    "a head without end, other frames": Attack(
        OPENING + frame(HEADERS, 0, 1, head()), frame(PRIORITY, 0, 3, bytes(5)) * 99
    ),
    "packed bytes": Attack(OPENING + requests(90, head() + _TABLE_ENTRY) + requests(90, head() + b"\xbe" * 16)),
    "packed fields": Attack(OPENING + requests(90, head() + _STATIC_FIELDS)),
    "a huge packing table": Attack(PREFACE + settings(header_table_size=2**31 - 1) + requests(90, head())),
    "a frame of 16 MiB": Attack(OPENING + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", b"x" * 65_536),
    "many bodies that never come": Attack(OPENING + requests(90, head(b"POST", WEBHOOK), flags=END_HEADERS), count=20),
    "odd methods": Attack(OPENING + requests(90, b"\x02\x04G\xc3\xa9T" + head()[1:])),
}
HTTP1 = {
    "pipelined": Attack(b"", b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n" * 1000),
    "tiny chunks": Attack(chunked(), b"1\r\nx\r\n" * 10_000),
    "chunks with extensions": Attack(chunked(), b"1;" + b"a" * 8000 + b"\r\nx\r\n"),
    "a chunk size without end": Attack(chunked(), b"0" * 65_536),
    "trailers without end": Attack(chunked() + b"0\r\n", b"a: b\r\n" * 8000),
    "tiny chunks to who does not read": Attack(chunked(b"/healthz"), b"1\r\nx\r\n" * 10_000),
    "fields": Attack(b"GET / HTTP/1.1\r\nhost: test\r\n", b"a:b\r\n" * 13_000),
    "a field without end": Attack(b"GET / HTTP/1.1\r\na: ", b"b" * 65_536),
    "empty lines": Attack(b"", b"\r\n" * 30_000),
    "heads that stop": Attack(b"GET / HTTP/1.1\r\nhost: te", count=200),
    "nothing": Attack(b"", count=400),
    "bodies that never come": Attack(
        b"POST " + WEBHOOK + b" HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n", count=200
    ),
    "large bodies that stop": Attack(
        b"POST " + WEBHOOK + b" HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n" + bytes(999_999), count=100
    ),
    "h2c": Attack(
        b"GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
    ),
    "websockets without a key": Attack(
        b"GET /ws HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"\x81\x80abcd" * 5000,
    ),
}


@dataclass
class _Connection:
    socket: socket.socket
    unsent: memoryview


class Attacker:
    """Keeps up the connections of an attack, in a thread, and opens them again when they end."""

    def __init__(self, port: int, attack: Attack) -> None:
        self._port = port
        self._attack = attack
        self._selector = selectors.DefaultSelector()
        self._ends = threading.Event()
        self.bytes_sent = self.ended = 0

    @contextmanager
    def running(self) -> Iterator[Attacker]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            thread.join()
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()

    def _run(self) -> None:
        for _ in range(self._attack.count):
            self._connect()
        while not self._ends.is_set():
            for key, events in self._selector.select(0.01):
                self._handle(key.data, events)
            self._ends.wait(0.001)

    def _connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(("127.0.0.1", self._port))
        new = _Connection(connection, memoryview(self._attack.opening))
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, new)

    def _handle(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not connection.socket.recv(1 << 18):
                raise ConnectionError
            if events & selectors.EVENT_WRITE:
                self._send(connection)
        except BlockingIOError:
            return
        except OSError:
            self.ended += 1
            self._selector.unregister(connection.socket)
            connection.socket.close()
            self._connect()

    def _send(self, connection: _Connection) -> None:
        if not connection.unsent:
            connection.unsent = memoryview(self._attack.repeated)
        if not connection.unsent:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            return
        sent = connection.socket.send(connection.unsent)
        self.bytes_sent += sent
        connection.unsent = connection.unsent[sent:]


@dataclass
class Felt:
    """Durations of requests of others, in seconds, by path."""

    durations_s: dict[str, list[float]] = field(default_factory=dict)

    def worst_s(self, path: str) -> float:
        return max(self.durations_s[path])

    def p99_s(self, path: str) -> float:
        durations_s = sorted(self.durations_s[path])
        return durations_s[int(len(durations_s) * 0.99)]


class Watcher:
    """Asks for some pages in turn, over one connection each, until it is told to stop. Each must be answered 200."""

    def __init__(self, port: int, paths: Mapping[str, Mapping[str, str]], pause_s: float = 0.005) -> None:
        self._port = port
        self._paths = paths
        self._pause_s = pause_s

    @contextmanager
    def watching(self) -> Iterator[Felt]:
        felt = Felt({path: [] for path in self._paths})
        ends, faults = threading.Event(), list[BaseException]()
        thread = threading.Thread(target=self._watch, args=(felt, ends, faults.append))
        thread.start()
        try:
            yield felt
        finally:
            ends.set()
            thread.join()
        if faults:
            raise faults[0]

    def _watch(self, felt: Felt, ends: threading.Event, fail: Callable[[BaseException], None]) -> None:
        connections = {path: http.client.HTTPConnection("127.0.0.1", self._port, timeout=30) for path in self._paths}
        try:
            while not ends.wait(self._pause_s):
                for path, fields in self._paths.items():
                    start_s = time.perf_counter()
                    connections[path].request("GET", path, headers=dict(fields))
                    answer = connections[path].getresponse()
                    answer.read()
                    felt.durations_s[path].append(time.perf_counter() - start_s)
                    assert answer.status == 200, (path, answer.status)
        except BaseException as fault:
            fail(fault)
        finally:
            for connection in connections.values():
                connection.close()
