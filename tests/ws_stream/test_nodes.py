"""Several nodes over one PostgreSQL: an entry reaches the subscribers of all, whichever node, listener or wire dies."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from precipiq_testkit.pooler import FaultProxy
from precipiq_testkit.postgres import OwnPostgres, PostgresDatabase, PostgresServer, execute, own_postgres
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client
from tests.ws_stream.following import EVENTUALLY_S, Follower, eventually, reset
from tests.ws_stream.streams import Stream, assert_linked, stream
from tests.ws_stream.test_chaos import appending, assert_equal_to_the_ledger, fill

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.slow]

DATABASE_AWAY_S = rounds(1, long=3)
KILLS = rounds(1, long=3)
CUTS = rounds(6, long=12)
LISTENERS_ENDED = rounds(3, long=10)


class Relay:
    """A network on loopback in front of a server: it can break a connection off in the middle of what is sent."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.key = server.key
        self.url = ""
        self.how = ""
        self.bytes_left = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def fail(self, how: str, bytes_left: int) -> None:
        """After that many bytes to a client: ``reset``, ``end`` (no more comes) or ``stall``; an empty word: never."""
        self.how, self.bytes_left = how, bytes_left

    async def __aenter__(self) -> Relay:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self.server.url.removeprefix("http://").partition(":")
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
            sending = asyncio.create_task(self._requests(reader, server_writer))
            try:
                await self._answers(server_reader, writer)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                server_writer.transport.abort()
                writer.transport.abort()
        self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if self.how:
                data = data[: self.bytes_left]
                self.bytes_left -= len(data)
            writer.write(data)
            await writer.drain()
            if self.how and not self.bytes_left:
                await self._break(writer)
                return

    async def _break(self, writer: asyncio.StreamWriter) -> None:
        if self.how == "stall":
            await asyncio.Event().wait()
        elif self.how == "reset":
            reset(writer.get_extra_info("socket"))
        else:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
def postgres(migrated_database: PostgresDatabase) -> PostgresDatabase:
    """Nodes come to a schema that is there."""
    return migrated_database


@contextmanager
def nodes(folder: Path, postgres: PostgresDatabase, *overrides: dict[str, str]) -> Iterator[list[ServerProcess]]:
    """That many started servers over one database, with the first one's organisation and key."""
    with ExitStack() as stack:
        started: list[ServerProcess] = []
        for number, override in enumerate(overrides):
            place = folder / f"node-{number}"
            if started:
                (place / "data").mkdir(parents=True, mode=0o700)
                shutil.copy(started[0].data_dir / "master.key", place / "data" / "master.key")
            node = stack.enter_context(running_server(place, postgres=postgres, overrides=override))
            if started:
                node.key, node.org_id = started[0].key, started[0].org_id
            started.append(node)
        yield started


