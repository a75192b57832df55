"""The table of entries on SQLite: what the database itself refuses, erasure to the last byte, cancellation, indexes."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.database import Statement
from precipiq_contracts.entry_store import Appended, EntryQuery, EntryStore
from precipiq_contracts.errors import Conflict, Unavailable, ValidationFailed
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.entries.find import _Search
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.sealing import Writer
from tests.databases import SQLITE_ENTRIES

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "live"), Chain("org_beta", "live")
MIGRATION = SQLITE_ENTRIES


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(SqliteConfig(migrate_at_start=True), tmp_path / "precipiq.db")
    async with database.open([MIGRATION]):
        yield database


@pytest.fixture
async def store(database: SqliteDatabase) -> AsyncIterator[EntryStore]:
    async with SqliteDriver(database, DriverOptions(watch_poll_s=0.02)).open() as store:
        yield store


@pytest.fixture
def writer(store: EntryStore) -> Writer:
    return Writer(store)


def run(database: SqliteDatabase, sql: str) -> None:
    """As an operator with a shell would, past every check of ours but those in the file."""
    connection = sqlite3.connect(database.path, isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()


COPY = "(org_id, environment, seq, statement, payload, hash) SELECT"
REFUSED = [
    "UPDATE entries SET statement = replace(statement, 'agent', 'other')",
    "UPDATE entries SET hash = 'x' WHERE seq = 1",
    "UPDATE entries SET seq = 9 WHERE seq = 2",
    "UPDATE entries SET org_id = 'org_beta'",
    "UPDATE entries SET idempotency_key = 'x' WHERE seq = 1",
    "UPDATE entries SET payload = 'x' WHERE seq = 1",
    "UPDATE entries SET payload = NULL WHERE seq = 1",
    "UPDATE entries SET payload = 'x' WHERE seq = 3",
    "UPDATE entries SET payload = NULL, hash = 'x' WHERE seq = 2",
    "UPDATE OR REPLACE entries SET seq = 1 WHERE seq = 2",
    "DELETE FROM entries",
    "DELETE FROM entries WHERE seq = 4",
    f"INSERT INTO entries {COPY} org_id, environment, 6, statement, payload, hash FROM entries WHERE seq = 1",
    f"INSERT INTO entries {COPY} org_id, environment, 4, statement, payload, hash FROM entries WHERE seq = 1",
    f"INSERT OR REPLACE INTO entries {COPY} org_id, environment, 1, '{{}}', payload, hash FROM entries WHERE seq = 1",
    f"INSERT OR IGNORE INTO entries {COPY} 'org_new', environment, 2, '{{}}', payload, hash FROM entries WHERE seq = 1",
]


@pytest.mark.parametrize("sql", REFUSED)
async def test_the_file_itself_refuses_to_change_entries(
    database: SqliteDatabase, store: EntryStore, writer: Writer, sql: str
) -> None:
    entries = await writer.fill(ALPHA, 3)
    await writer.redact(ALPHA, entries[2])
    before = await store.read(ALPHA, 0, 10)
    with pytest.raises(sqlite3.IntegrityError, match=r"never|must follow"):
        run(database, sql)
    assert await store.read(ALPHA, 0, 10) == before


async def test_a_plugin_cannot_write_entries_through_the_database(database: SqliteDatabase, store: EntryStore) -> None:
    for sql in ("DELETE FROM entries", f"INSERT INTO entries {COPY} 'o', 'live', 1, '{{}}', NULL, 'h'"):
        with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
            await database.transaction([Statement(sql)])


async def test_a_draft_that_does_not_name_its_target_erases_nothing(store: EntryStore, writer: Writer) -> None:
    entries = await writer.fill(ALPHA, 2)
    with pytest.raises(Conflict):
        await store.redact(ALPHA, entries[0], writer.redaction(entries[1]), writer.seal(ALPHA))
    assert await store.read(ALPHA, 0, 10) == entries


async def test_erased_bytes_are_in_no_file(database: SqliteDatabase, store: EntryStore, writer: Writer) -> None:
    def files_with(text: bytes) -> list[str]:
        return [path.name for path in database.path.parent.iterdir() if text in path.read_bytes()]

    await writer.fill(ALPHA, 50)
    drafts = [writer.draft(payload={"inputs": {"name": f"Ada-{number}" * 900}}) for number in range(2)]
    erased, kept = (await writer.append(ALPHA, *drafts)).entries
    await writer.fill(ALPHA, 50)
    assert files_with(b"Ada-0Ada-0")
    await writer.redact(ALPHA, erased)
    assert files_with(b"Ada-0Ada-0") == []
    assert files_with(b"Ada-1Ada-1")
    assert (await store.read(ALPHA, kept.seq - 1, 1))[0] == kept


async def test_cancelling_appends_at_random_loses_nothing_acknowledged(store: EntryStore, writer: Writer) -> None:
    rng = random.Random(2)
    acknowledged: list[Appended] = []

    async def append(number: int) -> None:
        acknowledged.append(await writer.append(ALPHA, *(writer.draft(f"{number}") for _ in range(number % 3 + 1))))

    tasks = [asyncio.create_task(append(number)) for number in range(500)]
    while any(not task.done() for task in tasks):
        for task in rng.sample(tasks, 10):
            task.cancel()
        await asyncio.sleep(0.0005)
    await asyncio.gather(*tasks, return_exceptions=True)
    last = (await writer.append(ALPHA, writer.draft("last"))).entries[0]
    entries = await store.read(ALPHA, 0, 10_000)
    assert [entry.seq for entry in entries] == list(range(1, last.seq + 1))
    for appended in acknowledged:
        first = appended.entries[0].seq
        assert tuple(entries[first - 1 : first - 1 + len(appended.entries)]) == appended.entries
    counts: dict[str, int] = {}
    for entry in entries[:-1]:
        agent = str(parse_statement(entry.statement).body["agent_id"])
        counts[agent] = counts.get(agent, 0) + 1
    assert all(count == int(agent) % 3 + 1 for agent, count in counts.items()), "a batch was stored in part"


async def test_a_watcher_hears_of_an_append_whose_caller_left(store: EntryStore, writer: Writer) -> None:
    async with store.watch(ALPHA) as wake_ups:
        task = asyncio.create_task(writer.append(ALPHA))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(30):
            while await store.head(ALPHA) is None:
                await anext(wake_ups)


async def test_a_watcher_hears_of_another_processs_append(
    database: SqliteDatabase, store: EntryStore, writer: Writer
) -> None:
    other = SqliteDatabase(SqliteConfig(), database.path, checkpoints=False)
    async with other.open([MIGRATION]), SqliteDriver(other).open() as elsewhere:
        there = writer.on(elsewhere)
        async with store.watch(ALPHA) as wake_ups, store.watch(BETA) as never:
            for seq in range(1, 6):
                await there.append(ALPHA)
                async with asyncio.timeout(30):
                    await anext(wake_ups)
                head = await store.head(ALPHA)
                assert head is not None
                assert head.seq == seq
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(never)


async def test_two_processes_that_append_make_one_chain(
    database: SqliteDatabase, store: EntryStore, writer: Writer
) -> None:
    other = SqliteDatabase(SqliteConfig(), database.path, checkpoints=False)
    async with other.open([MIGRATION]), SqliteDriver(other).open() as elsewhere:
        there = writer.on(elsewhere)
        await asyncio.gather(*(one.append(ALPHA, one.draft(key=f"{n}")) for n in range(40) for one in (writer, there)))
    entries = await store.read(ALPHA, 0, 1_000)
    assert [entry.seq for entry in entries] == list(range(1, 41))


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
async def test_a_key_that_text_cannot_hold_is_refused(store: EntryStore, writer: Writer, key: str) -> None:
    with pytest.raises(ValidationFailed):
        await writer.append(ALPHA, writer.draft(key="fine"), _keyed(writer, key))
    assert await store.head(ALPHA) is None


def _keyed(writer: Writer, key: str):
    from dataclasses import replace

    prepared = writer.draft()
    return replace(prepared, draft=replace(prepared.draft, idempotency_key=key))


async def test_a_closed_store_is_unavailable(database: SqliteDatabase, tmp_path: Path) -> None:
    closed = SqliteDatabase(SqliteConfig(), tmp_path / "other.db")
    with pytest.raises(Unavailable):
        async with SqliteDriver(closed).open():
            pass


PLANS = {
    "entries_agent_id (agent_id=? AND org_id=? AND environment=? AND seq>? AND seq<?)": {"agent_id": "a"},
    "entries_action_type (action_type=? AND org_id=? AND environment=? AND seq>? AND seq<?)": {"action_type": "t"},
}


@pytest.mark.parametrize("plan", PLANS)
async def test_finding_goes_along_an_index_and_sorts_nothing(
    database: SqliteDatabase, store: EntryStore, plan: str
) -> None:
    search = _Search(EntryQuery("decision", body=PLANS[plan]), None, 50, 1_000)

    def explain(connection: sqlite3.Connection) -> str:
        return "\n".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + search.sql(), search.parameters))

    found = await database.readers.run_as(ALPHA, explain)
    assert f"INDEX {plan}" in found
    assert "TEMP B-TREE" not in found
    assert "SCAN entries" not in found


async def test_finding_by_both_fields_pages_through_bounded_scans(store: EntryStore, writer: Writer) -> None:
    bodies = [{"agent_id": f"a{n % 2}", "action_type": f"t{n % 7}"} for n in range(300)]
    await writer.append(ALPHA, *(writer.draft(body=body, metadata={"n": n % 5}) for n, body in enumerate(bodies)))
    small = DriverOptions(find_scan_rows_max=10)
    bounded = type(store)(store._database, small, store._watchers, store._emptier)
    query = EntryQuery("decision", body={"agent_id": "a1", "action_type": "t3"}, metadata={"n": "2"})
    found: list[Entry] = []
    before_seq: int | None = None
    for _ in range(100):
        page = await bounded.find(ALPHA, query, before_seq, 2)
        found.extend(page.entries)
        before_seq = page.next_before_seq
        if before_seq is None:
            break
    expected = [n + 1 for n in range(300) if n % 2 == 1 and n % 7 == 3 and n % 5 == 2]
    assert [entry.seq for entry in found] == expected[::-1]


ODD_FILINGS = [
    "CAST(x'ff6f7267' AS TEXT)",
    "CAST(x'6f72675fc328' AS TEXT)",
    "x'6f72675f62657461'",
    "7",
    "''",
    "CAST(x'6f7267005f62' AS TEXT)",
]


@pytest.mark.parametrize("filing", ODD_FILINGS)
@pytest.mark.parametrize("column", ["org_id", "environment"])
async def test_rows_that_an_intruder_filed_nowhere_keep_no_chain_from_being_named(
    database: SqliteDatabase, store: EntryStore, writer: Writer, filing: str, column: str
) -> None:
    for chain in (ALPHA, BETA):
        await writer.fill(chain, 3)
    connection = sqlite3.connect(database.path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = 1")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(f"UPDATE entries SET {column} = {filing} WHERE org_id = 'org_alpha' AND seq = 3")
    connection.close()
    named = [chain async for chain in store.chains()]
    assert {ALPHA, BETA} <= set(named)
    assert len(named) == len(set(named))
    odd = [chain for chain in named if chain not in (ALPHA, BETA)]
    assert len(odd) <= 1
