"""What the auditor of the SQLite driver shows after an intruder was in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch, EntryStore
from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.sealing import Writer
from tests.databases import SQLITE_ENTRIES

pytestmark = pytest.mark.anyio

ALPHA = Chain("org_alpha", "live")
MIGRATION = SQLITE_ENTRIES
INDEXES = ("seq", "id", "idempotency_key", "agent_id", "action_type", "kind", "redacts_seq")
TRIGGERS = ("are_dense", "are_never_changed", "are_never_deleted")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EntryStore]:
    database = SqliteDatabase(SqliteConfig(migrate_at_start=True), tmp_path / "precipiq.db")
    async with database.open([MIGRATION]), SqliteDriver(database).open() as store:
        writer = Writer(store)
        entries = await writer.fill(ALPHA, 4)
        await writer.append(ALPHA, writer.draft(key="key"))
        await writer.redact(ALPHA, entries[1])
        await writer.fill(Chain("org_beta", "live"), 3)
        yield store


@pytest.fixture
def auditor(store: EntryStore) -> SqliteAuditor:
    auditor = store.auditor()
    assert isinstance(auditor, SqliteAuditor)
    return auditor


def intrude(auditor: SqliteAuditor, *statements: str) -> None:
    connection = sqlite3.connect(auditor.path, isolation_level=None)
    try:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER entries_{trigger}")
        for index in INDEXES:
            connection.execute(f"DROP INDEX entries_{index}")
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def batches(auditor: SqliteAuditor, size: int = 100) -> list[AuditBatch]:
    return list(auditor.batches(ALPHA, 0, None, size))


async def test_dropped_indexes_and_triggers_hide_nothing(auditor: SqliteAuditor) -> None:
    before = batches(auditor)
    known = (auditor.last_seq(ALPHA), auditor.hashes_at(ALPHA, [3])[0], auditor.redactions(ALPHA, [2]))
    intrude(auditor)
    assert batches(auditor) == before
    assert (auditor.last_seq(ALPHA), auditor.hashes_at(ALPHA, [3])[0], auditor.redactions(ALPHA, [2])) == known
    assert len(known[2]) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_an_entry_that_stands_twice_is_shown_twice(auditor: SqliteAuditor, size: int) -> None:
    columns = "org_id, environment, seq, statement, payload, hash"
    intrude(
        auditor, f"INSERT INTO entries ({columns}) SELECT {columns} FROM entries WHERE seq = 2 AND org_id = 'org_alpha'"
    )
    assert [seq for batch in batches(auditor, size) for seq in batch.seqs] == [1, 2, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "change",
    [
        "idempotency_key = 'other'",
        "idempotency_key = NULL",
        "idempotency_check = NULL",
        "idempotency_check = 'x'",
        "idempotency_key = NULL, hash = 'x'",
    ],
)
async def test_an_altered_idempotency_key_is_a_problem(auditor: SqliteAuditor, change: str) -> None:
    intrude(auditor, f"UPDATE entries SET {change} WHERE seq = 5")
    assert [batch.problem is not None and batch.problem[0] for batch in batches(auditor)] == [4]


async def test_a_key_given_to_an_entry_that_had_none_is_a_problem(auditor: SqliteAuditor) -> None:
    intrude(auditor, "UPDATE entries SET idempotency_key = 'new' WHERE seq = 2 AND org_id = 'org_alpha'")
    assert [batch.problem is not None and batch.problem[0] for batch in batches(auditor)] == [1]


async def test_a_table_whose_columns_are_no_longer_generated_is_a_problem(auditor: SqliteAuditor) -> None:
    assert [batch.problem for batch in batches(auditor)] == [None]
    intrude(
        auditor,
        "CREATE TABLE copy AS SELECT * FROM entries",
        "DROP TABLE entries",
        "ALTER TABLE copy RENAME TO entries",
        "UPDATE entries SET agent_id = 'somebody else'",
    )
    assert ["definition" in (batch.problem or (0, ""))[1] for batch in batches(auditor)] == [True]


async def test_damaged_text_is_shown_as_it_is(auditor: SqliteAuditor) -> None:
    intrude(
        auditor,
        "UPDATE entries SET hash = CAST(x'ff0a' AS TEXT) WHERE seq = 3",
        "UPDATE entries SET payload = CAST(x'fffe' AS TEXT) WHERE seq = 4",
    )
    # SQLite itself would not store such a statement, so it is written over in the file.
    intruder = sqlite3.connect(auditor.path)
    (statement,) = intruder.execute("SELECT statement FROM entries WHERE seq = 1 AND org_id = 'org_alpha'").fetchone()
    intruder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    intruder.close()
    content = auditor.path.read_bytes()
    assert content.count(statement.encode()) == 1
    auditor.path.write_bytes(content.replace(statement.encode(), b"x" * len(statement)))
    [batch] = batches(auditor)
    assert batch.statements[0] == b"x" * len(statement)
    assert batch.hashes[2] == "\ufffd\n"
    assert batch.payloads[3] == b"\xff\xfe"
    assert len(batch.hashes) == len(batch.seqs) == 6
    assert auditor.hashes_at(ALPHA, [3])[0] == "\ufffd\n"
    assert len(auditor.redactions(ALPHA, [2])) == 1, "a damaged statement hides the redactions"


@pytest.mark.parametrize(
    "change",
    [
        "org_id = 'ORG_ALPHA'",
        "environment = 'test'",
        "environment = ''",
        "org_id = ''",
        "org_id = CAST(x'ff' AS TEXT)",
    ],
)
@pytest.mark.parametrize("moved", ["seq > 4", "seq = 6", "seq > 0"])
async def test_entries_that_are_filed_elsewhere_are_found(auditor: SqliteAuditor, change: str, moved: str) -> None:
    assert auditor.stray(ALPHA) is None
    intrude(auditor, f"UPDATE entries SET {change} WHERE org_id = 'org_alpha' AND {moved}")
    stray = auditor.stray(ALPHA)
    assert stray is not None
    assert stray[0] in range(1, 7)


async def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"noise" * 1000)
    for name in ("absent.db", "noise.db"):
        with pytest.raises(Unavailable):
            SqliteAuditor(tmp_path / name, 1).last_seq(ALPHA)