@pytest.fixture
def pair(postgres: PostgresDatabase, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    with nodes(tmp_path, postgres, {}, {}) as started:
        yield started


@pytest.fixture
def own() -> Iterator[tuple[OwnPostgres, PostgresDatabase]]:
    """A PostgreSQL that a test may stop, and a database on it."""
    with own_postgres(durable=True) as started:
        yield started, started.server.new_database()


@asynccontextmanager
async def streams(*servers: ServerProcess) -> AsyncIterator[list[Stream]]:
    """A live stream of each."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(stream(server)) for server in servers]
        for each in opened:
            await each.ready()
        yield opened


async def append(server: ServerProcess, count: int) -> int:
    """Entries through that server; the chain's last seq."""
    await asyncio.to_thread(fill, server, count)
    return int((await asyncio.to_thread(Client(server).data, "GET", "/ledger/head"))["seq"])


async def test_an_append_on_any_node_reaches_the_subscribers_of_all(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The second node has two workers; the kernel deals its connections out among them."""
    with nodes(tmp_path, postgres, {}, {"PRECIPIQ__SERVER__WORKERS": "2"}) as (first, second):
        async with streams(first, *[second] * 8) as opened:
            for node in (first, second, first, second):
                last = await append(node, 15)
            received = await asyncio.gather(*(each.until(last) for each in opened))
        for frames in received:
            assert_linked(frames)
            assert len(frames) == 60
            assert frames == received[0]


async def test_subscribers_of_a_node_that_dies_go_on_at_another(pair: list[ServerProcess]) -> None:
    chosen = random.Random(7)
    first, second = pair
    port = first.url.rpartition(":")[2]
    followers = [Follower(first) for _ in range(4)]
    async with appending(second, 7) as appender:
        for _ in range(KILLS):
            for follower in followers:
                follower.server = first
            going = [asyncio.create_task(follower.follow(100_000, 60)) for follower in followers]
            before = len(appender.acknowledged)
            await eventually(lambda before=before: len(appender.acknowledged) > before + 50)  # type: ignore[misc]
            await asyncio.to_thread(first.kill)
            assert not any(await asyncio.gather(*going)), "the connection was lost, not left"
            for follower in followers:
                follower.server = second
                await follower.follow(chosen.randint(1, 200), 5)
            await asyncio.to_thread(first.start_on, port)
    head = await append(second, 1)
    for follower in followers:
        await follower.catch_up(head)
        await assert_equal_to_the_ledger(follower, chosen)


async def listeners(postgres: PostgresDatabase) -> set[int]:
    """Process ids of the connections that listen. A check of one that is idle is its last statement."""
    rows = await execute(
        postgres.admin_url,
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{postgres.name}' AND pid <> pg_backend_pid() "
        "AND (query ILIKE 'LISTEN %' OR query = 'SELECT 1')",
    )
    return {row[0] for row in rows}


async def end_listeners(postgres: PostgresDatabase) -> int:
    """Cut them; how many there were."""
    pids = await listeners(postgres)
    await execute(postgres.admin_url, *(f"SELECT pg_terminate_backend({pid})" for pid in pids))
    return len(pids)


async def test_without_a_listener_delivery_goes_on_by_looking_and_then_it_listens_again(
    pair: list[ServerProcess], postgres: PostgresDatabase
) -> None:
    first, second = pair
    async with streams(first, second) as opened:
        await asyncio.to_thread(lambda: [fill(node, 1) for node in pair for _ in range(5)])  # pools have connections
        frames: list[list[dict[str, object]]] = [[], []]
        await execute(postgres.admin_url, f"ALTER DATABASE {postgres.name} CONNECTION LIMIT 0")
        assert await end_listeners(postgres) == 2
        for _ in range(3):
            last = await append(first, 5)
            for each, seen in zip(opened, frames, strict=True):
                seen += await each.until(last)
        assert await listeners(postgres) == set()
        await execute(postgres.admin_url, f"ALTER DATABASE {postgres.name} CONNECTION LIMIT -1")
        async with asyncio.timeout(EVENTUALLY_S):
            while len(await listeners(postgres)) < 2:
                await asyncio.sleep(0.05)
        for _ in range(LISTENERS_ENDED):
            await end_listeners(postgres)
            last = await append(first, 3)
            for each, seen in zip(opened, frames, strict=True):
                seen += await each.until(last)
    for seen in frames:
        assert_linked(seen)
        assert len(seen) == 10 + 15 + 3 * LISTENERS_ENDED


async def test_what_one_node_erased_no_other_shows_to_who_comes_later(pair: list[ServerProcess]) -> None:
    """The other keeps pages of replays and its newest entries; it may not have heard of the redaction yet."""
    first, second = pair
    client = Client(first)
    await append(first, 100)
    entries = await asyncio.to_thread(client.entries, 500)
    for last, entry in enumerate(entries[5 : 95 : rounds(30, long=9)], 101):
        statement = entry["statement"]
        async with stream(second, after_seq=0) as opened:
            await opened.until(last)
        path = f"/decisions/{statement['id']}/redact"
        await asyncio.to_thread(client.data, "POST", path, json={"reason": "asked for"})
        async with stream(second, after_seq=0) as opened:
            frame = (await opened.until(last + 1))[statement["seq"] - 1]
        assert frame["data"].get("redacted") is True, frame
        assert frame["data"]["inputs"] is None


async def test_a_network_that_breaks_in_the_middle_of_a_replay_costs_nothing(pair: list[ServerProcess]) -> None:
    server, _ = pair
    head = await append(server, 1500)
    chosen = random.Random(11)
    async with Relay(server) as relay:
        follower = Follower(relay)  # type: ignore[arg-type]
        broken = 0
        while follower.seq < head:
            how = chosen.choice(("reset", "end", "stall"))
            relay.fail(how if broken < CUTS else "", chosen.randint(1, 100_000))
            broken += 1
            await follower.follow(head - follower.seq, 0.5 if how == "stall" else 10)
        follower.server = server
    assert follower.connections_count > CUTS // 2
    await assert_equal_to_the_ledger(follower, chosen)


async def test_a_network_to_the_database_that_breaks_ends_no_stream(
    own: tuple[OwnPostgres, PostgresDatabase], tmp_path: Path
) -> None:
    _, database = own
    with FaultProxy(*database.server.address) as proxy:
        behind = replace(database, server=PostgresServer(f"postgresql://postgres@127.0.0.1:{proxy.port}"))
        with running_server(tmp_path / "node", postgres=behind) as server:
            await append(server, 800)
            follower = Follower(server)
            async with streams(server) as [live]:
                following = asyncio.create_task(follower.catch_up(901))
                for _ in range(10):
                    await asyncio.to_thread(proxy.cut_all)
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(proxy.freeze)
                await asyncio.sleep(1)
                await asyncio.to_thread(proxy.pass_through)
                await asyncio.to_thread(retried, server, 100)
                frames = await live.until(901)
                await following
            assert [frame["seq"] for frame in frames] == list(range(802, 902))
            assert_linked(frames)
            await assert_equal_to_the_ledger(follower, random.Random(3))


async def test_streams_stay_open_while_the_database_is_away(
    own: tuple[OwnPostgres, PostgresDatabase], tmp_path: Path
) -> None:
    postgres, database = own
    with nodes(tmp_path, database, {}, {}) as pair:
        await append(pair[0], 50)
        async with streams(*pair) as opened:
            for how in (signal.SIGINT, signal.SIGQUIT):
                await asyncio.to_thread(postgres.stop, how)
                await asyncio.sleep(DATABASE_AWAY_S)
                await asyncio.to_thread(postgres.start)
                await asyncio.to_thread(retried, pair[0], 10)
                last = await append(pair[1], 1)
                received = [await each.until(last) for each in opened]
                assert received[0] == received[1]
                assert len(received[0]) == 11
                assert_linked(received[0])


def retried(server: ServerProcess, count: int) -> None:
    """Entries, sent again until they are acknowledged."""
    client = Client(server)
    decisions = [
        {"agent_id": "a", "action_type": "t", "inputs": {}, "outputs": {}, "confidence": 1} for _ in range(count)
    ]
    for attempt in range(1000):
        answer = client.http.post(
            "/decisions/batch", json={"decisions": decisions}, headers={"Idempotency-Key": f"retried-{id(decisions)}"}
        )
        if answer.is_success:
            return
        assert answer.status_code == 503, (attempt, answer.text)
    raise AssertionError("never acknowledged")
