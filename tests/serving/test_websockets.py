"""WebSockets over real sockets: codes both ways, hostile frames, pings, ready-made frames."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

import hypercorn.protocol.h11
import pytest
from hypercorn.protocol.ws_stream import WSStream
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from precipiq_contracts.server import FRAMES
from precipiq_hypercorn import websockets
from precipiq_ws_stream.frames import text_frame
from tests.serving.websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Peer,
    Recorder,
    close_frame,
    descriptors,
    frame,
    left_behind,
    until,
)

pytestmark = pytest.mark.anyio

WAIT_S = 20
MESSAGE_BYTES_MAX = 4096


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def hypercorns_own(monkeypatch) -> object:
    """Call it to serve WebSockets as Hypercorn does, from now on: the control of what the cures change."""
    return lambda: monkeypatch.setattr(hypercorn.protocol.h11, "WSStream", WSStream)


CLOSES = {
    "normal": (close_frame(1000, "bye"), (1000, "bye"), 1000),
    "private": (close_frame(4001), (4001, ""), 4001),
    "without a code": (frame(CLOSE), (1005, ""), 1005),
}


@pytest.mark.parametrize(("sent", "seen", "answer"), CLOSES.values(), ids=CLOSES)
async def test_the_application_sees_the_clients_code_and_the_client_its_answer(served, sent, seen, answer) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        peer.send(sent)
        assert await peer.close_code() == answer
        await until(lambda: app.disconnects)
        assert app.disconnects == [seen]
        peer.close()


@pytest.mark.parametrize("how", ["reset", "end", "half"])
async def test_a_connection_that_just_goes_away_is_1006_and_leaves_nothing(served, how) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.opened(server.port)
        if how == "reset":
            raw = peer.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.abort()
        elif how == "end":
            peer.close()
        else:
            peer.writer.write_eof()
            assert await peer.close_code() == 1006
            peer.close()
        await until(lambda: app.disconnects)
        assert app.disconnects == [(1006, "")]
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


ERRORS = {
    "unknown opcode": (frame(3, b"x"), 1002),
    "unknown control opcode": (frame(11), 1002),
    "reserved bit": (frame(TEXT, b"x", rsv=1), 1002),
    "compressed": (frame(TEXT, b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4), 1002),
    "unmasked": (frame(TEXT, b"x", masked=False), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "fragmented close": (frame(CLOSE, fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text within a text": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    "close code nobody may send": (close_frame(1006), 1002),
    "bad UTF-8": (frame(TEXT, b"\xff"), 1007),
    "UTF-8 that breaks off": (frame(TEXT, b"\xc3"), 1007),
    "bad UTF-8 in a second fragment": (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), 1007),
    "bad UTF-8 in a reason": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "too large": (frame(TEXT, b"x" * (MESSAGE_BYTES_MAX + 1)), 1009),
    "too large, not in characters": (frame(TEXT, "ü".encode() * (MESSAGE_BYTES_MAX // 2 + 1)), 1009),
    "too large, binary": (frame(BINARY, b"x" * (MESSAGE_BYTES_MAX + 1)), 1009),
    "too large, announced": (frame(BINARY, b"x" * 100_000)[:50_000], 1009),
    "too large, in fragments": (
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 16, fin=False) * (MESSAGE_BYTES_MAX // 16),
        1009,
    ),
}


@pytest.mark.parametrize(("sent", "code"), ERRORS.values(), ids=ERRORS)
async def test_an_error_is_answered_with_its_code_and_ends_the_connection(served, sent, code) -> None:
    app = Recorder()
    async with served(app, websocket_message_bytes_max=MESSAGE_BYTES_MAX) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.opened(server.port, fields=b"sec-websocket-extensions: permessage-deflate\r\n")
        peer.send(frame(TEXT, b"before"), sent, frame(TEXT, b"after"))
        assert await peer.close_code() == code
        peer.close()
        await until(lambda: app.disconnects)
        assert [each[0] for each in app.disconnects] == [code]
        assert [each["text"] for each in app.received[:-1]] == ["before"]
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_an_error_ends_the_connection_as_soon_as_the_client_has_read_its_code(served, monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 3600)
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.opened(server.port)
        peer.send(frame(3, b"x"))
        assert await peer.close_code() == 1002
        peer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_without_the_cure_an_error_is_answered_by_silence(served, hypercorns_own) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        hypercorns_own()
        peer = await Peer.opened(server.port)
        peer.send(frame(3, b"x"))
        assert await peer.close_code() == 1006
        peer.close()


async def test_messages_up_to_the_limit_arrive_whole_however_they_come(served) -> None:
    app = Recorder()
    text, data = "ü" * (MESSAGE_BYTES_MAX // 2), b"\xff" * MESSAGE_BYTES_MAX
    async with served(app, websocket_message_bytes_max=MESSAGE_BYTES_MAX) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        peer.send(frame(TEXT, text.encode()), frame(BINARY, data))
        peer.send(frame(TEXT, text.encode()[:11], fin=False), frame(PING, b"between"))
        peer.send(frame(CONTINUATION, text.encode()[11:]), frame(TEXT))
        assert await peer.frame() == (PONG, b"between")
        await until(lambda: len(app.received) == 4)
        assert [each["text"] for each in app.received] == [text, None, text, ""]
        assert app.received[1]["bytes"] == data
        peer.close()


async def test_a_message_without_end_is_cut_off_soon_and_not_kept(served, monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 0.2)
    app = Recorder()
    async with served(app, websocket_message_bytes_max=MESSAGE_BYTES_MAX) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        peer.send(struct.pack("!BBQ4s", 0x82, 0xFF, 1 << 40, b"abcd"))
        sent = 0
        with pytest.raises(ConnectionError):
            while True:
                peer.send(b"x" * 65536)
                await peer.writer.drain()
                sent += 65536
                await asyncio.sleep(0)
        assert sent > MESSAGE_BYTES_MAX
        assert [each[0] for each in app.disconnects] == [1009]
        peer.close()


async def test_data_before_the_handshake_is_accepted_are_refused_and_the_application_is_told(served) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        for _ in range(5):
            peer = await Peer.connected(server.port)
            peer.send(HANDSHAKE % (b"/later", b""), frame(TEXT, b"x"))
            head = await peer.head()
            assert head.startswith(b"HTTP/1.1 400")
            assert b'"code":"bad_request"' in await peer.reader.read()
            peer.close()
        await until(lambda: app.ended == 5)
        assert app.disconnects == [(1006, "")] * 5
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_without_the_cure_such_data_leave_the_application_waiting(served, hypercorns_own) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        hypercorns_own()
        peer = await Peer.connected(server.port)
        peer.send(HANDSHAKE % (b"/later", b""), frame(TEXT, b"x"))
        assert (await peer.head()).startswith(b"HTTP/1.1 400")
        peer.close()
        await asyncio.sleep(0.5)
        assert (app.started, app.ended, app.disconnects) == (1, 0, [])


@pytest.mark.parametrize(
    "handshake",
    [
        (HANDSHAKE % (b"/", b"")).replace(b"version: 13", b"version: 12"),
        (HANDSHAKE % (b"/", b"")).replace(b"sec-websocket-key", b"x-key"),
        HANDSHAKE % (b"/", b"sec-websocket-protocol: \xfc\r\n"),
    ],
    ids=["another version", "no key", "outside ASCII"],
)
async def test_a_handshake_that_is_not_valid_is_refused_and_its_connection_closed(served, handshake, caplog) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.connected(server.port)
        peer.send(handshake)
        answer = await peer.reader.read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"x-request-id: req_" in answer
        peer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"type": "websocket.close"}, 403),
        ({"type": "websocket.close", "code": 1012}, 503),
        ({"type": "websocket.accept", "subprotocol": "never asked for"}, 500),
        (None, 500),
    ],
    ids=["refused", "refused for now", "wrong subprotocol", "no answer"],
)
async def test_what_an_application_does_instead_of_accepting_is_answered_by_http(served, answer, status) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if answer is not None:
            await send(answer)
            await send({"type": "websocket.close"})

    async with served(app) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.connected(server.port)
        peer.send(HANDSHAKE % (b"/", b""))
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 %d" % status)
        peer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_handshake_and_frames_may_come_byte_by_byte(served) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port)
        peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HANDSHAKE % (b"/echo", b""):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.head()).startswith(b"HTTP/1.1 101")
        for byte in frame(TEXT, "grüße".encode()) + close_frame(4002, "ü"):
            peer.send(bytes([byte]))
            await asyncio.sleep(0.001)
        assert await peer.frame() == (TEXT, "grüße".encode())
        assert await peer.frame() == (CLOSE, struct.pack("!H", 4002) + "ü".encode())
        peer.close()
        await until(lambda: app.disconnects)
        assert app.disconnects == [(4002, "ü")]


async def test_a_client_with_data_in_flight_sees_the_close_code_and_not_a_reset(served) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port, "/close")
        for _ in range(50):  # well past the server's close frame, which is not read meanwhile
            peer.send(frame(TEXT, b"x" * 1000))
            await asyncio.sleep(0.005)
        assert await peer.frame() == (CLOSE, struct.pack("!H", 4508) + b"slow")
        peer.send(close_frame(4508))
        assert await peer.reader.read() == b""
        peer.close()


async def test_the_answer_to_a_close_ends_the_connection_at_once(served, monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 3600)
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port, "/close")
        peer.send(frame(TEXT, b"x"))
        assert (await peer.frame())[0] == CLOSE
        peer.send(close_frame(4508, "seen"))
        assert await peer.reader.read() == b""
        await until(lambda: app.disconnects)
        assert app.disconnects == [(4508, "seen")]
        peer.close()


async def test_a_client_that_does_not_answer_a_close_is_not_waited_for(served) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port, "/close")
        peer.send(frame(TEXT, b"x"))
        assert await peer.close_code() == 4508
        await until(lambda: app.disconnects)
        assert app.disconnects == [(1006, "")]
        peer.close()


async def test_an_application_that_just_ends_closes_with_1011(served) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.opened(server.port, "/leave")
        peer.send(frame(TEXT, b"x"))
        assert await peer.close_code() == 1011
        peer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_pings_come_in_time_and_any_pong_keeps_the_connection(served) -> None:
    app = Recorder()
    async with served(app, websocket_ping_interval_s=0.1) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        begin_s = asyncio.get_running_loop().time()
        for _ in range(8):
            assert await peer.frame() == (PING, b"")
            assert asyncio.get_running_loop().time() - begin_s >= 0.09
            peer.send(frame(PONG, b"unasked"))
        assert app.disconnects == []
        peer.close()


@pytest.mark.parametrize("path", ["/", "/flood"], ids=["idle", "while the application waits to send"])
async def test_two_pings_without_a_pong_end_the_connection(served, path) -> None:
    app = Recorder()
    async with served(app, websocket_ping_interval_s=0.2) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Peer.opened(server.port, path, receive_buffer=4096)
        if path == "/":
            assert [opcode for opcode, _ in await peer.rest()] == [PING, PING]
        await until(lambda: app.disconnects)
        assert app.disconnects == [(1006, "")]
        await until(lambda: descriptors() <= descriptors_before + 1)  # the peer's own
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_ready_made_frames_are_written_as_they_are_and_only_while_the_websocket_is_open(served) -> None:
    frames = text_frame(b"one") + text_frame(b"x" * 70_000) + text_frame("drüi".encode())
    extensions: dict[str, object] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        extensions.update(scope["extensions"])
        await send({"type": FRAMES, "bytes": b"too early"})
        await send({"type": "websocket.accept"})
        await send({"type": FRAMES, "bytes": frames})
        await send({"type": "websocket.close", "code": 4000})
        for late in ({"type": FRAMES, "bytes": frames}, {"type": "websocket.send", "text": "late"}):
            await send(late)
        await send({"type": "websocket.close", "code": 4001})

    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.opened(server.port)
        received = await peer.rest()
        assert received == [
            (TEXT, b"one"),
            (TEXT, b"x" * 70_000),
            (TEXT, "drüi".encode()),
            (CLOSE, struct.pack("!H", 4000)),
        ]
        assert extensions[FRAMES].keys() == {"unsent"}
        peer.close()


@given(st.one_of(st.text(max_size=300), st.sampled_from([125, 126, 127, 65535, 65536, 70000]).map(lambda n: "x" * n)))
def test_a_text_frame_is_the_one_that_wsproto_makes(text: str) -> None:
    assert text_frame(text.encode()) == Connection(ConnectionType.SERVER).send(TextMessage(data=text))
