"""Downloads over real connections: whole, in parts, resumed, stalled, left, broken off; what they hold meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.errors import Unavailable
from precipiq_exports.download import SLICE_BYTES
from tests.serving.file_site import SIZE, TAG, File, content, site
from tests.serving.test_protocols import client_context, tls_of
from tests.serving.websocket_peer import Peer, descriptors, left_behind, until

pytestmark = pytest.mark.anyio

WAIT_S = 20
SMALL = {"socket_send_buffer_bytes": 4096, "close_timeout_s": 0.5}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    is_whole: bool = True


def request(method: str = "GET", *fields: str) -> bytes:
    lines = [f"{method} /api/v1/file HTTP/1.1", "host: test", "x-precipiq-key: k", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


async def head_of(peer: Peer) -> Answer:
    status, *lines = (await peer.head()).decode().split("\r\n")
    return Answer(int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines if line))


async def answer_of(peer: Peer, method: str = "GET") -> Answer:
    answer = await head_of(peer)
    if method != "HEAD" and answer.status != 304:
        try:
            answer.body = await peer.reader.readexactly(int(answer.headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            answer.body = getattr(error, "partial", b"")
            answer.is_whole = False
    return answer


async def asked(server: Any, *fields: str, method: str = "GET") -> Answer:
    """One request on a connection of its own, which the answer leaves in order."""
    peer = await Peer.connected(server.port)
    peer.send(request(method, *fields))
    answer = await answer_of(peer, method)
    peer.send(request("HEAD"))
    assert (await head_of(peer)).status == 200
    peer.close()
    return answer


async def test_a_download_is_whole_and_says_what_it_is(served, tmp_path) -> None:
    file, access = File(), io.BytesIO()
    async with served(site(tmp_path, file, access)) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server)
    assert (answer.status, answer.body) == (200, content(0, SIZE))
    expected = {
        "content-type": "application/zip",
        "content-length": str(SIZE),
        "content-disposition": 'attachment; filename="a__b____.zip"',
        "accept-ranges": "bytes",
        "etag": TAG,
        "cache-control": "no-store",
        "ratelimit": '"read";r=4;t=1',
    }
    assert expected.items() <= answer.headers.items()
    assert "x-request-id" in answer.headers
    assert "content-range" not in answer.headers
    assert (file.reads, file.begun, file.ended, file.closed) == ([(0, SIZE)], [0], [(0, SIZE)], 1)
    line = json.loads(access.getvalue().splitlines()[0])
    assert (line["status"], line["bytes_out"], line["route"]) == (200, SIZE, "/api/v1/file")


@pytest.mark.parametrize(
    ("asked_for", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199999", 100, 200_000),
        ("bytes=0-", 0, SIZE),
        ("Bytes=299999-", SIZE - 1, SIZE),
        ("bytes=10-999999999999999999", 10, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-999999", 0, SIZE),
    ],
)
async def test_a_range_is_answered_by_that_part(served, tmp_path, asked_for, start, end) -> None:
    file = File()
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server, f"range: {asked_for}", f"if-range: {TAG}")
    assert (answer.status, answer.body) == (206, content(start, end))
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == TAG
    assert (file.reads, file.begun, file.closed) == ([(start, end)], [start], 1)
    assert file.ended == [(start, end - start)]


@pytest.mark.parametrize(
    "fields",
    [
        ["range: bytes=0-1,5-6"],
        ["range: bytes=0-1", "range: bytes=5-6"],
        ["range: bytes=5-2"],
        ["range: bytes=-"],
        ["range: bytes=x-1"],
        ["range: bytes=1"],
        ["range: rows=0-1"],
        ["range: bytes=" + "9" * 5000 + "-"],
        ["range: bytes=0-1", 'if-range: "another"'],
        ["range: bytes=0-1", f"if-range: W/{TAG}"],
        ["range: bytes=0-1", "if-range: Wed, 21 Oct 2015 07:28:00 GMT"],
    ],
)
async def test_what_is_no_single_range_of_this_very_file_is_answered_whole(served, tmp_path, fields) -> None:
    async with served(site(tmp_path, File(1000))) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server, *fields)
    assert (answer.status, answer.body) == (200, content(0, 1000))


@pytest.mark.parametrize("asked_for", ["bytes=1000-", "bytes=1000-1000", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused_with_the_size(served, tmp_path, asked_for) -> None:
    file = File(1000)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server, f"range: {asked_for}")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1000"
    assert {"x-request-id", "ratelimit"} <= answer.headers.keys()
    assert (file.reads, file.begun) == ([], [])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tags", [TAG, f"W/{TAG}", f'"other", {TAG}', "*"])
async def test_who_has_it_already_is_told_so(served, tmp_path, method, tags) -> None:
    file = File()
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server, f"if-none-match: {tags}", "range: bytes=0-1", method=method)
    assert (answer.status, answer.headers["etag"]) == (304, TAG)
    assert {"x-request-id", "ratelimit", "cache-control"} <= answer.headers.keys()
    assert (file.reads, file.begun) == ([], [])


async def test_who_has_another_version_gets_this_one(served, tmp_path) -> None:
    async with served(site(tmp_path, File(10))) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server, 'if-none-match: "other", "0123abcde"')
    assert (answer.status, answer.body) == (200, content(0, 10))


async def test_head_says_the_same_and_reads_nothing(served, tmp_path) -> None:
    file = File()
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        head = await asked(server, "x-request-id: same", "range: bytes=0-1", method="HEAD")
        assert (file.reads, file.begun) == ([], [])
        whole = await asked(server, "x-request-id: same")
    for answer in (head, whole):
        del answer.headers["date"]
    assert (head.status, head.headers) == (200, whole.headers)
    assert file.ended == [(0, SIZE)], "of the second"


async def test_an_empty_file_is_a_download_too(served, tmp_path) -> None:
    file = File(0)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        answer = await asked(server)
    assert (answer.status, answer.headers["content-length"], file.begun) == (200, "0", [0])


async def test_a_download_that_was_cut_is_resumed_to_the_same_bytes(served, tmp_path) -> None:
    file = File(2_000_000)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port)
        peer.send(request())
        await head_of(peer)
        have = await peer.reader.readexactly(700_001)
        peer.abort()
        rest = await asked(server, f"range: bytes={len(have)}-", f"if-range: {TAG}")
        assert (rest.status, have + rest.body) == (206, content(0, 2_000_000))
        await until(lambda: file.closed == 2)
    assert file.begun == [0, 700_001]


async def test_fifty_megabytes_are_never_read_far_ahead_of_the_client(served, tmp_path) -> None:
    size, ahead_max = 50 << 20, 1 << 20
    file = File(size, piece_bytes=256 * 1024)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(3 * WAIT_S):
        peer = await Peer.connected(server.port, receive_buffer=64 * 1024)
        peer.send(request())
        await head_of(peer)
        received = 0
        while received < size:
            piece = await peer.reader.readexactly(min(1 << 19, size - received))
            assert piece == content(received, received + len(piece))
            received += len(piece)
            assert file.read_bytes - received < ahead_max
            if received in (1 << 20, 40 << 20):
                await asyncio.sleep(0.2)  # time to run ahead, if it did
                assert file.read_bytes - received < ahead_max
        peer.close()
        await until(lambda: file.closed == 1)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_takes_nothing_is_cut_off(served, tmp_path, certificate, tls) -> None:
    file = File(5_000_000)
    app = site(tmp_path, file, download_stall_timeout_s=0.3)
    settings = {**SMALL, "tls": tls_of(certificate)} if tls else SMALL
    async with served(app, **settings) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        context = None
        if tls:
            context = client_context()
            context.set_alpn_protocols(["http/1.1"])
        peer = await Peer.connected(server.port, receive_buffer=4096, tls=context)
        peer.send(request())
        await until(lambda: file.closed == 1)
        await until(lambda: descriptors() <= descriptors_before + 1)  # the peer's own
        answer = await answer_of(peer)
        assert (answer.status, answer.is_whole) == (200, False)
        peer.abort()
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)
        assert [start for start, _ in file.ended] == [0]
        assert len(answer.body) <= file.ended[0][1] + SLICE_BYTES
    assert file.read_bytes < 2_000_000


async def test_a_client_that_may_have_no_more_is_cut_off(served, tmp_path) -> None:
    file = File(5_000_000)
    file.refused_at = 200_000
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        with capture_logs() as lines:
            peer = await Peer.connected(server.port)
            peer.send(request())
            answer = await answer_of(peer)
        assert (answer.status, answer.is_whole, answer.body) == (200, False, content(0, 100_000))
        assert (file.ended, file.closed) == ([(0, 100_000)], 1)
        peer.close()
    assert ["its key is not accepted" in line["event"] for line in lines if "cut off" in line["event"]] == [True]


async def test_a_slow_client_that_goes_on_is_not_cut_off_however_large_the_pieces(served, tmp_path) -> None:
    size = 1_000_000
    file = File(size, piece_bytes=size)
    app = site(tmp_path, file, download_stall_timeout_s=0.6, handler_timeout_s=0.5)
    async with served(app, **SMALL) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port, receive_buffer=4096)
        peer.send(request())
        await head_of(peer)
        received = b""
        while len(received) < size:
            received += await peer.reader.readexactly(min(50_000, size - len(received)))
            await asyncio.sleep(0.1)
        assert received == content(0, size)
        peer.close()


@pytest.mark.parametrize("hanging", [False, True], ids=["while it is sent", "while it is read"])
async def test_when_the_client_leaves_reading_ends(served, tmp_path, hanging) -> None:
    file = File(50 << 20)
    file.failing_at = 200_000 if hanging else None
    async with served(site(tmp_path, file), **SMALL) as server, asyncio.timeout(WAIT_S):
        tasks_before, descriptors_before = asyncio.all_tasks(), descriptors()
        for _ in range(3):
            peer = await Peer.connected(server.port)
            peer.send(request())
            await peer.reader.readexactly(150_000)
            peer.abort()
        await until(lambda: len(file.ended) == file.closed == 3)
        assert all(150_000 - SLICE_BYTES <= sent_bytes <= 50 << 20 for _, sent_bytes in file.ended)
        assert await left_behind(tasks_before, descriptors_before) == (0, 0)


@pytest.mark.parametrize("error", [Unavailable("the store is away"), OSError("disk"), TimeoutError()], ids=repr)
async def test_what_fails_on_the_way_is_no_whole_answer_and_an_error_in_the_log(served, tmp_path, error) -> None:
    file = File()
    file.failing_at, file.failure = 200_000, error
    with capture_logs() as lines:
        async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
            peer = await Peer.connected(server.port)
            peer.send(request())
            answer = await answer_of(peer)
            assert (answer.status, answer.is_whole, answer.body) == (200, False, content(0, 200_000))
            assert (file.closed, file.begun, file.ended) == (1, [0], [(0, 200_000)])
            peer.close()
    assert [line["error"] for line in lines if line["event"] == "request failed"] == ["LateFailure"]


@pytest.mark.parametrize("surplus", [-100, 100])
async def test_a_file_that_is_not_as_long_as_was_said_breaks_the_connection_off(served, tmp_path, surplus) -> None:
    file = File(surplus_bytes=surplus)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port)
        peer.send(request())
        await head_of(peer)
        assert await peer.reader.read() == content(0, min(SIZE, SIZE + surplus))
        assert file.closed == 1
        peer.close()


async def test_what_fails_before_the_first_byte_is_answered_as_an_error(served, tmp_path) -> None:
    file = File()
    app = site(tmp_path, file, handler_timeout_s=0.3)
    async with served(app) as server, asyncio.timeout(WAIT_S):
        file.failing_at, file.failure = 0, Unavailable("the store is away")
        unread = await asked(server)
        file.failure = None
        hanging = await asked(server)
        assert file.begun == []
        file.failing_at, file.refusal = None, Unavailable("the chain is away")
        refused = await asked(server)
    assert [answer.status for answer in (unread, hanging, refused)] == [503, 503, 503]
    assert [b"store" in unread.body, b"took too long" in hanging.body, b"chain" in refused.body] == [True] * 3
    assert (file.closed, file.begun, file.ended) == (3, [0], [])


async def test_a_download_that_the_drain_meets_is_cut_at_its_end(served, tmp_path) -> None:
    file = File(50 << 20)
    async with served(site(tmp_path, file), drain_timeout_s=0.3, **SMALL) as server, asyncio.timeout(WAIT_S):
        peer = await Peer.connected(server.port, receive_buffer=4096)
        peer.send(request())
        await peer.reader.readexactly(100_000)
        await server.gate.drain(0.3)
        await until(lambda: file.closed == 1)
        with suppress(ConnectionError):
            while piece := await peer.reader.read(65536):
                assert b"HTTP/1.1" not in piece
        peer.abort()
