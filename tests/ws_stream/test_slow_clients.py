"""Who does not read is evicted with 4508 and goes on from there; it costs nobody else anything."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from precipiq_testkit.crowd import crowd
from precipiq_testkit.open_files import open_files
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client, decision
from tests.ws_stream.streams import Frame, Stream, assert_linked, logged, stream, stream_url

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SUBSCRIBERS = rounds(100, long=500)
ENTRIES = rounds(600, long=2000)
PATIENCE_S = 120.0
"""Usually it takes some seconds; only a fault reaches this."""


@pytest.fixture(scope="module")
def database() -> str:
    """What a client reads does not touch the database: one is enough."""
    return "sqlite"


@asynccontextmanager
async def stuck(server: ServerProcess, **query: object) -> AsyncIterator[ClientConnection]:
    """A client that stops reading once its own small buffers are full."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, _, port = server.url.removeprefix("http://").partition(":")
    raw.connect((host, int(port)))
    async with connect(
        stream_url(server, **query), sock=raw, max_queue=(1, 0), ping_interval=None, proxy=None, max_size=None
    ) as connection:
        yield connection


def fill(client: Client, entries: int, size: int) -> int:
    """Append that many entries of about that size; the last seq."""
    last = 0
    for start in range(0, entries, 20):
        decisions = [decision(number, inputs={"text": "x" * size}) for number in range(start, min(start + 20, entries))]
        last = client.data("POST", "/decisions/batch", json={"decisions": decisions})["receipts"][-1]["seq"]
    return int(last)


async def drained(connection: ClientConnection) -> tuple[list[Frame], int, str]:
    """Everything that still comes, then the code and reason."""
    opened, frames = Stream(connection), []
    while True:
        try:
            frames.append(await opened.next())
        except Exception:  # whatever ended it
            break
    return frames, connection.close_code or 1006, connection.close_reason or ""


def sockets_of(server: ServerProcess) -> int:
    """Its connections and listeners: not the pairs that it talks to its children by."""
    pid = server.process.pid
    inodes = {line.split()[9] for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]}
    return sum(path.removeprefix("socket:[").removesuffix("]") in inodes for path in open_files(pid))


async def test_a_stuck_reader_is_evicted_and_resumes_where_it_was_told(server: ServerProcess) -> None:
    client = Client(server)
    async with stuck(server) as connection:
        first = await Stream(connection).ready()
        last = await asyncio.to_thread(fill, client, 600, 4000)
        await logged(server, "stream evicted: the client does not read")
        frames, code, reason = await drained(connection)
    assert code == 4508
    name, _, seq = reason.partition("=")
    assert name == "resume"
    assert [frame["seq"] for frame in frames] == list(range(first["seq"] + 1, int(seq) + 1))
    assert_linked(frames, first["hash"])
    assert int(seq) < last
    async with stream(server, after_seq=int(seq), after_hash=frames[-1]["hash"]) as opened:
        await opened.ready()
        rest = await opened.until(last)
    assert_linked([*frames, *rest])


async def test_a_stuck_reader_that_never_comes_back_is_evicted_once(server: ServerProcess) -> None:
    client = Client(server)
    client.decide()
    before = sockets_of(server)
    async with stuck(server) as connection:
        await Stream(connection).ready()
        assert sockets_of(server) == before + 1
        await asyncio.to_thread(fill, client, 300, 4000)
        await logged(server, "stream evicted: the client does not read")
        start_s = time.monotonic()
        while sockets_of(server) > before:
            assert time.monotonic() - start_s < PATIENCE_S
            await asyncio.sleep(0.1)
    evicted = [line for line in server.log_lines() if str(line.get("event", "")).startswith("stream evicted")]
    assert len(evicted) == 1
    assert evicted[0]["level"] == "warning"


def test_everybody_else_gets_every_entry_in_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_server(tmp_path_factory.mktemp("crowd")) as server:
        client = Client(server)
        start = client.decide()["seq"]
        path = f"/ws/v1/stream?api_key={server.key}"
        with crowd(server.url, path, SUBSCRIBERS, stuck=1) as members:
            last = fill(client, ENTRIES, 3000)
            seen = members.finish(ENTRIES)
        assert last == start + ENTRIES
        assert seen["wrong"] == 0
        assert seen["closes"] == []
        assert seen["frames"] >= SUBSCRIBERS * ENTRIES
