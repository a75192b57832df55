"""WebSockets over HTTP/2 (RFC 8441): the same codes, and one stream's end is no other's."""

from __future__ import annotations

import asyncio
import logging
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from starlette.types import Receive, Scope, Send

from precipiq_contracts.server import FRAMES
from precipiq_hypercorn import websockets
from precipiq_ws_stream.frames import text_frame
from tests.serving.websocket_peer import (
    CLOSE,
    PING,
    TEXT,
    Recorder,
    close_frame,
    descriptors,
    frame,
    left_behind,
    parsed,
    until,
)

pytestmark = pytest.mark.anyio

WAIT_S = 20


class Http2Peer:
    """One connection with prior knowledge. ``window``: what the server may send before it must wait."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None) -> None:
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        if window is not None:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self._takes = window is None
        self.reader, self.writer = reader, writer
        self.status: dict[int, int] = {}
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.h2.initiate_connection()
        self.flush()

    @classmethod
    async def connected(cls, port: int, window: int | None = None) -> Http2Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port), window)

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def connect(self, path: str = "/", *extra: tuple[str, str]) -> int:
        """Ask for a WebSocket; the stream."""
        fields = [(":protocol", "websocket"), (":scheme", "http"), (":path", path), ("sec-websocket-version", "13")]
        return self.request("CONNECT", *fields, *extra)

    def request(self, method: str, *fields: tuple[str, str], end: bool = False) -> int:
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":authority", "test")]
        fields = sorted([*pseudo, *fields], key=lambda field: not field[0].startswith(":"))
        self.h2.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def frames(self, stream: int) -> list[tuple[int, bytes]]:
        return list(parsed(self.data.get(stream, b"")))

    async def until(self, condition) -> None:
        """Read until that is true. Fails when the connection ends before."""
        while not condition():
            data = await self.reader.read(65536)
            assert data, "the connection ended"
            for event in self.h2.receive_data(data):
                self._note(event)
            self.flush()

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.status[event.stream_id] = int(dict(event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if self._takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.reset.add(event.stream_id)

    async def opened(self, path: str = "/") -> int:
        stream = self.connect(path)
        await self.until(lambda: stream in self.status)
        assert self.status[stream] == 200
        return stream


CLOSES = {
    "normal": (close_frame(1000, "bye"), (1000, "bye"), struct.pack("!H", 1000) + b"bye"),
    "without a code": (frame(CLOSE), (1005, ""), b""),
}


@pytest.mark.parametrize(("sent", "seen", "answer"), CLOSES.values(), ids=CLOSES)
async def test_the_clients_code_is_seen_and_answered_and_the_stream_ends(served, sent, seen, answer) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        stream, other = await peer.opened("/echo"), await peer.opened("/echo")
        peer.send(stream, sent)
        await peer.until(lambda: stream in peer.ended)
        assert peer.frames(stream) == [(CLOSE, answer)]
        assert app.disconnects == [seen]
        peer.send(other, frame(TEXT, b"still here"))
        await peer.until(lambda: other in peer.data)
        assert peer.frames(other) == [(TEXT, b"still here")]
        peer.writer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [(frame(3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x" * 5000), 1009)],
    ids=["opcode", "UTF-8", "size"],
)
async def test_an_error_is_answered_with_its_code_and_ends_its_stream_alone(served, sent, code) -> None:
    app = Recorder()
    async with served(app, websocket_message_bytes_max=4096) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        stream, other = await peer.opened(), await peer.opened("/echo")
        peer.send(stream, sent + frame(TEXT, b"after"))
        await peer.until(lambda: stream in peer.ended)
        assert [payload[:2] for _, payload in peer.frames(stream)] == [struct.pack("!H", code)]
        await until(lambda: app.disconnects)
        assert app.disconnects[0][0] == code
        peer.send(other, frame(TEXT, b"still here"))
        await peer.until(lambda: other in peer.data)
        peer.writer.close()


async def test_a_client_that_ends_its_stream_without_a_close_frame_is_1006(served) -> None:
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Http2Peer.connected(server.port)
        stream, early = await peer.opened(), peer.connect("/later")
        peer.send(stream, b"", end=True)
        peer.send(early, b"", end=True)
        await peer.until(lambda: {stream, early} <= peer.ended)
        assert peer.status[early] == 400
        await until(lambda: app.ended == 2)
        assert app.disconnects == [(1006, "")] * 2
        peer.writer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_the_answer_to_a_close_is_awaited_and_ends_the_stream_at_once(served, monkeypatch) -> None:
    monkeypatch.setattr(websockets, "CLOSE_WAIT_S", 3600)
    app = Recorder()
    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        stream = await peer.opened("/close")
        peer.send(stream, frame(TEXT, b"x"))
        await peer.until(lambda: stream in peer.ended)
        assert peer.frames(stream) == [(CLOSE, struct.pack("!H", 4508) + b"slow")]
        assert app.disconnects == []
        peer.send(stream, close_frame(4508, "seen"), end=True)
        await until(lambda: app.disconnects)
        assert app.disconnects == [(4508, "seen")]
        peer.writer.close()


async def test_ready_made_frames_come_as_they_are(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": FRAMES, "bytes": text_frame(b"one") + text_frame(b"x" * 70_000)})
        await send({"type": "websocket.close", "code": 4000})

    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        stream = await peer.opened()
        await peer.until(lambda: stream in peer.ended)
        assert peer.frames(stream) == [(TEXT, b"one"), (TEXT, b"x" * 70_000), (CLOSE, struct.pack("!H", 4000))]
        peer.writer.close()


async def test_pings_without_a_pong_reset_their_stream_and_then_the_connection(served) -> None:
    app = Recorder()
    async with served(app, websocket_ping_interval_s=1) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Http2Peer.connected(server.port)
        first = await peer.opened()
        await peer.until(lambda: peer.frames(first))  # so the second has a ping's time after the first is gone
        second = await peer.opened()
        await peer.until(lambda: first in peer.reset)
        assert peer.frames(first) == [(PING, b"")] * 2
        await until(lambda: len(app.disconnects) == 2)
        assert second not in peer.reset
        assert app.disconnects == [(1006, "")] * 2
        peer.writer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


@pytest.mark.parametrize("path", ["/flood", "/nowhere"], ids=["accepted", "refused"])
async def test_a_client_that_opens_no_window_is_gone_soon_after_the_application_closed(served, path) -> None:
    app = Recorder()
    async with served(app, close_timeout_s=0.5) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        peer = await Http2Peer.connected(server.port, window=0)
        if path == "/flood":
            stream = await peer.opened(path)
            await asyncio.sleep(0.2)
            peer.send(stream, frame(TEXT, b"close now"))
        else:
            peer.request("CONNECT", (":protocol", "websocket"), (":scheme", "http"), (":path", path))
        await until(lambda: descriptors() <= descriptors_before + 1)
        peer.writer.close()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


async def test_a_connect_without_a_path_is_reset_and_nothing_else(served, caplog) -> None:
    async with served(Recorder()) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        refused, stream = peer.request("CONNECT"), await peer.opened("/echo")
        assert peer.reset == {refused}
        peer.send(stream, frame(TEXT, b"still here"))
        await peer.until(lambda: stream in peer.data)
        peer.writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_answer_that_was_cut_short_is_reset_and_the_connection_goes_on(served) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with served(app) as server, asyncio.timeout(WAIT_S):
        peer = await Http2Peer.connected(server.port)
        for _ in range(3):
            stream = peer.request("GET", (":scheme", "http"), (":path", "/"), end=True)
            await peer.until(lambda stream=stream: stream in peer.reset)
        peer.writer.close()
