"""The network to PostgreSQL fails at the worst moments: an append is one entry, waits are bounded, everything heals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import pytest

from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.entry_store import Appended, EntryStore
from precipiq_contracts.errors import Unavailable
from precipiq_postgres import address as postgres_address
from precipiq_postgres import service as postgres_service
from precipiq_postgres.entries import append as postgres_append
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.errors import AWAY, UNKNOWN_OUTCOME
from precipiq_postgres.roles import begin_as, literal
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres as testkit
from precipiq_testkit.pooler import FaultProxy
from precipiq_testkit.sealing import Writer
from tests.databases import POSTGRES_ENTRIES
from tests.ledger.intruders import core_database

pytestmark = pytest.mark.anyio

T = TypeVar("T")

CHAIN, OTHER = Chain("org_alpha", "live"), Chain("org_beta", "live")
NOTES = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "notes_0001", None, ("notes",), None
def upgrade():
    op.execute("CREATE TABLE notes (note TEXT PRIMARY KEY)")
"""
ADD = "INSERT INTO notes (note) VALUES (:note)"

BEGIN, APPEND, COMMIT, LOCK = b"BEGIN ", b"append_entries", b"COMMIT\0", b"SELECT lock_chain"  # READ COMMITTED is none

DEADLINE_S = 60.0  # of what ends far earlier unless something is broken
SHORT = pytest.mark.parametrize("retry_s", [1.5], ids=["short retries"])


@dataclass
class Node:
    """A database with its entry store, as one server process opens them."""

    database: PostgresDatabase
    store: EntryStore
    writer: Writer

    async def settle(self, other: Node | None = None) -> None:
        """Make the next append one on the head as it is known; with another node that appends, one under the lock."""
        for node in (self, self) if other is None else (self, other, self):
            await node.writer.append(CHAIN)
        await asyncio.sleep(0.1)  # until the notifications are out

    async def stored(self, chain: Chain = CHAIN) -> Sequence[Entry]:
        return await self.store.read(chain, 0, 10_000)


@pytest.fixture(scope="module")
def migrations(shared_postgres: testkit.PostgresDatabase, tmp_path_factory: pytest.TempPathFactory) -> list[Migration]:
    """The schema of a module's database, which has it already."""
    folder = tmp_path_factory.mktemp("notes")
    (folder / "0001_notes.py").write_text(NOTES)
    migrations = [Migration("notes", folder, {}), POSTGRES_ENTRIES]
    core_database(shared_postgres).migrate(migrations)
    return migrations


@pytest.fixture
def postgres(
    shared_postgres: testkit.PostgresDatabase, migrations: list[Migration]
) -> Iterator[testkit.PostgresDatabase]:
    yield shared_postgres
    shared_postgres.empty("entries", "notes")


@pytest.fixture
def network(postgres: testkit.PostgresDatabase) -> Iterator[FaultProxy]:
    """What stands between the faulty node and the database."""
    with FaultProxy(*postgres.server.address) as proxy:
        try:
            yield proxy
        finally:
            proxy.pass_through()


def via(proxy: FaultProxy, postgres: testkit.PostgresDatabase) -> str:
    return f"postgresql://{postgres.runtime_role}@127.0.0.1:{proxy.port}/{postgres.name}"


@asynccontextmanager
async def opened(
    postgres: testkit.PostgresDatabase,
    migrations: Sequence[Migration],
    seed: int,
    watch_poll_s: float = 0.2,
    **settings: object,
) -> AsyncIterator[Node]:
    database = core_database(postgres, migrate_at_start=False, **settings)
    options = DriverOptions(watch_poll_s=watch_poll_s)
    async with database.open(migrations), PostgresDriver(database, options).open() as store:
        yield Node(database, store, Writer(store, seed=seed))


@pytest.fixture
async def other(postgres: testkit.PostgresDatabase, migrations: list[Migration]) -> AsyncIterator[Node]:
    """A node whose network is well."""
    async with opened(postgres, migrations, seed=2) as node:
        yield node


@pytest.fixture
def retry_s() -> float:
    """How long an append is tried, seconds: longer than any machine needs to connect again."""
    return 30.0


@pytest.fixture(params=["direct", "in transactions"])
async def node(
    request: pytest.FixtureRequest,
    postgres: testkit.PostgresDatabase,
    migrations: list[Migration],
    network: FaultProxy,
    other: Node,
    retry_s: float,
) -> AsyncIterator[Node]:
    """The node behind the faulty network; ``in transactions``: as behind a pooler, an append is never one message."""
    where = {"url": via(network, postgres), "listen_url": postgres.url, "connections_max": 3, "retry_s": retry_s}
    pooled = {"transaction_pooler": request.param == "in transactions"}
    async with opened(postgres, migrations, seed=1, **where, **pooled) as node:
        node.writer = Writer(node.store, other.writer.clock, seed=1)
        yield node


