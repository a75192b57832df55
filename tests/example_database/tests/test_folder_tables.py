"""The database of the example: the tenant promise, transactions, several processes, migrations, power cuts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from folder_database.config import FolderConfig
from folder_database.service import FolderDatabase
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, MigratedDatabase, Migration, Statement
from precipiq_contracts.errors import Conflict, DeploymentError
from precipiq_testkit.power_cut import NotFollowed, follow

pytestmark = pytest.mark.anyio

ALPHA, ALPHA_TEST, BETA = Chain("org_alpha", "live"), Chain("org_alpha", "test"), Chain("org_beta", "live")
COMMITS_MAX = 3
WRITE = "INSERT INTO notes (org_id, environment, note, content) VALUES (:org, :environment, :note, :content)"
REVISION = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "notes_{number}", {before!r}, {labels!r}, None
def upgrade():
    op.execute({sql!r})
"""


def migration(folder: Path, *statements: str) -> Migration:
    """A plugin's schema, a revision for each statement."""
    folder.mkdir(exist_ok=True)
    for number, sql in enumerate(statements, 1):
        before, labels = (None, ("notes",)) if number == 1 else (f"notes_{number - 1}", None)
        text = REVISION.format(number=number, before=before, labels=labels, sql=sql)
        (folder / f"{number}.py").write_text(text)
    return Migration("notes", folder, {"notes": ("org_id", "environment")})


NOTES = (
    "CREATE TABLE notes (org_id TEXT NOT NULL, environment TEXT NOT NULL, note TEXT UNIQUE, content BLOB)",
    "CREATE TABLE hidden (note TEXT)",
)


@pytest.fixture
def notes(tmp_path: Path) -> Migration:
    return migration(tmp_path / "revisions", *NOTES)


def opened(tmp_path: Path, notes: Migration) -> AbstractAsyncContextManager[FolderDatabase]:
    return another(tmp_path / "tables", [notes])


@asynccontextmanager
async def another(folder: Path, migrations: Sequence[Migration], *, migrate: bool = True):
    """The database as one more process would have it."""
    database = FolderDatabase(FolderConfig(migrate_at_start=migrate, commits_max=COMMITS_MAX), folder)
    async with database.opened(migrations):
        yield database


def write(chain: Chain, note: str, content: bytes | None = None) -> Statement:
    return Statement(WRITE, {"org": chain.org_id, "environment": chain.environment, "note": note, "content": content})


async def written(database: Database) -> list[object]:
    return [row["note"] for row in await database.fetch(Statement("SELECT note FROM notes ORDER BY note"))]


async def test_a_tenant_sees_its_own_rows_whatever_the_statement_says(tmp_path: Path, notes: Migration) -> None:
    async with opened(tmp_path, notes) as database:
        await database.transaction([write(ALPHA, "a"), write(ALPHA_TEST, "at"), write(BETA, "b")])
        everything = Statement('SELECT note FROM "NOTES" WHERE 1 OR org_id = :org', {"org": "org_beta"})
        for chain, note in ((ALPHA, "a"), (ALPHA_TEST, "at"), (BETA, "b")):
            assert [row["note"] for row in await database.fetch_as(chain, everything)] == [note]
        counted = await database.fetch_as(
            ALPHA, Statement("WITH notes2 AS (SELECT * FROM notes) SELECT count(*) AS n FROM notes2")
        )
        assert counted[0]["n"] == 1
        for sql in ("SELECT * FROM hidden", "SELECT * FROM main.hidden", "ATTACH 'x.db' AS other"):
            with pytest.raises(sqlite3.OperationalError):
                await database.fetch_as(ALPHA, Statement(sql))
        await database.fetch_as(ALPHA, Statement("DELETE FROM notes"))
        assert await written(database) == ["a", "at", "b"]


async def test_a_transaction_is_all_or_nothing_and_reading_changes_nothing(tmp_path: Path, notes: Migration) -> None:
    async with opened(tmp_path, notes) as database, opened(tmp_path, notes) as other:
        rows = await database.transaction(
            [
                Statement(
                    write(ALPHA, "a", b"\xff\x00").sql + " RETURNING content", write(ALPHA, "a", b"\xff\x00").parameters
                )
            ]
        )
        assert rows == [[{"content": b"\xff\x00"}]]
        with pytest.raises(Conflict):
            await database.transaction([write(ALPHA, "b"), write(BETA, "a")])
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await database.fetch(write(ALPHA, "c"))
        for one in (database, other):
            assert await written(one) == ["a"]
        assert (await other.fetch(Statement("SELECT content FROM notes")))[0]["content"] == b"\xff\x00"


@pytest.mark.parametrize("value", ["random()", "CURRENT_TIMESTAMP", "datetime('now')"])
async def test_what_would_be_another_value_in_another_process_is_refused(
    tmp_path: Path, notes: Migration, value: str
) -> None:
    async with opened(tmp_path, notes) as database:
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            await database.transaction([Statement(f"INSERT INTO hidden VALUES ({value})")])


async def test_processes_see_each_others_commits_at_once_also_from_far_behind(tmp_path: Path, notes: Migration) -> None:
    async with opened(tmp_path, notes) as one, opened(tmp_path, notes) as other, opened(tmp_path, notes) as late:
        expected = []
        for number in range(4 * COMMITS_MAX):
            await (one, other)[number % 2].transaction([write(ALPHA, f"{number:03}")])
            expected.append(f"{number:03}")
            assert await written(one) == await written(other) == expected
        assert await written(late) == expected
        assert len(list((tmp_path / "tables").glob("*.json"))) < COMMITS_MAX, "old commits are put together"
    (tmp_path / "tables" / "1.json").write_text('[["INSERT INTO nothing VALUES (1)", {}]]')  # as a crash leaves one
    async with opened(tmp_path, notes) as again:
        assert await written(again) == expected


async def test_a_schema_is_migrated_once_and_those_who_are_open_have_it_too(tmp_path: Path) -> None:
    first, second = (migration(tmp_path / str(count), *NOTES[:count]) for count in (1, 2))
    folder = tmp_path / "tables"
    with pytest.raises(DeploymentError, match="precipiq migrate"):
        async with another(folder, [first], migrate=False):
            pass
    new = FolderDatabase(FolderConfig(), folder)
    assert isinstance(new, MigratedDatabase)
    assert new.migrate([first]) == ["notes_1"]
    async with another(folder, [first], migrate=False) as database:
        await database.transaction([write(ALPHA, "kept")])
        assert new.migrate([second]) == ["notes_2"]
        assert new.migrate([second]) == []
        await database.transaction([Statement("INSERT INTO hidden VALUES ('new')")])
        assert await written(database) == ["kept"]
    with pytest.raises(DeploymentError, match="newer"):
        new.migrate([first])


async def test_what_a_transaction_answered_survives_a_power_cut(tmp_path: Path, notes: Migration) -> None:
    (tmp_path / "tables").mkdir()
    try:
        with follow(tmp_path / "tables") as disk:
            async with opened(tmp_path, notes) as database:
                for number in range(COMMITS_MAX + 2):
                    await database.transaction([write(ALPHA, f"{number}")])
                disk.cut()
                expected = await written(database)
            disk.restore()
    except NotFollowed as error:
        pytest.skip(f"this machine does not let system calls be followed: {error}")
    async with opened(tmp_path, notes) as database:
        assert await written(database) == expected
