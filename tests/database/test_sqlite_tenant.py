"""Reading as a tenant: whatever a statement says, it sees one organisation and environment, and changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Statement
from precipiq_contracts.errors import DeploymentError, InternalError
from precipiq_sqlite.connection import open_for_reading, open_for_writing
from precipiq_sqlite.tenant import TenantConnection

TABLES = {"notes": ("org_id", "environment"), "members": ("org_id", None)}
ALPHA = Chain("org_alpha", "live")
ALPHA_TEST = Chain("org_alpha", "test")
NOBODY = Chain("' OR 1=1 --", "live")
FOREIGN = ("beta", "alpha-test", "hidden")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.db"
    connection = open_for_writing(path, 5)
    connection.executescript(
        """
        CREATE TABLE notes (org_id TEXT, environment TEXT, note TEXT, upper_note AS (upper(note)));
        CREATE INDEX notes_note ON notes (note, org_id, environment);
        CREATE TABLE members (org_id TEXT, name TEXT);
        CREATE TABLE secrets (note TEXT);
        INSERT INTO notes (org_id, environment, note) VALUES
            ('org_alpha', 'live', 'alpha'), ('org_alpha', 'test', 'alpha-test'), ('org_beta', 'live', 'beta');
        INSERT INTO members VALUES ('org_alpha', 'Ada'), ('org_beta', 'beta');
        INSERT INTO secrets VALUES ('hidden');
        """
    )
    connection.close()
    return path


@pytest.fixture
def tenant(path: Path) -> Iterator[TenantConnection]:
    tenant = TenantConnection(path, TABLES, 5)
    yield tenant
    tenant.close()


def fetch(tenant: TenantConnection, sql: str, chain: Chain = ALPHA) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in tenant.fetch(chain, Statement(sql))]


OWN_ROWS_ONLY = {
    "SELECT note FROM notes": [("alpha",)],
    "SELECT count(*) FROM notes": [(1,)],
    "SELECT count(*) FROM temp.notes": [(1,)],
    "SELECT 1 FROM notes": [(1,)],
    "SELECT upper_note FROM notes": [("ALPHA",)],
    "SELECT name FROM members": [("Ada",)],
    "SELECT * FROM notes JOIN members USING (org_id)": [("org_alpha", "live", "alpha", "ALPHA", "Ada")],
    "SELECT a.note FROM notes AS a CROSS JOIN notes AS b": [("alpha",)],
    "SELECT members.name FROM members LEFT JOIN notes ON notes.note = 'beta' WHERE notes.note IS NULL": [("Ada",)],
    "SELECT note FROM notes WHERE org_id = 'org_beta' OR TRUE": [("alpha",)],
    "WITH every AS (SELECT * FROM notes) SELECT note FROM every": [("alpha",)],
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i, note FROM n, notes": [
        (1, "alpha"),
        (2, "alpha"),
        (3, "alpha"),
    ],
    "SELECT (SELECT count(*) FROM notes), EXISTS (SELECT 1 FROM notes WHERE note = 'beta')": [(1, 0)],
    "SELECT 'beta' IN (SELECT note FROM notes)": [(0,)],
    "SELECT note FROM notes UNION SELECT name FROM members": [("Ada",), ("alpha",)],
    "SELECT value FROM json_each('[1, 2]')": [(1,), (2,)],
    "VALUES (1)": [(1,)],
    "SELECT group_concat(note) FROM (SELECT note FROM notes GROUP BY note)": [("alpha",)],
}

REFUSED = [
    "SELECT note FROM main.notes",
    "SELECT count(*) FROM main.notes",
    "SELECT * FROM secrets",
    "SELECT count(*) FROM secrets",
    "SELECT 1 FROM secrets",
    "SELECT rowid FROM secrets",
    "SELECT 'x' IN secrets",
    "SELECT EXISTS (SELECT 1 FROM secrets)",
    "SELECT note FROM notes UNION ALL SELECT note FROM secrets",
    "WITH notes AS (SELECT * FROM secrets) SELECT * FROM notes",
    "WITH notes AS (SELECT * FROM secrets) SELECT count(*) FROM notes",
    "WITH notes AS (SELECT * FROM main.notes) SELECT * FROM notes",
    "SELECT * FROM (SELECT * FROM secrets) AS notes",
    "SELECT * FROM sqlite_master",
    "SELECT count(*) FROM sqlite_master",
    "SELECT * FROM sqlite_temp_master",
    "SELECT * FROM temp.sqlite_master",
    "SELECT * FROM sqlite_schema",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('notes')",
    "SELECT count(*) FROM pragma_database_list",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_stmt",
    "SELECT load_extension('x')",
    "SELECT readfile('x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT randomblob(1000000000)",
    "SELECT precipiq_tenant_org_id()",
    "PRAGMA database_list",
    "PRAGMA query_only = OFF",
    "ATTACH ':memory:' AS other",
    "DETACH temp",
    "EXPLAIN QUERY PLAN SELECT * FROM notes",
    "/* */ EXPLAIN SELECT * FROM notes",
    "INSERT INTO notes VALUES ('org_alpha', 'live', 'x')",
    "WITH x AS (SELECT 1) INSERT INTO members SELECT 'org_alpha', 'x'",
    "WITH x AS (SELECT 1) DELETE FROM members",
    "UPDATE members SET name = 'x'",
    "DELETE FROM notes",
    "DROP VIEW notes",
    "CREATE TEMP TABLE notes (note)",
    "CREATE TEMP VIEW mine AS SELECT * FROM main.notes",
    "CREATE TEMP TRIGGER t INSTEAD OF INSERT ON notes BEGIN SELECT 1; END",
    "BEGIN",
    "SAVEPOINT s",
    "VACUUM INTO 'copy.db'",
    "ANALYZE",
    "REINDEX",
]


@pytest.mark.parametrize("sql", OWN_ROWS_ONLY)
def test_a_statement_without_a_filter_sees_its_tenants_rows_alone(tenant: TenantConnection, sql: str) -> None:
    assert fetch(tenant, sql) == OWN_ROWS_ONLY[sql]


@pytest.mark.parametrize("sql", REFUSED)
def test_everything_else_is_refused(tenant: TenantConnection, sql: str) -> None:
    with pytest.raises(Exception) as refused:
        fetch(tenant, sql)
    assert not any(word in str(refused.value) for word in FOREIGN)
    assert fetch(tenant, "SELECT note FROM notes") == [("alpha",)], "the connection serves on"


@pytest.mark.parametrize("sql", [sql for sql in REFUSED if "EXPLAIN" not in sql])
def test_the_authorizer_refuses_without_the_check_of_the_first_word(tenant: TenantConnection, sql: str) -> None:
    with pytest.raises((sqlite3.Error, sqlite3.Warning)):
        tenant.run(ALPHA, lambda connection: connection.execute(sql).fetchall())


def test_a_cte_with_a_views_name_reaches_nothing_even_when_the_files_name_is_known(tenant: TenantConnection) -> None:
    schema = tenant._schema
    for sql in (
        f"WITH notes AS (SELECT * FROM {schema}.notes) SELECT * FROM notes",
        f"WITH notes AS (SELECT * FROM {schema}.secrets) SELECT * FROM notes",
        f"SELECT note FROM {schema}.notes",
        f"SELECT count(*) FROM {schema}.secrets",
    ):
        with pytest.raises(InternalError) as refused:
            fetch(tenant, sql)
        assert schema not in refused.value.message, "the refusal tells the file's name"


def test_one_connection_serves_tenants_in_turn(tenant: TenantConnection) -> None:
    for _ in range(3):
        assert fetch(tenant, "SELECT note FROM notes", ALPHA) == [("alpha",)]
        assert fetch(tenant, "SELECT note FROM notes", ALPHA_TEST) == [("alpha-test",)]
        assert fetch(tenant, "SELECT note FROM notes", NOBODY) == []


def test_without_a_tenant_nothing_is_seen(tenant: TenantConnection) -> None:
    assert tenant._connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    with pytest.raises(ZeroDivisionError):
        tenant.run(ALPHA, lambda _: 1 / 0)
    assert tenant._connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_indexes_work_through_the_views(tenant: TenantConnection) -> None:
    sql = "EXPLAIN QUERY PLAN SELECT note FROM notes WHERE note = 'alpha'"
    plan = tenant.run(ALPHA, lambda connection: connection.execute(sql).fetchall())
    assert "USING COVERING INDEX notes_note (note=? AND org_id=? AND environment=?)" in plan[0][3]


def test_a_declared_table_that_is_missing_stops_the_start(path: Path) -> None:
    with pytest.raises(DeploymentError, match="absent"):
        TenantConnection(path, {"absent": ("org_id", None)}, 5)


def test_a_declared_column_that_is_missing_stops_the_start(path: Path) -> None:
    with pytest.raises(DeploymentError, match="organisation"):
        TenantConnection(path, {"notes": ("organisation", None)}, 5)


def test_the_deployments_reader_cannot_write(path: Path) -> None:
    connection = open_for_reading(path, 5)
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (3,)
    with pytest.raises(Exception, match="readonly"):
        connection.execute("DELETE FROM notes")
    connection.close()