async def outcome(work: Awaitable[T]) -> T | Unavailable:
    """What came of it, or why it is unavailable."""
    try:
        return await asyncio.wait_for(work, DEADLINE_S)
    except Unavailable as error:
        return error


async def assert_whole(node: Node, count: int, chain: Chain = CHAIN) -> Sequence[Entry]:
    """The chain has that many entries and verifies."""
    entries = await node.stored(chain)
    assert [entry.seq for entry in entries] == list(range(1, count + 1))
    stretch = await asyncio.to_thread(verify_stretch, node.store.auditor(), chain, GENESIS, None, batch_entries=100)
    assert (stretch.broken, stretch.checked_count) == (None, count)
    return entries


CUTS = [
    pytest.param(moment, pattern, times, id=f"{moment} {pattern[:6].decode()} x{times}")
    for moment in ("request", "answer")
    for pattern in (APPEND, COMMIT, BEGIN)
    for times in ((1,) if moment == "request" else (1, 3))
]


@pytest.mark.parametrize(("moment", "pattern", "times"), CUTS)
@pytest.mark.parametrize("shared", [False, True], ids=["known head", "under lock"])
async def test_an_append_whose_connection_is_cut_is_one_entry(
    node: Node, other: Node, network: FaultProxy, moment: str, pattern: bytes, times: int, shared: bool
) -> None:
    await node.settle(other if shared else None)
    before = len(await other.stored())
    cut = network.cut_before_request if moment == "request" else network.cut_before_answer
    cut(pattern, times=times)

    appended = await asyncio.gather(*(node.writer.append(CHAIN, node.writer.draft(key=f"k{n}")) for n in range(3)))
    batch = await node.writer.append(CHAIN, *(node.writer.draft() for _ in range(4)))

    network.pass_through()
    entries = await assert_whole(other, before + 7)
    for each in [*appended, batch]:
        assert set(each.created) == {True}
        assert list(each.entries) == [entries[entry.seq - 1] for entry in each.entries]


@pytest.mark.parametrize("pattern", [b"erase_payload", COMMIT])
@pytest.mark.parametrize("moment", ["request", "answer"])
async def test_a_redaction_whose_connection_is_cut_is_one_entry_and_erases(
    node: Node, other: Node, network: FaultProxy, pattern: bytes, moment: str
) -> None:
    target = (await node.writer.append(CHAIN)).entries[0]
    (network.cut_before_request if moment == "request" else network.cut_before_answer)(pattern)
    redaction = await node.writer.redact(CHAIN, target)
    assert network.hits == 1
    entries = await assert_whole(other, 2)
    assert entries[0].payload is None
    assert entries[1] == redaction


async def test_an_append_that_another_node_overtakes_while_cut_is_sealed_anew(
    node: Node, other: Node, network: FaultProxy
) -> None:
    await node.settle()
    network.refuse()
    network.cut_all()
    waiting = asyncio.ensure_future(node.writer.append(CHAIN, node.writer.draft(key="late")))
    await asyncio.sleep(0.3)
    for _ in range(3):
        await other.writer.append(CHAIN)
    network.pass_through()
    appended = await asyncio.wait_for(waiting, DEADLINE_S)
    entries = await assert_whole(other, 6)
    assert appended.entries == (entries[5],)


@SHORT
async def test_away_for_longer_than_the_retries_nothing_is_stored(node: Node, other: Node, network: FaultProxy) -> None:
    await node.settle()
    network.refuse()
    network.cut_all()
    drafts = [node.writer.draft(key=f"k{number}") for number in range(3)]
    started_s = time.monotonic()
    for result in await asyncio.gather(*(outcome(node.writer.append(CHAIN, draft)) for draft in drafts)):
        assert isinstance(result, Unavailable)
        assert result.message == AWAY
    assert time.monotonic() - started_s > 0.5, "they are told only after some tries"
    network.pass_through()
    await assert_whole(other, 2)
    for draft in drafts:
        assert (await node.writer.append(CHAIN, draft)).created == (True,)
    await assert_whole(other, 5)


