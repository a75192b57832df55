"""Whoever waits for the database may be cancelled at any await: nothing is lost, left half done or left locked."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.database import Database, Migration, Statement
from precipiq_contracts.entry_store import EntryQuery, EntryStore
from precipiq_contracts.errors import Conflict, Unavailable
from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.service import PostgresDatabase
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit import postgres as testkit
from precipiq_testkit.sealing import Writer
from tests.databases import POSTGRES_ENTRIES, SQLITE_ENTRIES
from tests.effort import rounds

pytestmark = pytest.mark.anyio

CANCELLATIONS = {SqliteDatabase: rounds(600, long=2000), PostgresDatabase: 2000}
OPENINGS = rounds(8, long=25)
LANES = 12
CONNECTIONS = 3
AT_ONCE_S = 60.0
"""A deadline: what ends by itself should have ended long before."""
LONGEST_PAUSE_S = 0.004
LOOP_STEPS_MAX = 25

CHAINS = [Chain(f"org_{name}", environment) for name in ("alpha", "beta") for environment in ("live", "test")]  # type: ignore[arg-type]
COLUMNS = ("org_id", "environment")
NOTES = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "notes_0001", None, ("notes",), None
def upgrade():
    op.execute("CREATE TABLE notes (org_id TEXT, environment TEXT, pair TEXT, half TEXT, PRIMARY KEY (pair, half))")
"""
ADD_HALF = "INSERT INTO notes (org_id, environment, pair, half) VALUES ('org_alpha', 'live', :pair, :half)"
COUNT = Statement("SELECT count(*) AS n FROM notes")


class Store:
    """A database with its entry store, open, and what an outsider sees of them."""

    def __init__(self, database: PostgresDatabase | SqliteDatabase, entries: EntryStore, outside: Outside) -> None:
        self.database: Database = database
        self.entries = entries
        self.outside = outside
        self.own = database


class Outside:
    """The same database, looked at past every line of ours."""

    async def assert_nothing_is_held(self) -> None:
        raise NotImplementedError

    async def assert_nobody_is_there(self) -> None:
        raise NotImplementedError


class OutsideOfPostgres(Outside):
    def __init__(self, database: testkit.PostgresDatabase) -> None:
        self._database = database

    async def assert_nothing_is_held(self) -> None:
        """No transaction is open, no chain locked, and no connection above the pool's and the listener's."""
        rows = await until(lambda: self._sql(self._activity), lambda rows: {row["state"] for row in rows} <= {"idle"})
        states = Counter(row["state"] for row in rows)
        assert set(states) <= {"idle"}, states
        assert states.total() <= CONNECTIONS + 1, states
        locks = (
            "SELECT mode FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        # A cancelled opening leaves its thread to end the migrations, under their lock.
        assert await until(lambda: self._sql(locks), lambda rows: not rows) == []

    async def assert_nobody_is_there(self) -> None:
        rows = await until(lambda: self._sql(self._activity), lambda rows: not rows)
        assert not rows

    async def _sql(self, sql: str) -> list[Any]:
        return await testkit.execute(self._database.admin_url, sql)

    @property
    def _activity(self) -> str:
        return f"SELECT state FROM pg_stat_activity WHERE usename = '{self._database.runtime_role}'"


class OutsideOfSqlite(Outside):
    def __init__(self, path: Path) -> None:
        self._path = path

    async def assert_nothing_is_held(self) -> None:
        """Another process may write at once, and no reader keeps the log from being emptied."""

        def look() -> tuple[int, ...]:
            with closing(sqlite3.connect(self._path, isolation_level=None, timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("COMMIT")
                return tuple(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

        assert await asyncio.to_thread(look) == (0, 0, 0)

    async def assert_nobody_is_there(self) -> None:
        async def ours() -> list[str]:
            names = [thread.name for thread in threading.enumerate()]
            return [name for name in names if "sqlite" in name or "_connection_worker" in name]

        assert await until(ours, lambda threads: not threads) == []


async def until(look: Callable[[], Awaitable[Any]], is_good: Callable[[Any], bool]) -> Any:
    """What ``look`` saw, at the latest when everything that ends by itself should have ended."""
    deadline_s = time.monotonic() + AT_ONCE_S
    while not is_good(seen := await look()) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.02)
    return seen


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Tests use the one loop, servers the other."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def migrations(tmp_path: Path) -> list[Migration]:
    location = tmp_path / "notes"
    location.mkdir()
    (location / "0001_notes.py").write_text(NOTES)
    return [Migration("notes", location, {"notes": COLUMNS})]


Opening = Callable[[], Any]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.system)])
def opening(request: pytest.FixtureRequest, tmp_path: Path, migrations: list[Migration]) -> Opening:
    """Opens a fresh database with its entry store, each time it is called."""
    if request.param == "postgres":
        own = request.getfixturevalue("postgres")
        return lambda: open_postgres(own, [*migrations, POSTGRES_ENTRIES])
    return lambda: open_sqlite(tmp_path / "precipiq.db", [*migrations, SQLITE_ENTRIES])


