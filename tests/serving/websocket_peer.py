"""A WebSocket client that does what it is told, wrong things too, and an application that remembers what it saw."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator

from starlette.types import Message, Receive, Scope, Send

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)
_MASK = b"\1\2\3\4"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A client's frame; ``rsv``: its three reserved bits as a number."""
    size = len(payload)
    bits = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([bits | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", bits | 126, size)
    else:
        head += struct.pack("!BQ", bits | 127, size)
    if masked:
        head += _MASK
        payload = bytes(byte ^ _MASK[index % 4] for index, byte in enumerate(payload))
    return head + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def parsed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(opcode, payload) of each of a server's frames. Fails at half a frame."""
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= start + size
        yield data[0] & 15, data[start : start + size]
        data = data[start + size :]


class Peer:
    """One connection over HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connected(cls, port: int, *, receive_buffer: int | None = None, tls: object = None) -> Peer:
        raw = socket.socket()
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        limit = receive_buffer or 1 << 16
        name = {"server_hostname": "127.0.0.1"} if tls else {}
        return cls(*await asyncio.open_connection(sock=raw, ssl=tls, limit=limit, **name))

    @classmethod
    async def opened(cls, port: int, path: str = "/", *, fields: bytes = b"", **settings: object) -> Peer:
        """Connected, and the handshake accepted."""
        peer = await cls.connected(port, **settings)
        peer.send(HANDSHAKE % (path.encode(), fields))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 101"), head
        assert b"deflate" not in head
        return peer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def frame(self) -> tuple[int, bytes]:
        """The server's next frame."""
        head = await self.reader.readexactly(2)
        extended = {126: 2, 127: 8}.get(head[1], 0)
        size = int.from_bytes(await self.reader.readexactly(extended), "big") if extended else head[1]
        return head[0] & 15, await self.reader.readexactly(size)

    async def rest(self) -> list[tuple[int, bytes]]:
        """All frames until the server closes TCP. Fails when it resets it."""
        return list(parsed(await self.reader.read()))

    async def close_code(self) -> int:
        """Of the server's close frame, which must be the last frame; 1006 when there is none. Then TCP has ended."""
        frames = await self.rest()
        codes = [int.from_bytes(payload[:2], "big") or 1005 for opcode, payload in frames if opcode == CLOSE]
        assert len(codes) <= 1
        assert not codes or frames[-1][0] == CLOSE
        return codes[0] if codes else 1006

    def abort(self) -> None:
        """A reset."""
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


class Recorder:
    """An application: accepts, answers messages by path, and remembers what it received.

    ``/``: nothing is answered. ``/echo``: texts come back. ``/close``: the first message is answered by a close with
    4508. ``/later``: not accepted before something comes. ``/flood``: sends without end; a message cancels that,
    and then comes a close with 4508. ``/leave``: ends after the first message.
    """

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.ended = 0
        self.started = 0
        self.extensions: dict[str, object] = {}

    @property
    def disconnects(self) -> list[tuple[int, str]]:
        return [(each["code"], each["reason"]) for each in self.received if each["type"] == "websocket.disconnect"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started += 1
        self.extensions = scope["extensions"]
        try:
            await self._serve(scope["path"], receive, send)
        finally:
            self.ended += 1

    async def _serve(self, path: str, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if path == "/later":
            self.received.append(await receive())
            return
        await send({"type": "websocket.accept"})
        flood = asyncio.ensure_future(_flood(send)) if path == "/flood" else None
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                self.received.append(message)
                if path == "/echo":
                    await send({"type": "websocket.send", "text": message["text"]})
                elif path == "/leave":
                    return
                elif path in ("/close", "/flood"):
                    if flood is not None:
                        flood.cancel()
                        await asyncio.wait([flood])
                    await send({"type": "websocket.close", "code": 4508, "reason": "slow"})
            self.received.append(message)
        finally:
            if flood is not None:
                flood.cancel()


async def _flood(send: Send) -> None:
    while True:
        await send({"type": "websocket.send", "text": "x" * 1000})
        await asyncio.sleep(0)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def left_behind(tasks_before: set[asyncio.Task], descriptors_before: int, timeout_s: float = 5) -> tuple:
    """Tasks and descriptors too many, once there are none or the time is over."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while True:
        surplus = len(asyncio.all_tasks() - tasks_before), max(0, descriptors() - descriptors_before)
        if surplus == (0, 0) or asyncio.get_running_loop().time() > deadline_s:
            return surplus
        await asyncio.sleep(0.02)


async def until(condition, timeout_s: float = 10) -> None:
    """Wait until that is true; fails when it does not become so."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