@SHORT
@pytest.mark.parametrize("is_stored", [True, False])
async def test_an_outcome_that_stays_unknown_is_said_and_the_key_tells(
    node: Node, other: Node, network: FaultProxy, is_stored: bool
) -> None:
    await node.settle()
    last_message = COMMIT if node.database.settings.transaction_pooler else APPEND
    (network.cut_before_answer if is_stored else network.cut_before_request)(last_message)
    network.cut_before_request(LOCK, times=1000)  # with which each further attempt begins
    draft = node.writer.draft(key="unknown")
    result = await outcome(node.writer.append(CHAIN, draft))
    assert isinstance(result, Unavailable)
    assert result.message == UNKNOWN_OUTCOME
    network.pass_through()
    await assert_whole(other, 2 + is_stored)
    again = await node.writer.append(CHAIN, draft)
    assert again.created == (not is_stored,)
    entries = await assert_whole(other, 3)
    assert again.entries == (entries[2],)


async def test_reads_and_writes_go_on_at_once_after_every_connection_was_cut(
    node: Node, other: Node, network: FaultProxy
) -> None:
    for round_ in range(5):
        await asyncio.gather(*(node.writer.append(chain) for chain in (CHAIN, OTHER) for _ in range(5)))
        network.cut_all()
        await asyncio.sleep(0.05)  # until the resets have arrived
        results = await asyncio.gather(
            node.store.head(CHAIN), node.store.read(OTHER, 0, 5), node.database.ping(), node.writer.append(CHAIN)
        )
        assert isinstance(results[3], Appended)
        assert len(await other.stored()) == 6 * (round_ + 1)


