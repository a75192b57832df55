"""The key in the stream's URL reaches no log, at no level, whatever becomes of the handshake."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client

_UPGRADE = (
    "Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

# {key} is replaced; what each is answered with does not matter here.
HANDSHAKES = {
    "accepted": ("/ws/v1/stream?api_key={key}", _UPGRADE),
    "wrong subprotocol": ("/ws/v1/stream?api_key={key}", _UPGRADE + "Sec-WebSocket-Protocol: x, y\r\n"),
    "refused by code": ("/ws/v1/stream?api_key={key}&nope=1", _UPGRADE + "Sec-WebSocket-Protocol: precipiq.v1\r\n"),
    "unknown parameter": ("/ws/v1/stream?api_key={key}&nope=1", _UPGRADE),
    "bad parameter": ("/ws/v1/stream?after_seq=x&api_key={key}", _UPGRADE),
    "key as another parameter": ("/ws/v1/stream?after_hash={key}", _UPGRADE),
    "key as a name": ("/ws/v1/stream?{key}=1", _UPGRADE),
    "two keys": ("/ws/v1/stream?api_key={key}&api_key=x{key}", _UPGRADE),
    "encoded name": ("/ws/v1/stream?api%5Fkey={key}", _UPGRADE),
    "broken encoding": ("/ws/v1/stream?api_key={key}%zz%", _UPGRADE),
    "not UTF-8": ("/ws/v1/stream?x=%ff%fe&api_key={key}", _UPGRADE),
    "raw bytes": ("/ws/v1/stream?x=\xff&api_key={key}", _UPGRADE),
    "semicolons": ("/ws/v1/stream;api_key={key}?a=1;api_key={key}", _UPGRADE),
    "fragment": ("/ws/v1/stream#api_key={key}", _UPGRADE),
    "unknown path": ("/ws/v1/{key}?api_key={key}", _UPGRADE),
    "no upgrade": ("/ws/v1/stream?api_key={key}", "Host: 127.0.0.1\r\n"),
    "no websocket key": ("/ws/v1/stream?api_key={key}", _UPGRADE.replace("Sec-WebSocket-Key", "X")),
    "wrong version": ("/ws/v1/stream?api_key={key}", _UPGRADE.replace(": 13", ": 8")),
    "absolute form": ("http://127.0.0.1/ws/v1/stream?api_key={key}", _UPGRADE),
    "two spaces": ("/ws/v1/stream?api_key= {key}", _UPGRADE),
    "too long": ("/ws/v1/stream?api_key={key}&x=" + "x" * 40_000, _UPGRADE),
    "no host": ("/ws/v1/stream?api_key={key}", _UPGRADE.replace("Host: 127.0.0.1\r\n", "")),
    "events": ("/api/v1/stream?api_key={key}", "Host: 127.0.0.1\r\n"),
    "events, bad parameter": ("/api/v1/stream?api_key={key}&after_seq=x", "Host: 127.0.0.1\r\n"),
    "another endpoint": ("/api/v1/decisions?api_key={key}", "Host: 127.0.0.1\r\n"),
}


@pytest.fixture(scope="module", params=["info", "debug"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    overrides = {"PRECIPIQ__LOGS__LEVEL": request.param}
    with running_server(tmp_path_factory.mktemp("server"), overrides=overrides) as started:
        yield started


def ask(server: ServerProcess, target: str, headers: str) -> bytes:
    """What comes back first; the connection is then broken off."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1"))
        if "Upgrade" in headers:
            with suppress(OSError):
                connection.sendall(b"\x81\x05hello\xff\xff\xff")  # not what a client may send
        with suppress(OSError):
            return connection.recv(65536)
    return b""


@pytest.mark.parametrize("name", HANDSHAKES)
def test_no_log_line_shows_the_key(server: ServerProcess, name: str) -> None:
    client = Client(server)
    key = client.data("POST", "/api-keys", json={"scopes": ["read"]})["key"]
    target, headers = HANDSHAKES[name]
    for secret in (key, key[:-1] + ("a" if key[-1] != "a" else "b")):
        answer = ask(server, target.replace("{key}", secret), headers)
        assert secret.encode() not in answer
    client.data("GET", "/ledger/head")  # what was logged before is written now
    text = server.log_text()
    assert key[8:] not in text
    assert key[8:-1] not in text
    assert "Traceback" not in text