@asynccontextmanager
async def open_postgres(own: testkit.PostgresDatabase, migrations: list[Migration]) -> AsyncIterator[Store]:
    settings = PostgresConfig.model_validate(
        own.settings() | {"connections_max": CONNECTIONS, "connection_wait_s": 60.0}
    )
    database = PostgresDatabase(settings)
    async with database.open(migrations), PostgresDriver(database, DriverOptions()).open() as entries:
        yield Store(database, entries, OutsideOfPostgres(own))


@asynccontextmanager
async def open_sqlite(path: Path, migrations: list[Migration]) -> AsyncIterator[Store]:
    database = SqliteDatabase(SqliteConfig(migrate_at_start=True, readers_max=CONNECTIONS), path)
    async with database.open(migrations), SqliteDriver(database, DriverOptions()).open() as entries:
        yield Store(database, entries, OutsideOfSqlite(path))


class Calls:
    """Calls of every method with made-up arguments, and what they promised or may have left."""

    def __init__(self, store: Store, chosen: random.Random) -> None:
        self.store = store
        self.chosen = chosen
        self.writer = Writer(store.entries)
        self.count = 0
        self.batches: list[tuple[Chain, list[str]]] = []
        self.acknowledged: dict[str, tuple[Entry, ...]] = {}
        self.erased: dict[str, Entry] = {}
        self.pairs: list[str] = []
        self.committed_pairs: list[str] = []
        self.of_database = [self.fetch, self.fetch_as, self.transaction, self.conflict, self.ping]
        self.of_entries = [self.append, self.append, self.batch, self.replay, self.redact, self.head, self.read,
                           self.get, self.find, self.watch, self.chains, self.ping_entries]  # fmt: skip

    def any(self) -> tuple[str, Awaitable[object]]:
        """A call, not yet begun."""
        method = self.chosen.choice(self.of_database + self.of_entries)
        return method.__name__, method()

    def chain(self) -> Chain:
        return self.chosen.choice(CHAINS)

    def name(self) -> str:
        self.count += 1
        return f"call-{self.count}"

    async def fetch(self) -> None:
        assert (await self.store.database.fetch(COUNT))[0]["n"] is not None

    async def fetch_as(self) -> None:
        assert (await self.store.database.fetch_as(self.chain(), COUNT))[0]["n"] is not None

    async def ping(self) -> None:
        await self.store.database.ping()

    async def ping_entries(self) -> None:
        await self.store.entries.ping()

    async def transaction(self) -> None:
        pair = self.name()
        self.pairs.append(pair)
        halves = [Statement(ADD_HALF, {"pair": pair, "half": half}) for half in ("left", "right")]
        await self.store.database.transaction(halves)
        self.committed_pairs.append(pair)

    async def conflict(self) -> None:
        halves = [Statement(ADD_HALF, {"pair": "refused", "half": half}) for half in ("same", "same")]
        with pytest.raises(Conflict):
            await self.store.database.transaction(halves)

    async def append(self) -> None:
        await self._append(self.chain(), 1)

    async def batch(self) -> None:
        await self._append(self.chain(), self.chosen.randrange(2, 30))

    async def replay(self) -> None:
        name = self.chosen.choice([*self.acknowledged, ""])
        if not name:
            return await self.append()
        before = self.acknowledged[name]
        drafts = [self.writer.draft(key=entry.idempotency_key) for entry in before]
        again = await self.writer.append(before[0].chain, *drafts)
        assert [entry.hash for entry in again.entries] == [entry.hash for entry in before]
        return None

    async def _append(self, chain: Chain, size: int) -> None:
        name = self.name()
        keys = [f"{name}-{index}" for index in range(size)]
        self.batches.append((chain, keys))
        appended = await self.writer.append(chain, *(self.writer.draft(key=key) for key in keys))
        assert appended.created == (True,) * size
        self.acknowledged[name] = appended.entries

    async def redact(self) -> None:
        chain = self.chain()
        appended = await self.writer.append(chain, self.writer.draft())
        await self.writer.redact(chain, appended.entries[0])
        self.erased[appended.entries[0].hash] = appended.entries[0]

    async def head(self) -> None:
        await self.store.entries.head(self.chain())

    async def read(self) -> None:
        await self.store.entries.read(self.chain(), self.chosen.randrange(50), 50)

    async def get(self) -> None:
        name = self.chosen.choice([*self.acknowledged, ""])
        if name:
            entry = self.acknowledged[name][0]
            assert await self.store.entries.get(entry.chain, parse_statement(entry.statement).id) == entry

    async def find(self) -> None:
        query = EntryQuery("decision", {"agent_id": "agent"}, {"absent": "value"} if self.chosen.random() < 0.5 else {})
        await self.store.entries.find(self.chain(), query, None, 20)

    async def watch(self) -> None:
        chain = self.chain()
        async with self.store.entries.watch(chain) as wake_ups:
            await self.writer.append(chain)
            await anext(aiter(wake_ups))

    async def chains(self) -> None:
        async for chain in self.store.entries.chains():
            assert chain in CHAINS


