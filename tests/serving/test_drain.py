"""The gate's end: who asked to be told is told, the others are closed, nobody new comes in."""

from __future__ import annotations

import asyncio
import resource
import struct
import subprocess
import sys

import pytest
from starlette.types import Receive, Scope, Send

from precipiq_hypercorn.drain import ON_DRAIN
from tests.serving.websocket_peer import CLOSE, HANDSHAKE, Peer, Recorder, close_frame

pytestmark = pytest.mark.anyio

WAIT_S = 30
LONG_S = 25  # a drain that takes this long has failed


class Goodbye:
    """A WebSocket that says 4503 at the drain; ``callback``: what it registers instead."""

    def __init__(self, callback: object = None) -> None:
        self._callback = callback
        self.opened = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        draining = asyncio.Event()
        dict(scope)[ON_DRAIN](self._callback or draining.set)  # layers copy the scope
        await send({"type": "websocket.accept"})
        self.opened += 1
        waiting = asyncio.ensure_future(draining.wait())
        receiving = asyncio.ensure_future(until_disconnect(receive))
        await asyncio.wait([waiting, receiving], return_when=asyncio.FIRST_COMPLETED)
        if draining.is_set():
            await send({"type": "websocket.close", "code": 4503, "reason": "come back"})
        waiting.cancel()
        await receiving


async def until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def goodbye_of(peer: Peer) -> bytes:
    """The close frame's payload; answered."""
    opcode, payload = await peer.frame()
    assert opcode == CLOSE
    peer.send(close_frame(1000))
    assert await peer.reader.read() == b""
    peer.close()
    return payload


async def test_a_websocket_that_asked_to_be_told_says_goodbye_in_its_own_way(served) -> None:
    async with served(Goodbye(), drain_timeout_s=LONG_S) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        server.stop.set()
        assert await goodbye_of(peer) == struct.pack("!H", 4503) + b"come back"


def fail() -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("app", [Recorder(), Goodbye(fail)], ids=["did not ask", "failed"])
async def test_any_other_is_closed_with_1012(served, app) -> None:
    async with served(app, drain_timeout_s=LONG_S) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        server.stop.set()
        assert await goodbye_of(peer) == struct.pack("!H", 1012) + b"restarting"


async def test_whoever_was_told_and_goes_on_is_cut_off_with_1012_at_the_deadline(served) -> None:
    async with served(Goodbye(lambda: None), drain_timeout_s=0.3) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        server.stop.set()
        assert await goodbye_of(peer) == struct.pack("!H", 1012) + b"restarting"


async def test_an_answer_without_end_ends_when_it_is_told_and_the_drain_with_it(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        draining = asyncio.Event()
        scope[ON_DRAIN](draining.set)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await draining.wait()
        await send({"type": "http.response.body", "body": b"event: end\n\n"})

    async with served(app, drain_timeout_s=LONG_S) as server, asyncio.timeout(WAIT_S / 2):
        peer = await Peer.connected(server.port)
        peer.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        await peer.reader.readuntil(b"data: 1\n\n")
        server.stop.set()
        assert b"event: end" in await peer.reader.read()
        peer.close()
        await server.task


async def test_who_asks_during_the_drain_is_told_at_once(served) -> None:
    told: list[bool] = []
    reached, go = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.set()
        await go.wait()
        scope[ON_DRAIN](lambda: told.append(True))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with served(app, drain_timeout_s=LONG_S) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port)
        peer.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        await reached.wait()
        server.stop.set()
        while not server.gate.draining:
            await asyncio.sleep(0.01)
        go.set()
        assert (await peer.head()).startswith(b"HTTP/1.1 204")
        assert told == [True]
        peer.close()


async def test_what_has_ended_is_not_told(served) -> None:
    told: list[bool] = []
    registers = []
    tasks: list[asyncio.Task[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        registers.append(scope[ON_DRAIN])
        scope[ON_DRAIN](lambda: told.append(True))
        await send({"type": "http.response.start", "status": 204, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port)
        peer.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        await peer.reader.read()
        peer.close()
        await asyncio.wait(tasks)
        registers[0](lambda: told.append(True))
        await server.gate.drain(1)
    assert told == []


async def test_a_handshake_during_the_drain_is_refused_with_503_in_the_documented_shape(served) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        await server.gate.drain(0.1)
        peer = await Peer.connected(server.port)
        peer.send(HANDSHAKE % (b"/", b""))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 2" in head
        assert b'"code":"unavailable"' in await peer.reader.read()
        peer.close()


async def test_five_hundred_websockets_all_get_their_code_at_once(served) -> None:
    app = Goodbye()
    async with served(app, drain_timeout_s=LONG_S) as server, asyncio.timeout(WAIT_S):
        peers: list[Peer] = []
        for _ in range(10):
            peers += await asyncio.gather(*(Peer.opened(server.port) for _ in range(50)))
        goodbyes = [asyncio.ensure_future(goodbye_of(peer)) for peer in peers]
        server.stop.set()
        async with asyncio.timeout(10):  # 2 s is meant; this machine may be busy
            payloads = await asyncio.gather(*goodbyes)
            await server.task
    assert app.opened == 500
    assert set(payloads) == {struct.pack("!H", 4503) + b"come back"}


def test_serving_raises_the_limit_of_open_files() -> None:
    program = """
import resource
from precipiq_peers.open_files import raise_open_files_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
raise_open_files_limit()
raise_open_files_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, limit = done.stdout.splitlines()
    assert int(limit) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert len([line for line in lines if "open files" in line]) == 1
