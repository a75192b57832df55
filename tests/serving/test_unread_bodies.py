"""Whatever a client leaves unread or unfinished, nothing of it stays behind in the server."""

from __future__ import annotations

import asyncio
import os
from itertools import cycle, islice, product

import h2.config
import h2.connection
import pytest
from hypercorn.asyncio import tcp_server
from hypercorn.asyncio.task_group import TaskGroup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from precipiq_peers import unread_body
from precipiq_peers.unread_body import UnreadBody

pytestmark = pytest.mark.anyio

STATUSES = (401, 404, 413, 422, 500)
PIECES = 14  # more than Hypercorn's queue holds
WAIT_S = 10


async def answer(request: Request) -> Response:
    if request.path_params["when"] == "later":
        await asyncio.sleep(0.05)
    return PlainTextResponse("no", request.path_params["status"])


async def fall_silent(websocket: WebSocket) -> None:
    """Takes the connection and leaves without reading a message."""
    await websocket.accept()
    await asyncio.sleep(0.2)


APP = Starlette(
    routes=[
        Route("/{when}/{status:int}", answer, methods=["POST"]),
        WebSocketRoute("/socket", fall_silent),
    ]
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def left_behind(tasks_before: set[asyncio.Task], descriptors_before: int) -> tuple[int, int]:
    """Tasks and descriptors too many, once there are none or waiting any longer is pointless."""
    for _ in range(150):
        surplus = len(asyncio.all_tasks() - tasks_before), max(0, descriptors() - descriptors_before)
        if surplus == (0, 0):
            break
        await asyncio.sleep(0.02)
    return surplus


async def post_h1(port: int, path: str, *, chunked: bool, abort: bool) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        framing = "transfer-encoding: chunked" if chunked else f"content-length: {PIECES * 1000}"
        writer.write(f"POST {path} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n".encode())
        for _ in range(PIECES):
            writer.write(b"1\r\nx\r\n" if chunked else b"x" * 1000)
        if abort:
            await writer.drain()
            writer.transport.abort()
            return 0
        writer.write(b"0\r\n\r\n" if chunked else b"")
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def post_h2(port: int, path: str, *, chunked: bool, abort: bool) -> int:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "test")]
    if not chunked:
        headers.append(("content-length", str(PIECES)))
    connection.send_headers(1, headers)
    for number in range(PIECES):
        connection.send_data(1, b"x", end_stream=not abort and number == PIECES - 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(connection.data_to_send())
        if abort:
            await writer.drain()
            writer.transport.abort()
            return 0
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return int(dict(event.headers)[":status"])
            writer.write(connection.data_to_send())
        return 0
    finally:
        writer.close()


async def post_many(port: int, count: int) -> list[tuple[int, int]]:
    """(expected, got) of every request that was not aborted."""
    kinds = product((post_h1, post_h2), ("now", "later"), (True, False), (True, False), STATUSES)
    room = asyncio.Semaphore(40)

    async def one(kind: tuple) -> tuple[int, int]:
        post, when, chunked, abort, status = kind
        async with room, asyncio.timeout(WAIT_S):
            got = await post(port, f"/{when}/{status}", chunked=chunked, abort=abort)
        return (0 if abort else status), got

    return await asyncio.gather(*(one(kind) for kind in islice(cycle(kinds), count)))


async def test_a_thousand_unread_bodies_leave_no_task_and_no_descriptor(served) -> None:
    async with served(APP) as server:
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        outcomes = await post_many(server.port, 1000)
        assert [outcome for outcome in outcomes if outcome[0] != outcome[1]] == []
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_with_the_queue_of_the_server_the_same_requests_do_leave_tasks_behind(served, monkeypatch) -> None:
    tasks_at_start = asyncio.all_tasks()
    async with served(APP, cure=False) as server:
        monkeypatch.setattr(tcp_server, "TaskGroup", TaskGroup)
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        await asyncio.gather(*(post_h1(server.port, "/later/401", chunked=True, abort=False) for _ in range(20)))
        tasks, open_descriptors = await left_behind(tasks_before, descriptors_before)
        assert tasks >= 20
        assert open_descriptors >= 20
        leaked = asyncio.all_tasks() - tasks_before
        for task in leaked:
            task.cancel()
        await asyncio.wait(leaked, timeout=WAIT_S)
    leaked = asyncio.all_tasks() - tasks_at_start
    assert not any("_handle" in repr(task) for task in leaked)


async def test_a_client_with_a_small_body_sees_the_early_answer_and_keeps_its_connection(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(20):
            writer.write(b"POST /now/401 HTTP/1.1\r\nhost: test\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60_000)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401")
            assert b"connection" not in head.lower()
            assert await reader.readexactly(2) == b"no"
        writer.close()


@pytest.mark.parametrize("framing", ["content-length: 100000", "transfer-encoding: chunked"])
async def test_an_answer_after_which_the_connection_ends_says_so(served, framing) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"POST /now/413 HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        assert b"\r\nconnection: close\r\n" in head.lower()
        assert await reader.read() == b"no"
        writer.close()


async def test_a_body_that_never_ends_is_not_read_for_ever(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /now/401 HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_a_client_that_waits_for_the_answer_before_it_sends_its_body_gets_it_at_once(monkeypatch) -> None:
    monkeypatch.setattr(unread_body, "LINGER_TIMEOUT_S", 3600)
    sent: asyncio.Queue[Message] = asyncio.Queue()

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    serving = asyncio.create_task(UnreadBody(refuse)({"type": "http"}, never, sent.put))
    async with asyncio.timeout(WAIT_S):
        assert (await sent.get())["status"] == 401
        assert (await sent.get())["body"] == b"no"
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in the answer"])
async def test_an_exception_with_the_body_unread_leaves_nothing(served, begun, caplog) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("boom")

    async with served(fail) as server, asyncio.timeout(2 * WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        writers = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
            writers.append(writer)
        for _ in range(150):  # the client goes on for longer than the server lingers
            for writer in writers:
                writer.write(b"1\r\nx\r\n" * PIECES)
            await asyncio.sleep(0.01)
        for writer in writers:
            writer.close()
        del reader, writer, writers
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_a_websocket_handler_that_leaves_messages_unread_leaves_nothing(served) -> None:
    masked = b"\x81\x81\0\0\0\0x"  # a text frame that holds "x"
    async with served(APP, websocket_ping_interval_s=0.2) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /socket HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(masked * 3 * PIECES)
            await writer.drain()
            writer.close()
        del reader, writer
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


@pytest.mark.parametrize("ahead", [b"G", b"GET / HTTP/1.1\r\nhost: test\r\n\r\n", b"G" * 60_000], ids=len)
@pytest.mark.parametrize("is_cut_short", [False, True], ids=["the client leaves", "the answer is cut short"])
async def test_what_was_sent_ahead_of_an_answer_that_never_completes_leaves_nothing(
    served, ahead, is_cut_short
) -> None:
    async def begin(scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.create_task(_left(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            if is_cut_short:
                break
            await asyncio.sleep(0.01)
        left.cancel()

    async with served(begin) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n" + ahead)
            await (reader.read() if is_cut_short else reader.read(1))
            writer.close()
        del reader, writer
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_what_was_sent_ahead_is_answered_once_the_answer_before_is_complete(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /later/422 HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n" * 20)
        for _ in range(20):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 422")
            assert await reader.readexactly(2) == b"no"
        writer.close()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
