"""Whatever dies, a client that resumes where it was has every entry once; what was rewritten is never passed off.

With ``--long`` 1,000 cycles; fewer are enough for every day.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx2
import pytest

from precipiq_testkit.postgres import OwnPostgres, own_postgres
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client
from tests.ws_stream.following import (
    Appender,
    EventsFollower,
    Follower,
    Refused,
    cut_after,
    reset,
    rewrite_from,
)
from tests.ws_stream.streams import Stream, stream, stream_url

pytestmark = pytest.mark.anyio

ROUNDS = rounds(1, long=50)
CYCLES = 20 * ROUNDS
EVENT_CYCLES = 5 * ROUNDS
ENTRIES_BEFORE = 1500
NEW_CLIENT_EVERY = 60
SAMPLES = 30
GONE_WITHIN_S = 120.0


@pytest.fixture(params=["sqlite", "postgres"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, OwnPostgres | None]]:
    """A server, and the PostgreSQL of its own if it has one."""
    folder = tmp_path_factory.mktemp("chaos")
    if request.param == "sqlite":
        with running_server(folder) as server:
            yield server, None
        return
    with own_postgres(durable=True) as own, running_server(folder, postgres=own.server.new_database()) as server:
        yield server, own


class Chaos:
    """A server that is killed, and a database that is restarted, at moments chosen at random."""

    def __init__(self, server: ServerProcess, own: OwnPostgres | None, chosen: random.Random) -> None:
        self.server = server
        self.own = own
        self.chosen = chosen
        self.done = Counter[str]()

    def faults(self, count: int) -> list[str]:
        """What happens in each cycle: mostly the client breaks its connection off."""
        kills, restarts = max(2, count // 30), max(1, count // 100) if self.own is not None else 0
        faults = ["kill"] * kills + ["database"] * restarts
        faults += ["reset"] * (count - len(faults))
        self.chosen.shuffle(faults)
        return faults

    async def cycle(self, follower: Follower, fault: str) -> None:
        """One connection of that client, and its end."""
        self.done[fault] += 1
        if fault == "reset":
            await self._until_reset(follower)
            return
        pause_s = self.chosen.uniform(0, 0.2)
        harm = asyncio.create_task(asyncio.to_thread(self._kill if fault == "kill" else self._restart_database))
        while not harm.done():
            if not await follower.follow(10_000, pause_s + 0.05):
                await asyncio.sleep(0.02)
        await harm

    async def _until_reset(self, follower: Follower) -> None:
        if self.chosen.random() < 0.1:
            await abandon_handshake(self.server, self.chosen)
        frames_max = self.chosen.randint(0, self.chosen.choice((3, 100, 700)))
        while not await follower.follow(frames_max, self.chosen.uniform(0.02, 0.3)):
            await asyncio.sleep(0.02)

    def _kill(self) -> None:
        port = self.server.url.rpartition(":")[2]
        self.server.kill()
        self.server.start_on(port)

    def _restart_database(self) -> None:
        assert self.own is not None
        how = self.chosen.choice((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))
        if how is signal.SIGKILL:
            self.own.kill()
        else:
            self.own.stop(how)
        self.own.start()


async def abandon_handshake(server: ServerProcess, chosen: random.Random) -> None:
    """Begin a stream and reset the connection somewhere in the handshake."""
    url = urlsplit(stream_url(server, after_seq=0))
    request = (
        f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with suppress(OSError):
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(request[: chosen.choice((10, len(request)))].encode())
        await asyncio.sleep(chosen.uniform(0, 0.01))
        reset(writer.get_extra_info("socket"))
        writer.transport.abort()


@asynccontextmanager
async def appending(server: ServerProcess, seed: int, pause_s: float = 0.03) -> AsyncIterator[Appender]:
    """Appends go on as long as this is entered."""
    appender = Appender(server, seed, pause_s)
    appender.start()
    try:
        yield appender
    finally:
        await appender.finish()


async def assert_equal_to_the_ledger(follower: Follower, chosen: random.Random) -> None:
    """Every entry, once, in order; every field of a frame is that of the ledger."""
    client = Client(follower.server)
    entries = await asyncio.to_thread(client.entries, 500)
    assert [frame["seq"] for frame in follower.frames] == list(range(1, follower.seq + 1))
    for frame, entry in zip(follower.frames, entries[: follower.seq], strict=True):
        statement = entry["statement"]
        expected = (statement["seq"], statement["id"], entry["hash"], statement["prev_hash"], statement["timestamp"])
        assert tuple(frame[name] for name in ("seq", "id", "hash", "prev_hash", "timestamp")) == expected
    decisions = [frame for frame in follower.frames if frame["type"] == "decision.created"]
    for frame in chosen.sample(decisions, min(SAMPLES, len(decisions))):
        assert frame["data"] == await asyncio.to_thread(client.data, "GET", f"/decisions/{frame['id']}")


async def let_go(server: ServerProcess) -> None:
    """Wait until the server has no stream left."""
    async with asyncio.timeout(GONE_WITHIN_S):
        while True:
            async with httpx2.AsyncClient(trust_env=False) as http:
                text = (await http.get(f"{server.url}/metrics")).text
            counts = [line for line in text.splitlines() if line.startswith("precipiq_stream_connections{")]
            if all(line.endswith(" 0.0") for line in counts):
                return
            await asyncio.sleep(0.05)


def seed_of_test() -> int:
    """Named, or new; printed so that a failure can be had again."""
    seed = int(os.environ.get("PRECIPIQ_TEST_SEED", int.from_bytes(os.urandom(4))))
    print(f"seed {seed}")
    return seed


def fill(server: ServerProcess, count: int) -> None:
    client = Client(server)
    for start in range(0, count, 100):
        decisions = [
            {"agent_id": f"a-{number % 5}", "action_type": "t", "inputs": {"n": number}, "outputs": {}, "confidence": 1}
            for number in range(start, min(start + 100, count))
        ]
        client.data("POST", "/decisions/batch", json={"decisions": decisions})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "cycles"), [(Follower, CYCLES), (EventsFollower, EVENT_CYCLES)])
async def test_whatever_dies_a_client_that_resumes_has_every_entry_once(
    place: tuple[ServerProcess, OwnPostgres | None], kind: type[Follower], cycles: int
) -> None:
    server, own = place
    seed = seed_of_test()
    chosen = random.Random(seed)
    chaos = Chaos(server, own, chosen)
    await asyncio.to_thread(fill, server, ENTRIES_BEFORE)
    followers = [kind(server)]
    async with appending(server, seed) as appender:
        for number, fault in enumerate(chaos.faults(cycles)):
            if number % NEW_CLIENT_EVERY == NEW_CLIENT_EVERY - 1:
                followers.append(kind(server))
            await chaos.cycle(followers[-1], fault)
    head = (await asyncio.to_thread(Client(server).data, "GET", "/ledger/head"))["seq"]
    await followers[-1].catch_up(head)
    await let_go(server)
    for follower in followers:
        await assert_equal_to_the_ledger(follower, chosen)
    frames = followers[-1].frames
    streamed = {frame["data"]["external_id"] for frame in frames if frame["type"] == "decision.created"}
    assert appender.acknowledged.keys() <= streamed
    connections = sum(follower.connections_count for follower in followers)
    caught_up = sum(follower.caught_up_count for follower in followers)
    print(f"{dict(chaos.done)}: {connections} connections, {caught_up} caught up, {head} entries")
    assert connections >= cycles


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "running"])
async def test_resuming_behind_a_rewritten_history_is_4409(
    tenant: ServerProcess, shared_server: ServerProcess, is_stopped: bool
) -> None:
    await asyncio.to_thread(fill, tenant, 40)
    followers = [Follower(tenant) for _ in range(4)]
    for follower, seq in zip(followers, (9, 10, 25, 41), strict=True):
        await follower.catch_up(seq)
    if is_stopped:
        await asyncio.to_thread(shared_server.stop)
    await asyncio.to_thread(rewrite_from, tenant, 10)
    if is_stopped:
        await asyncio.to_thread(shared_server.start_on, tenant.url.rpartition(":")[2])
    for follower in followers:  # the first knows nothing that changed, but no server made what comes after
        with pytest.raises(Refused) as refused:
            await follower.catch_up(41) if follower is followers[0] else await follower.follow(1, 10)
        assert refused.value.code == 4409


async def test_resuming_behind_a_cut_tail_is_4409(tenant: ServerProcess, shared_server: ServerProcess) -> None:
    await asyncio.to_thread(fill, tenant, 20)
    follower = Follower(tenant)
    await follower.catch_up(21)
    await asyncio.to_thread(shared_server.stop)
    await asyncio.to_thread(cut_after, tenant, 15)
    await asyncio.to_thread(shared_server.start_on, tenant.url.rpartition(":")[2])
    for entries in (0, 30):  # while it is missing, and when other entries stand in its place
        await asyncio.to_thread(fill, tenant, entries)
        with pytest.raises(Refused) as refused:
            await follower.follow(1, 10)
        assert refused.value.code == 4409


@pytest.mark.parametrize("first", [2, 15, 21], ids=["from the second", "in the middle", "the last"])
async def test_a_chain_rewritten_under_a_connected_client_ends_it_at_the_next_entry(
    tenant: ServerProcess, first: int
) -> None:
    await asyncio.to_thread(fill, tenant, 20)
    async with stream(tenant) as live, stream(tenant, after_seq=0) as replayed:
        await live.ready()
        await replayed.until(21)
        await asyncio.to_thread(rewrite_from, tenant, first)
        await asyncio.to_thread(fill, tenant, 5)
        assert await frames_and_code(live) == ([], 4409)
        assert await frames_and_code(replayed) == ([], 4409)
    async with stream(tenant, after_seq=0) as opened:
        await opened.ready()
        seqs, code = await frames_and_code(opened)
        assert code == 4409, "no server of this deployment made what stands there now"
        assert max(seqs, default=0) < first


async def test_a_chain_cut_under_a_connected_client_ends_it(tenant: ServerProcess) -> None:
    await asyncio.to_thread(fill, tenant, 20)
    async with stream(tenant) as opened:
        await opened.ready()
        await asyncio.to_thread(cut_after, tenant, 12)
        await asyncio.to_thread(fill, tenant, 20)
        assert await frames_and_code(opened) == ([], 4409)


async def test_a_cut_is_noticed_without_a_new_entry(tenant: ServerProcess) -> None:
    await asyncio.to_thread(fill, tenant, 20)
    async with stream(tenant) as opened:
        await opened.ready()
        await asyncio.to_thread(cut_after, tenant, 12)
        assert await frames_and_code(opened) == ([], 4409)


async def frames_and_code(opened: Stream) -> tuple[list[int], int]:
    """Seqs of the entries that still come, then the close code."""
    seqs: list[int] = []
    while True:
        try:
            frame = await opened.next()
        except Exception:  # whatever ended it
            return seqs, opened.connection.close_code or 1006
        if frame["id"] is not None:
            seqs.append(frame["seq"])
