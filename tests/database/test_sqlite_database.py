"""The SQLite database as plugins use it: reads, tenant reads, transactions, opening and its refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.errors import Conflict, DeploymentError, Unavailable
from precipiq_sqlite.service import SqliteDatabase
from tests.databases import new_database

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "live"), Chain("org_beta", "live")
REVISION = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "notes_0001", None, ("notes",), None
def upgrade():
    op.execute("CREATE TABLE notes (org_id TEXT, environment TEXT, note TEXT UNIQUE)")
    op.execute("CREATE TABLE reserved (note TEXT)")
"""
ADD = "INSERT INTO notes VALUES (:org_id, 'live', :note) RETURNING note AS added"


def add(note: str, org_id: str = "org_alpha") -> Statement:
    return Statement(ADD, {"org_id": org_id, "note": note})


@pytest.fixture
def migration(tmp_path: Path) -> Migration:
    location = tmp_path / "100% migrations"
    location.mkdir()
    (location / "0001_notes.py").write_text(REVISION)
    return Migration("notes", location, {"notes": ("org_id", "environment")})


@pytest.fixture
async def database(tmp_path: Path, migration: Migration) -> AsyncIterator[SqliteDatabase]:
    database = new_database({"migrate_at_start": True}, tmp_path / "not yet there")
    assert isinstance(database, SqliteDatabase)
    database.reserve("reserved")
    async with database.open([migration]):
        yield database


async def notes(database: SqliteDatabase) -> list[object]:
    return [row["note"] for row in await database.fetch(Statement("SELECT note FROM notes ORDER BY note"))]


async def test_a_transaction_gives_the_rows_of_each_statement(database: SqliteDatabase) -> None:
    update = Statement("UPDATE notes SET note = 'c' WHERE note = :note", {"note": "b"})
    count = Statement("SELECT count(*) AS n FROM notes")
    assert await database.transaction([add("a"), add("b"), update, count]) == [
        [{"added": "a"}],
        [{"added": "b"}],
        [],
        [{"n": 2}],
    ]
    assert await notes(database) == ["a", "c"]


async def test_a_transaction_is_all_or_nothing(database: SqliteDatabase) -> None:
    await database.transaction([add("a")])
    with pytest.raises(Conflict):
        await database.transaction([add("b"), add("a")])
    assert await notes(database) == ["a"]


async def test_transactions_in_one_group_fail_apart(database: SqliteDatabase) -> None:
    results = await asyncio.gather(
        *(
            database.transaction([add(f"n{number}"), add("same" if number % 3 else f"m{number}")])
            for number in range(9)
        ),
        return_exceptions=True,
    )
    failed = [number for number, result in enumerate(results) if isinstance(result, Conflict)]
    assert failed == [2, 4, 5, 7, 8]
    assert await notes(database) == sorted(["n0", "n1", "n3", "n6", "m0", "m3", "m6", "same"])


async def test_fetch_sees_every_tenant_and_fetch_as_one(database: SqliteDatabase) -> None:
    await database.transaction([add("a"), add("b", "org_beta")])
    everything = Statement("SELECT note FROM notes ORDER BY note")
    assert await database.fetch(everything) == [{"note": "a"}, {"note": "b"}]
    assert await database.fetch_as(ALPHA, everything) == [{"note": "a"}]
    assert await database.fetch_as(BETA, Statement("SELECT count(*) AS n FROM notes")) == [{"n": 1}]
    assert await database.fetch_as(Chain("org_alpha", "test"), everything) == []


async def test_a_read_sees_every_transaction_that_has_returned(database: SqliteDatabase) -> None:
    for number in range(30):
        await database.transaction([add(f"{number:03}")])
        newest = Statement("SELECT max(note) AS newest FROM notes")
        assert await database.fetch(newest) == [{"newest": f"{number:03}"}]
        assert await database.fetch_as(ALPHA, newest) == [{"newest": f"{number:03}"}]


async def test_fetch_cannot_write(database: SqliteDatabase) -> None:
    with pytest.raises(Unavailable, match="written"):
        await database.fetch(Statement("DELETE FROM notes RETURNING note"))


