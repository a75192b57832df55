"""Clients that do not take what is sent to them: their connections end in bounded time, and leave nothing."""

from __future__ import annotations

import asyncio
import logging
import struct

import pytest
from starlette.types import Receive, Scope, Send

from precipiq_hypercorn import websockets
from precipiq_peers.app_events import AppEvents
from tests.serving.test_protocols import client_context, tls_of
from tests.serving.websocket_peer import (
    CLOSE,
    HANDSHAKE,
    TEXT,
    Peer,
    Recorder,
    descriptors,
    frame,
    left_behind,
    until,
)

pytestmark = pytest.mark.anyio

WAIT_S = 20
SMALL = {"socket_send_buffer_bytes": 4096, "close_timeout_s": 0.5}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def short_wait(monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 0.2)


async def stuck(port: int, path: str = "/flood", **settings: object) -> Peer:
    """A WebSocket whose application waits to send."""
    peer = await Peer.opened(port, path, receive_buffer=4096, **settings)
    await asyncio.sleep(0.3)
    return peer


async def trickle(peer: Peer) -> None:
    """Read a little now and then, for ever."""
    while await peer.reader.read(100):
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "tls"),
    [("nothing", False), ("trickle", False), ("half-closed", False), ("nothing", True), ("trickle", True)],
)
async def test_a_peer_that_does_not_read_is_gone_soon_after_the_application_closes(
    served, certificate, how, tls
) -> None:
    app = Recorder()
    settings = {**SMALL, "tls": tls_of(certificate)} if tls else SMALL
    async with served(app, **settings) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await stuck(server.port, tls=client_context_h11() if tls else None)
        reading = None
        if how == "half-closed":
            peer.writer.write_eof()
        else:
            peer.send(frame(TEXT, b"close now"))
        if how == "trickle":
            reading = asyncio.create_task(trickle(peer))
        await until(lambda: app.ended)
        await until(lambda: descriptors() <= descriptors_before + 1)  # the peer's own
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


def client_context_h11() -> object:
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def test_without_the_cure_such_a_peer_stays(served, monkeypatch) -> None:
    async with served(Recorder(), **SMALL) as server, asyncio.timeout(WAIT_S):
        descriptors_before = descriptors()
        monkeypatch.setattr("precipiq_hypercorn.connections.CuredConnection._bound_close", lambda self: None)
        peer = await stuck(server.port)
        peer.send(frame(TEXT, b"close now"))
        await asyncio.sleep(2)
        assert descriptors() == descriptors_before + 2
        peer.abort()


async def test_a_close_frame_gets_through_after_a_send_that_was_cancelled(served) -> None:
    app = Recorder()
    async with served(app, **{**SMALL, "close_timeout_s": 10}) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await stuck(server.port)
        peer.send(frame(TEXT, b"close now"))
        await asyncio.sleep(0.1)
        *messages, last = await peer.rest()
        assert set(messages) == {(TEXT, b"x" * 1000)}
        assert last == (CLOSE, struct.pack("!H", 4508) + b"slow")
        peer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_no_message_follows_a_close_frame_however_many_tasks_wait_to_send(served, monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 1.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

        async def chatter() -> None:
            for _ in range(200):
                await send({"type": "websocket.send", "text": "x" * 1000})

        chatting = [asyncio.ensure_future(chatter()) for _ in range(5)]
        await asyncio.sleep(0.2)
        await send({"type": "websocket.close", "code": 4000})
        await asyncio.wait(chatting)

    async with served(app, **{**SMALL, "close_timeout_s": 10}) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port, receive_buffer=4096)
        await asyncio.sleep(0.4)
        assert await peer.close_code() == 4000
        peer.close()


async def test_an_application_that_was_cancelled_while_it_waited_to_send_ends_the_connection(served) -> None:
    tasks: list[asyncio.Task] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "x" * 1000})

    async with served(app, **SMALL) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await stuck(server.port)
        tasks[0].cancel()
        await until(lambda: descriptors() <= descriptors_before + 1)
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_a_half_closed_peer_is_gone_though_its_application_never_ends(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * 100_000})
        await asyncio.Event().wait()

    async with served(app, **SMALL) as server, asyncio.timeout(WAIT_S):
        descriptors_before = descriptors()
        peer = await stuck(server.port)
        peer.writer.write_eof()
        await until(lambda: descriptors() <= descriptors_before + 1)
        peer.abort()


async def test_nothing_comes_after_a_disconnect_however_full_the_queue_was() -> None:
    events = AppEvents(1, 1000)
    await events.put({"type": "websocket.connect"})
    late = asyncio.create_task(events.put({"type": "websocket.receive", "bytes": None, "text": "late"}))
    await asyncio.sleep(0)
    await events.put({"type": "websocket.disconnect", "code": 1006, "reason": ""})
    async with asyncio.timeout(WAIT_S):
        await late
        assert [(await events.get())["type"] for _ in range(2)] == ["websocket.connect", "websocket.disconnect"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(events.get(), 0.05)


async def test_an_http_answer_that_is_not_taken_ends_with_its_application(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})

    async with served(app, **SMALL) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.connected(server.port, receive_buffer=4096)
        peer.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        reading = asyncio.create_task(trickle(peer))
        await asyncio.sleep(0.3)
        await until(lambda: descriptors() <= descriptors_before + 1)
        reading.cancel()
        await asyncio.wait([reading])
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_an_idle_connection_whose_answers_are_not_taken_ends_with_its_idle_time(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000")]})
        await send({"type": "http.response.body", "body": b"x" * 50_000})

    async with served(app, keep_alive_timeout_s=0.3, **SMALL) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.connected(server.port, receive_buffer=4096)
        peer.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        await asyncio.sleep(0.2)
        assert descriptors() == descriptors_before + 2
        await until(lambda: descriptors() <= descriptors_before + 1)
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_the_kernels_own_time_out_ends_a_peer_and_says_nothing(served, monkeypatch, caplog) -> None:
    async def time_out(self: object) -> None:
        raise TimeoutError(110, "Connection timed out")

    async with served(Recorder(), **SMALL) as server, asyncio.timeout(WAIT_S):
        monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", time_out)
        peer = await Peer.connected(server.port)
        peer.send(HANDSHAKE % (b"/close", b""), b"")
        await peer.head()
        peer.send(frame(TEXT, b"x"))
        assert await peer.close_code() == 4508
        peer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