async def test_a_transaction_that_is_cut_at_its_commit_says_that_the_outcome_is_unknown(
    node: Node, other: Node, network: FaultProxy
) -> None:
    network.cut_before_request(COMMIT)
    with pytest.raises(Unavailable, match="may or may not"):
        await node.database.transaction([Statement(ADD, {"note": "lost"})])
    network.cut_before_answer(COMMIT)
    with pytest.raises(Unavailable, match="may or may not"):
        await node.database.transaction([Statement(ADD, {"note": "stored"})])
    network.cut_before_answer(b"INSERT INTO notes")
    with pytest.raises(Unavailable, match=AWAY):
        await node.database.transaction([Statement(ADD, {"note": "undone"})])
    assert await other.database.fetch(Statement("SELECT note FROM notes")) == [{"note": "stored"}]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for an answer, shortened: for what nothing else bounds."""
    monkeypatch.setattr(postgres_service, "_COMMAND_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_address, "_COMMAND_TIMEOUT_S", 1.0)


@SHORT
@pytest.mark.usefixtures("impatient")
async def test_in_a_frozen_network_every_wait_ends_and_what_thaws_heals(
    node: Node, other: Node, network: FaultProxy
) -> None:
    await node.settle()
    network.freeze()
    draft = node.writer.draft(key="frozen")
    waiting = [asyncio.ensure_future(outcome(node.writer.append(CHAIN, draft)))]
    await asyncio.sleep(0.05)  # it is on its way before the others
    work = [node.writer.append(OTHER), node.store.head(CHAIN), node.database.ping()]
    waiting += [asyncio.ensure_future(outcome(each)) for each in work]
    await asyncio.gather(other.writer.append(OTHER), other.store.head(CHAIN), other.stored())
    assert not all(task.done() for task in waiting), "the other node waits for none of them"
    for result in await asyncio.gather(*waiting):
        assert isinstance(result, Unavailable)

    network.pass_through()
    healing = asyncio.gather(node.database.ping(), node.store.head(CHAIN), node.writer.append(OTHER))
    await asyncio.wait_for(healing, DEADLINE_S)
    again = await node.writer.append(CHAIN, draft)
    entries = await assert_whole(other, 3)
    assert again.entries == (entries[2],)


async def test_a_network_that_thaws_in_time_was_only_slow(node: Node, other: Node, network: FaultProxy) -> None:
    await node.settle()
    network.freeze()
    waiting = [asyncio.ensure_future(node.writer.append(CHAIN)) for _ in range(5)]
    reading = asyncio.ensure_future(node.store.head(CHAIN))
    await asyncio.sleep(1)
    assert not any(task.done() for task in [*waiting, reading])
    network.pass_through()
    await asyncio.wait_for(asyncio.gather(*waiting, reading), DEADLINE_S)
    await assert_whole(other, 7)


async def test_closing_in_a_frozen_network_ends_though_answers_are_waited_for_longer(
    postgres: testkit.PostgresDatabase,
    migrations: list[Migration],
    network: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_service, "_CLOSE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_append, "_FINISH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_service, "_COMMAND_TIMEOUT_S", 2 * DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S), opened(postgres, migrations, 1, url=via(network, postgres)) as node:
        await node.writer.append(CHAIN)
        network.freeze()
        stuck = [asyncio.ensure_future(outcome(node.writer.append(chain))) for chain in (CHAIN, CHAIN, OTHER)]
        await asyncio.sleep(0.1)
        stuck += [asyncio.ensure_future(outcome(work)) for work in (node.writer.append(CHAIN), node.stored())]
        await asyncio.sleep(0.1)
    results = await asyncio.gather(*stuck)
    assert all(isinstance(result, Unavailable) for result in results)
    assert [result.message for result in results[:2]] == [UNKNOWN_OUTCOME] * 2


async def test_a_watcher_is_woken_when_its_listening_connection_is_cut_or_frozen(
    postgres: testkit.PostgresDatabase, migrations: list[Migration], network: FaultProxy, other: Node
) -> None:
    where = {"listen_url": via(network, postgres)}
    async with opened(postgres, migrations, 1, **where) as node, node.store.watch(CHAIN) as wake_ups:
        await _woken(wake_ups, other)
        network.cut_all()
        await _woken(wake_ups, other)
        network.freeze()
        await _woken(wake_ups, other)
        network.pass_through()
        network.refuse()
        network.cut_all()
        await _woken(wake_ups, other)


async def _woken(wake_ups: AsyncIterator[None], other: Node) -> None:
    """No wake-up is pending, then another node appends, and one comes."""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.3):
                await anext(wake_ups)
    await other.writer.append(CHAIN)
    async with asyncio.timeout(DEADLINE_S):
        await anext(wake_ups)


async def test_a_watcher_is_woken_when_its_chain_is_cut(postgres: testkit.PostgresDatabase, other: Node) -> None:
    await other.settle()
    async with other.store.watch(CHAIN) as wake_ups:
        with suppress(TimeoutError):  # until what comes at first has come, and the chain's end was looked at
            while True:
                async with asyncio.timeout(1.0):
                    await anext(wake_ups)
        delete = "DELETE FROM precipiq.entries WHERE seq = 2"
        await asyncio.to_thread(lambda: postgres.sql(*postgres.without_triggers("entries", delete)))
        async with asyncio.timeout(DEADLINE_S):
            await anext(wake_ups)


async def test_a_watcher_on_another_node_is_told_at_once(
    postgres: testkit.PostgresDatabase, migrations: list[Migration], other: Node
) -> None:
    async with opened(postgres, migrations, 3, watch_poll_s=3600.0) as node, node.store.watch(CHAIN) as wake_ups:
        await _woken(wake_ups, other)


async def test_a_node_that_stands_still_with_a_chains_lock_loses_it_in_time(
    postgres: testkit.PostgresDatabase, other: Node
) -> None:
    await other.writer.append(CHAIN)
    frozen = await asyncpg.connect(postgres.url)
    try:
        assert await frozen.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"
        await frozen.execute("SET idle_in_transaction_session_timeout = '1s'")
        await frozen.execute(begin_as(CHAIN, read_only=False))
        await frozen.execute(f"SELECT lock_chain({literal(CHAIN.org_id)}, {literal(CHAIN.environment)})")
        waiting = asyncio.ensure_future(outcome(other.writer.append(CHAIN)))
        assert isinstance(await outcome(other.writer.append(OTHER)), Appended)
        assert not waiting.done()
        result = await waiting
        if isinstance(result, Unavailable):  # its patience ended a moment before the other's transaction
            result = await outcome(other.writer.append(CHAIN))
        assert isinstance(result, Appended)
    finally:
        frozen.terminate()
    await assert_whole(other, 2)


@pytest.mark.parametrize("shared", [False, True], ids=["known head", "under lock"])
async def test_patience_with_a_locked_chain_ends_and_leaves_nothing_open(
    postgres: testkit.PostgresDatabase, migrations: list[Migration], other: Node, shared: bool
) -> None:
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    role = f"ALTER ROLE {postgres.runtime_role} IN DATABASE {postgres.name} SET lock_timeout"
    await asyncio.to_thread(postgres.sql, f"{role} = '200ms'")
    try:
        async with opened(postgres, migrations, 3) as node:
            node.writer = Writer(node.store, other.writer.clock, seed=3)
            await node.settle(other if shared else None)
            holder = await asyncpg.connect(postgres.url)
            await holder.execute(begin_as(CHAIN, read_only=False))
            await holder.execute(f"SELECT lock_chain({literal(CHAIN.org_id)}, {literal(CHAIN.environment)})")
            with pytest.raises(Unavailable, match="another writer holds the chain"):
                await node.writer.append(CHAIN)
            states = "SELECT state FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid()"
            rows = [row["state"] for row in await holder.fetch(states, postgres.runtime_role)]
            assert set(rows) <= {"idle"}
            await holder.close()
            before = len(await node.stored())
            await node.writer.append(CHAIN)
            await assert_whole(other, before + 1)
    finally:
        await asyncio.to_thread(postgres.sql, f"{role} = '10s'")
    assert problems == []