async def test_cancelled_reads_hinder_nobody(database: SqliteDatabase) -> None:
    for number in range(50):
        reads = [
            asyncio.ensure_future(database.fetch(Statement("SELECT count(*) AS n FROM notes"))),
            asyncio.ensure_future(database.fetch_as(ALPHA, Statement("SELECT count(*) AS n FROM notes"))),
        ]
        for _ in range(number % 4):
            await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        await database.transaction([add(f"{number:03}")])
        assert await database.fetch(Statement("SELECT count(*) AS n FROM notes")) == [{"n": number + 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO reserved VALUES ('x')",
        "INSERT INTO RESERVED VALUES ('x')",
        "DELETE FROM main.reserved",
        "UPDATE reserved SET note = 'x'",
        "INSERT INTO notes SELECT 'o', 'live', note FROM reserved",
        "DROP TABLE reserved",
        "DROP TABLE notes",
        "ALTER TABLE notes ADD COLUMN more",
        "CREATE TABLE more (x)",
        "CREATE TEMP TRIGGER t AFTER INSERT ON notes BEGIN SELECT 1; END",
        "PRAGMA synchronous = OFF",
        "ATTACH ':memory:' AS other",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT item",
        "RELEASE item",
        "VACUUM",
    ],
)
async def test_a_transaction_may_only_touch_rows_of_tables_that_are_not_reserved(
    database: SqliteDatabase, sql: str
) -> None:
    await database.transaction([add("before")])  # the writer's own COMMIT is now among its prepared statements
    with pytest.raises(Exception, match=r"not authorized|prohibited|cannot VACUUM"):
        await database.transaction([add("a"), Statement(sql)])
    assert await notes(database) == ["before"]


async def test_a_statement_prepared_for_a_driver_is_refused_to_a_plugin(database: SqliteDatabase) -> None:
    sql = "INSERT INTO reserved VALUES ('x')"

    def insert(connection, items):
        connection.execute(sql)
        return [None] * len(items)

    await database.writer.submit(insert, None)
    with pytest.raises(Exception, match=r"not authorized|prohibited"):
        await database.transaction([Statement(sql)])
    assert await database.fetch(Statement("SELECT count(*) AS n FROM reserved")) == [{"n": 1}]


async def test_the_file_is_durable_and_forgets_what_is_erased(database: SqliteDatabase) -> None:
    def settings(connection, items):
        names = ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "recursive_triggers")
        return [{name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names} for _ in items]

    found = await database.writer.submit(settings, None)
    expected = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "recursive_triggers": 1}
    assert found == expected


async def test_only_the_server_moves_the_log_into_the_file(tmp_path: Path, database: SqliteDatabase) -> None:
    other = new_database({}, tmp_path / "not yet there", checkpoints=False)
    async with other.open([]):
        get = lambda connection, items: [connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0]]  # noqa: E731
        assert await other.writer.submit(get, None) == 0
        assert await database.writer.submit(get, None) > 0


async def test_a_closed_database_is_unavailable(tmp_path: Path) -> None:
    database = new_database({"migrate_at_start": True}, tmp_path)
    one = Statement("SELECT 1 AS one")
    for _ in range(2):
        for call in (database.fetch(one), database.fetch_as(ALPHA, one), database.transaction([one]), database.ping()):
            with pytest.raises(Unavailable):
                await call
        async with database.open([]):
            await database.ping()
            assert await database.fetch(one) == [{"one": 1}]


async def test_opening_refuses_a_schema_that_is_behind(tmp_path: Path, migration: Migration) -> None:
    database = new_database({}, tmp_path)
    with pytest.raises(DeploymentError, match=r"notes_0001.*precipiq migrate"):
        async with database.open([migration]):
            pass
    assert not (tmp_path / "precipiq.db").exists(), "a refused start must leave nothing behind"
    assert database.migrate([migration]) == ["notes_0001"]
    async with database.open([migration]):
        assert await database.fetch(Statement("SELECT note FROM notes")) == []


def test_a_relative_url_starts_at_the_data_folder(tmp_path: Path) -> None:
    relative = new_database({"url": "sqlite:///a/b.db"}, tmp_path)
    absolute = new_database({"url": f"sqlite:///{tmp_path}/c.db"}, Path("/elsewhere"))
    assert isinstance(relative, SqliteDatabase)
    assert isinstance(absolute, SqliteDatabase)
    assert relative.path == tmp_path / "a/b.db"
    assert absolute.path == tmp_path / "c.db"
