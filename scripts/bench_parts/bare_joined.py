"""The limit for fan-out by joined frames: one ``transport.write`` a socket for all frames that there are, on a bare event loop.

``BENCH_FRAMES`` frames of ``BENCH_FRAME_BYTES`` bytes go out each time a line comes on standard input. No more of the
WebSocket protocol is spoken than its handshake.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import struct
import sys
from hashlib import sha1

import uvloop

SIZE = int(os.environ["BENCH_FRAME_BYTES"])
JOINED = (b"\x81\x7e" + struct.pack("!H", SIZE) + b"x" * SIZE) * int(os.environ["BENCH_FRAMES"])
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

transports: set[asyncio.Transport] = set()


class Client(asyncio.Protocol):
    """A handshake, then only writing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        if not self.head.endswith(b"\r\n\r\n"):
            return
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", self.head)[1]
        accept = base64.b64encode(sha1(key + MAGIC).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.head = b""
        transports.add(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        transports.discard(self.transport)


def send() -> None:
    os.read(sys.stdin.fileno(), 1)
    for transport in transports:
        transport.write(JOINED)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "127.0.0.1", 0)
    loop.add_reader(sys.stdin.fileno(), send)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(main())