async def cancel_somewhere(call: Awaitable[object], chosen: random.Random) -> bool:
    """Begin a call and cancel it, perhaps twice; whether it was cancelled before it was through."""
    task = asyncio.ensure_future(call)
    if chosen.random() < 0.5:
        for _ in range(chosen.randrange(LOOP_STEPS_MAX)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(chosen.uniform(0, LONGEST_PAUSE_S))
    task.cancel()
    if chosen.random() < 0.3:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task], timeout=AT_ONCE_S)
    assert task.done(), "a cancelled call does not end"
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def test_cancelled_calls_leave_nothing_behind(opening: Opening) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    before = asyncio.all_tasks()
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    async with opening() as store:
        calls = Calls(store, chosen)
        cancelled = Counter[str]()

        async def lane() -> None:
            while cancelled.total() < CANCELLATIONS[type(store.own)]:
                name, call = calls.any()
                if await cancel_somewhere(call, chosen):
                    cancelled[name] += 1
                if chosen.random() < 0.1:  # some calls get through, and must
                    await asyncio.wait_for(calls.any()[1], AT_ONCE_S)

        await asyncio.gather(*(lane() for _ in range(LANES)))
        print(f"cancelled: {dict(cancelled)}")
        assert len(cancelled) >= len({*calls.of_database, *calls.of_entries}) - 2, "every method must have been met"

        await assert_everything_answers(calls)
        await store.outside.assert_nothing_is_held()
        await assert_whole(calls)
    await store.outside.assert_nobody_is_there()
    gc.collect()
    await asyncio.sleep(0)
    assert not problems, problems
    assert asyncio.all_tasks() <= before


async def assert_everything_answers(calls: Calls) -> None:
    """Each method, as many at a time as there are connections, and each connection at the same time."""
    async with asyncio.timeout(AT_ONCE_S):
        for method in [*calls.of_database, *calls.of_entries]:
            await asyncio.gather(*(method() for _ in range(CONNECTIONS)))
        own = calls.store.own
        if isinstance(own, PostgresDatabase):
            everybody = asyncio.Barrier(CONNECTIONS)

            async def meet(connection: asyncpg.Connection) -> int:
                await everybody.wait()
                return int(await connection.fetchval("SELECT 1"))

            assert await asyncio.gather(*(own.run(meet) for _ in range(CONNECTIONS))) == [1] * CONNECTIONS
        else:
            together = threading.Barrier(CONNECTIONS)

            def meet_in_threads(_: sqlite3.Connection) -> int:
                return together.wait(AT_ONCE_S)

            places = await asyncio.gather(*(own.readers.run(meet_in_threads) for _ in range(CONNECTIONS)))
            assert sorted(places) == list(range(CONNECTIONS))


