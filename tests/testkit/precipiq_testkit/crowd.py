"""Many stream clients in one process of their own, fast enough not to be what a measurement measures.

Raw sockets and ``selectors``: frames are cut out of the bytes; every frame of an entry is checked to follow the one
before by seq and hash. Talks to its parent in lines: commands on standard input, JSON on standard output.

    parent: {"port", "path", "count", "stuck", "check"}     whom to connect to; ``stuck`` clients never read
    crowd:  {"connected": n}
    crowd:  {"seen": n}                                     entries that every reading client has, told as it grows
    parent: {"until": n}                                    leave once every reading client has that many
    crowd:  {"frames", "bytes", "wrong", "closes", "latencies_ms"}

``latencies_ms``: from the number after ``"sent":`` in a frame, seconds since the epoch, until it was read.
"""

from __future__ import annotations

import base64
import json
import os
import re
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_LINK = re.compile(rb'"seq":(\d+),"id":"[^"]*","timestamp":"[^"]*","prev_hash":"(\w+)","hash":"(\w+)"')
_SENT = re.compile(rb'"sent":(\d+\.\d+)')
_RECEIVE_BYTES = 1 << 18
_SMALL_BUFFER_BYTES = 4096
_SAMPLE = 10


@dataclass(slots=True)
class Member:
    """One client."""

    socket: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    entries: int = 0
    seq: int | None = None
    hash: bytes = b""
    is_open: bool = False
    close: int | None = None


class _Reader:
    """Reads for all members. ``check``: whether entries' links are checked; without, frames are only counted."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.selector = selectors.DefaultSelector()
        self.check = task["check"]
        self.members = [self._connect(task, reads=True) for _ in range(task["count"])]
        self.stuck = [self._connect(task, reads=False) for _ in range(task["stuck"])]
        self.frames = self.bytes = self.wrong = 0
        self.latencies_ms: list[float] = []

    def _connect(self, task: dict[str, Any], *, reads: bool) -> Member:
        connection = socket.socket()
        if not reads:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
        connection.connect(("127.0.0.1", task["port"]))
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {task['path']} HTTP/1.1\r\nHost: 127.0.0.1:{task['port']}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        member = Member(connection)
        if reads:
            self.selector.register(connection, selectors.EVENT_READ, member)
        return member

    def round(self, timeout_s: float) -> bool:
        """Read what there is; whether there was a line from the parent."""
        asked = False
        for key, _ in self.selector.select(timeout_s):
            if key.data is None:
                asked = True
            else:
                self._read(key.data)
        return asked

    def _read(self, member: Member) -> None:
        try:
            data = member.socket.recv(_RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            member.close = member.close or 1006
            self.selector.unregister(member.socket)
            member.socket.close()
            return
        self.bytes += len(data)
        member.buffer += data
        if not member.is_open:
            head, separator, rest = bytes(member.buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                raise SystemExit(f"refused: {head[:200]!r}")
            member.is_open = True
            member.buffer = bytearray(rest)
        self._cut(member)

    def _cut(self, member: Member) -> None:
        buffer, position, size = member.buffer, 0, len(member.buffer)
        while size - position >= 2:
            length, start = buffer[position + 1], position + 2
            if length == 126:
                if size - position < 4:
                    break
                length, start = int.from_bytes(buffer[position + 2 : position + 4], "big"), position + 4
            elif length == 127:
                if size - position < 10:
                    break
                length, start = int.from_bytes(buffer[position + 2 : position + 10], "big"), position + 10
            if size - start < length:
                break
            self._frame(member, buffer[position] & 15, bytes(buffer[start : start + length]))
            position = start + length
        del buffer[:position]

    def _frame(self, member: Member, opcode: int, data: bytes) -> None:
        if opcode == 8:
            member.close = struct.unpack("!H", data[:2])[0] if data else 1005
        elif opcode == 9:
            member.socket.sendall(b"\x8a" + bytes((0x80 | len(data),)) + b"\0\0\0\0" + data)
        if opcode > 2:
            return
        self.frames += 1
        if not self.check:
            member.entries += 1
            return
        link = _LINK.search(data, 0, 400)
        if link is None:
            return  # about the stream itself
        member.entries += 1
        seq = int(link[1])
        if member.seq is not None and (seq != member.seq + 1 or link[2] != member.hash):
            self.wrong += 1
        member.seq, member.hash = seq, link[3]
        if self.frames % _SAMPLE == 0:
            sent = _SENT.search(data)
            if sent is not None:
                self.latencies_ms.append((time.time() - float(sent[1])) * 1000)


def main() -> None:
    """The process."""
    orders = os.fdopen(0, "rb", buffering=0)
    task = json.loads(orders.readline())
    reader = _Reader(task)
    everybody = [*reader.members]
    while not all(member.is_open or member.close for member in everybody):
        reader.round(1.0)
    _tell(connected=len(everybody))
    reader.selector.register(orders, selectors.EVENT_READ, None)
    until: int | None = None
    told = 0
    while True:
        if reader.round(0.05):
            line = orders.readline()
            until = json.loads(line)["until"] if line else 0
        alive = [member.entries for member in everybody if member.close is None]
        seen = min(alive, default=0)
        if seen > told:
            told = seen
            _tell(seen=seen)
        if until is not None and (seen >= until or not alive):
            break
    closes = [member.close for member in everybody if member.close is not None]
    _tell(
        frames=reader.frames,
        bytes=reader.bytes,
        wrong=reader.wrong,
        closes=closes,
        latencies_ms=sorted(reader.latencies_ms),
    )


def _tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Crowd:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.seen = 0

    def wait_for(self, entries: int) -> None:
        """Until every reading client has that many entries. Raises ``RuntimeError`` when the crowd ends before."""
        while self.seen < entries:
            self.seen = self._line()["seen"]

    def finish(self, entries: int) -> dict[str, Any]:
        """Wait until every reading client has that many, and let them go; what they saw."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"until": entries}).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            line = self._line()
            if "frames" in line:
                return line

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the crowd has ended")
        told: dict[str, Any] = json.loads(line)
        return told


@contextmanager
def crowd(url: str, path: str, count: int, *, stuck: int = 0, check: bool = True) -> Iterator[Crowd]:
    """So many clients of one path, connected. They are gone afterwards."""
    command = [sys.executable, "-m", "precipiq_testkit.crowd"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        task = {"port": int(url.rpartition(":")[2]), "path": path, "count": count, "stuck": stuck, "check": check}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
        members = Crowd(process)
        members._line()
        yield members
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


if __name__ == "__main__":
    main()
