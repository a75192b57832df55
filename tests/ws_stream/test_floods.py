"""One client that floods the server with tiny frames is shown out, with a key and without; others go on."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess, running_server

FRAMES = {
    "pings": b"\x89\x80\0\0\0\0",
    "pongs": b"\x8a\x80\0\0\0\0",
    "empty messages": b"\x81\x80\0\0\0\0",
    "empty fragments": b"\x00\x80\0\0\0\0",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("server")
    overrides = {"PRECIPIQ__SERVER__WEBSOCKET_FRAMES_PER_SECOND_MAX": "200"}
    with running_server(folder, overrides=overrides) as started:
        yield started


def opened(server: ServerProcess, key: str) -> socket.socket:
    """A WebSocket on a raw socket; a wrong key is accepted too, and then closed."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(
        f"GET /ws/v1/stream?api_key={key} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        "Sec-WebSocket-Protocol: precipiq.v1\r\n\r\n".encode()
    )
    assert b" 101 " in connection.recv(65536)
    return connection


def flood(connection: socket.socket, frame: bytes) -> bytes:
    """Send until the server has had enough; what it said."""
    said, deadline = b"", time.monotonic() + 20
    if frame[0] == 0:
        connection.sendall(b"\x01\x80\0\0\0\0")  # what the fragments continue
    connection.setblocking(False)
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            try:
                connection.send(frame * 500)
            except (BrokenPipeError, ConnectionResetError):
                return said
        with suppress(BlockingIOError):
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return said
            if not piece:
                return said
            said += piece
        time.sleep(0.001)
    raise AssertionError("the server goes on listening")


@pytest.mark.parametrize("what", FRAMES)
def test_a_flood_ends_the_stream_and_nobody_waits_for_it(server: ServerProcess, what: str) -> None:
    connection = opened(server, server.key)
    said = flood(connection, FRAMES[what])
    connection.close()
    code = 4429 if what == "empty messages" else 1008
    if b"\x88" in said:  # the reset may have come first
        assert said.partition(b"\x88")[2][1:3] == code.to_bytes(2, "big")
    assert httpx2.get(f"{server.url}/healthz", timeout=5, trust_env=False).status_code == 200


def test_a_flood_without_a_key_is_cut_off(server: ServerProcess) -> None:
    connection = opened(server, "pq_test_wrong")
    flood(connection, FRAMES["pings"])
    connection.close()
    assert httpx2.get(f"{server.url}/healthz", timeout=5, trust_env=False).status_code == 200