async def assert_whole(calls: Calls) -> None:
    """What was acknowledged is stored, what was not is stored whole or not at all, and each chain verifies."""
    store = calls.store
    stored = {chain: await store.entries.read(chain, 0, 1_000_000) for chain in CHAINS}
    entries = {entry.hash: entry for chain in CHAINS for entry in stored[chain]}
    keys = Counter((entry.chain, entry.idempotency_key) for entry in entries.values() if entry.idempotency_key)
    assert all(count == 1 for count in keys.values())
    for chain, names in calls.batches:
        assert sum((chain, key) in keys for key in names) in (0, len(names)), f"a part of {names} is stored"
    for appended in calls.acknowledged.values():
        for entry in appended:
            assert entries[entry.hash] == entry
    redactions = [parse_statement(e.statement).body for e in entries.values() if b'"kind":"redaction"' in e.statement]
    named = {body["target_hash"] for body in redactions}
    assert set(calls.erased) <= named
    assert {hash_ for hash_, entry in entries.items() if _lost_payload(entry)} == named
    for chain in CHAINS:
        stretch = await asyncio.to_thread(
            verify_stretch, store.entries.auditor(), chain, GENESIS, None, batch_entries=500
        )
        assert (stretch.broken, stretch.checked_count) == (None, len(stored[chain]))

    halves = Counter(row["pair"] for row in await store.database.fetch(Statement("SELECT pair FROM notes")))
    assert set(halves.values()) <= {2}
    assert set(calls.committed_pairs) <= set(halves) <= set(calls.pairs)


def _lost_payload(entry: Entry) -> bool:
    return entry.payload is None and parse_statement(entry.statement).payload_hash is not None


async def test_an_opening_that_is_cancelled_leaves_nobody_connected(opening: Opening) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    before = asyncio.all_tasks()
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    longest_s = 0.0
    for _ in range(2):  # the first one migrates
        started_s = time.monotonic()
        async with opening() as store:
            await store.database.ping()
            longest_s = time.monotonic() - started_s

    async def open_and_close() -> None:
        async with opening() as opened:
            await opened.database.ping()
            await opened.entries.ping()

    cancelled = 0
    for _ in range(20 * OPENINGS):
        if cancelled == OPENINGS:
            break
        task = asyncio.ensure_future(open_and_close())
        await asyncio.sleep(chosen.uniform(0, longest_s))
        task.cancel()
        await asyncio.wait([task], timeout=AT_ONCE_S)
        assert task.done(), "a cancelled opening does not end"
        cancelled += task.cancelled()
    assert cancelled == OPENINGS
    await store.outside.assert_nobody_is_there()
    async with opening() as store:
        await store.database.ping()
        await store.outside.assert_nothing_is_held()
    gc.collect()
    await asyncio.sleep(0)
    # asyncpg leaves a future of its own behind when it is cancelled while it greets the server; nothing is held by it.
    problems = [found for found in problems if "unexpected connection_lost" not in str(found.get("exception"))]
    assert not problems, problems
    assert asyncio.all_tasks() <= before


async def test_a_database_that_is_closed_meanwhile_refuses_and_leaves_nothing(opening: Opening) -> None:
    async with opening() as store:
        calls = Calls(store, random.Random(1))
        running = [asyncio.ensure_future(calls.any()[1]) for _ in range(200)]
        await asyncio.sleep(0.005)
    results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), AT_ONCE_S)
    assert {repr(result) for result in results if not isinstance(result, Unavailable | None)} == set()
    await store.outside.assert_nobody_is_there()
    async with opening() as reopened:
        calls.store, calls.writer = reopened, calls.writer.on(reopened.entries)
        await assert_whole(calls)
