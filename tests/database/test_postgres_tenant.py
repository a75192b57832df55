"""Reading as a tenant on PostgreSQL: a statement without a filter sees one organisation and environment.

The threat is a plugin's mistake, a forgotten WHERE above all. Not defended, because a plugin's own SQL is trusted: a
statement that calls ``set_config`` to become another tenant, or ``append_entries`` with another's name; the catalogs,
which tell how many rows a table has about (``pg_class``, ``pg_stat_*``) and what other connections of the server run;
``set_config`` for the session, which may make a connection useless but shows nothing.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.errors import Conflict, DeploymentError, PrecipiqError
from precipiq_core.system import SystemClock
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.errors import translate
from precipiq_postgres.roles import ENVIRONMENT_SETTING, ORG_SETTING
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres
from precipiq_testkit.sealing import Writer

from .plugins import ALPHA, ALPHA_TEST, BETA, KEYS, LEDGER, new_database, notes_plugin, opened

pytestmark = pytest.mark.anyio

CHAINS = (ALPHA, ALPHA_TEST, BETA)
SECRET = "4711{}"
"""Marks every row of a tenant; a number, so that casts of it succeed where a row may be seen."""
MARKS = {chain: SECRET.format(number) for number, chain in enumerate(CHAINS)}
NOBODY = (
    Chain("' OR 1=1 --", "live"),
    Chain("", "live"),
    Chain("org_alpha' OR 'a'='a", "live"),
    Chain("org_%", "live"),
)


@pytest.fixture(scope="module")
def migrations(shared_postgres: postgres.PostgresDatabase, tmp_path_factory: pytest.TempPathFactory) -> list[Migration]:
    migrations = [LEDGER, KEYS, notes_plugin(tmp_path_factory.mktemp("plugin"))]
    new_database(shared_postgres).migrate(migrations)
    shared_postgres.sql("SET search_path = precipiq", *(sql for chain in CHAINS for sql in _rows_of(chain)))
    shared_postgres.sql("ANALYZE", f'GRANT SELECT ON precipiq.own_notes TO "{shared_postgres.runtime_role}"')
    return migrations


def _rows_of(chain: Chain) -> Sequence[str]:
    """A row in every table, each holding the tenant's mark."""
    mark, org_id, environment = MARKS[chain], chain.org_id, chain.environment
    tenant = f"'{org_id}', '{environment}'"
    organisation = f"INSERT INTO organisations VALUES ('{org_id}', '{mark}', 1)"
    return [
        *([organisation] if environment == "live" else []),
        f"INSERT INTO api_keys VALUES ('key_{mark}', {tenant}, '{mark}', '{mark}', 'last', 'admin', 1)",
        f"INSERT INTO key_events VALUES ('event_{mark}', {tenant}, 'key_created', '{mark}', 'body')",
        f"INSERT INTO entries VALUES ({tenant}, 1, '{mark}', '{mark}', '{mark}', '{mark}', 'check', "
        f"gen_random_uuid(), 'decision', '{mark}', '{mark}')",
        f"INSERT INTO ledger_checkpoints VALUES ({tenant}, 1, '{mark}', 1)",
        f"INSERT INTO notes VALUES ({tenant}, '{mark}', {mark}, 0.5, '{mark}')",
        *([f"INSERT INTO members VALUES ('{org_id}', '{mark}')"] if environment == "live" else []),
        f"INSERT INTO reserved VALUES ({tenant}, '{mark}')",
        f"INSERT INTO hidden VALUES ('{mark}')",
    ]


@pytest.fixture
async def database(
    shared_postgres: postgres.PostgresDatabase, migrations: list[Migration]
) -> AsyncIterator[PostgresDatabase]:
    async with opened(shared_postgres, migrations, connections_max=2) as database:
        yield database


def tenant_tables(migrations: Sequence[Migration]) -> dict[str, tuple[str, str | None]]:
    return {table: columns for migration in migrations for table, columns in migration.tenant_tables.items()}


async def fetch(database: PostgresDatabase, sql: str, chain: Chain = ALPHA) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in await database.fetch_as(chain, Statement(sql))]


def assert_only_of(chain: Chain, rows: object, *, has_environment: bool = True) -> None:
    for other, mark in MARKS.items():
        if other != chain and (has_environment or other.org_id != chain.org_id):
            assert mark not in repr(rows), f"{chain} sees {other}: {rows}"


async def test_every_tables_rows_are_seen_by_their_tenant_alone(
    database: PostgresDatabase, migrations: list[Migration]
) -> None:
    tables = tenant_tables(migrations)
    assert len(tables) == 8
    for table, (_, environment_column) in tables.items():
        for chain in CHAINS:
            rows = await fetch(database, f"SELECT * FROM {table}", chain)
            assert_only_of(chain, rows, has_environment=environment_column is not None)
            assert len(rows) == 1, (table, chain)
            assert (await fetch(database, f"SELECT count(*) FROM {table}", chain)) == [(1,)]
        for chain in NOBODY:
            assert await fetch(database, f"SELECT * FROM {table}", chain) == [], (table, chain)


async def test_every_pair_of_tables_joins_without_others_rows(
    database: PostgresDatabase, migrations: list[Migration]
) -> None:
    tables = list(tenant_tables(migrations))
    for left in tables:
        for right in tables:
            rows = await fetch(database, f"SELECT * FROM {left} AS x CROSS JOIN {right} AS y", BETA)
            assert len(rows) == 1
            assert_only_of(BETA, rows)


OWN_ROWS_ONLY = {
    "SELECT note FROM notes": [("47110",)],
    "SELECT note FROM precipiq.notes": [("47110",)],
    "SELECT 1 FROM notes": [(1,)],
    "SELECT note FROM own_notes": [("47110",)],
    "SELECT note FROM notes WHERE org_id = 'org_beta'": [],
    "SELECT note FROM notes WHERE org_id = 'org_beta' OR TRUE": [("47110",)],
    "SELECT note FROM notes WHERE number = 47112": [],
    "SELECT max(number), sum(number) FROM notes": [(47110, 47110)],
    "SELECT x.note, y.name FROM notes AS x LEFT JOIN members AS y ON true": [("47110", "47110")],
    "SELECT y.note FROM members AS x FULL JOIN notes AS y ON x.org_id <> y.org_id WHERE y.note IS NOT NULL": [
        ("47110",)
    ],
    "WITH every AS (SELECT * FROM notes) SELECT note FROM every": [("47110",)],
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2) SELECT i, note FROM n, notes": [
        (1, "47110"),
        (2, "47110"),
    ],
    "SELECT (SELECT count(*) FROM notes), EXISTS (SELECT 1 FROM notes WHERE note = '47112')": [(1, False)],
    "SELECT '47112' IN (SELECT note FROM notes)": [(False,)],
    "SELECT note FROM notes UNION SELECT name FROM members": [("47110",)],
    "SELECT string_agg(note, ',') OVER () FROM notes": [("47110",)],
    "SELECT n.note FROM members CROSS JOIN LATERAL (SELECT note FROM notes) AS n": [("47110",)],
    "SELECT query_to_xml('SELECT note FROM notes', false, true, '')::text LIKE '%47112%'": [(False,)],
    "SELECT table_to_xml('notes', false, true, '')::text LIKE '%47112%'": [(False,)],
    "SELECT row_to_json(notes)::text LIKE '%47112%' FROM notes": [(False,)],
    "SELECT count(*) FROM notes TABLESAMPLE SYSTEM (100)": [(1,)],
    "SELECT count(*) FROM notes WHERE ctid = '(0,3)'": [(0,)],
    "SELECT count(*) FROM pg_stats WHERE schemaname = 'precipiq' AND tablename NOT LIKE 'alembic%'": [(0,)],
}
"""What ALPHA sees; others' notes are 47111 (its own test environment) and 47112."""

LEAKY = [
    "SELECT 1 / (47112 - number) FROM notes",
    "SELECT note FROM notes WHERE 1 / (47112 - number) > 0",
    "SELECT note FROM notes WHERE number / (47111 - number) IS NOT NULL",
    "SELECT note FROM notes WHERE CASE WHEN note = '47112' THEN 1 / (number - number) ELSE 1 END > 0",
    "SELECT CAST(replace(note, '47112', 'x') AS integer) FROM notes",
    "SELECT note FROM notes WHERE CAST(replace(note, '47112', 'x') AS integer) > 0",
    "SELECT note FROM notes WHERE CAST(replace(convert_from(content, 'UTF8'), '47111', 'x') AS integer) > 0",
    "SELECT x.note FROM notes AS x JOIN members AS y ON 1 / (47112 - x.number) < CAST(y.name AS integer)",
    "SELECT note FROM own_notes WHERE 1 / (47112 - CAST(note AS integer)) > -9",
    "SELECT statement FROM entries WHERE 1 / (47112 - CAST(convert_from(statement, 'UTF8') AS integer)) > -9",
    "SELECT count(*) FROM notes HAVING 1 / (47112 - max(number)) > -9",
]
"""Each fails when it is evaluated on another tenant's row: the failure would tell what is in it."""

REFUSED = [
    "SELECT * FROM hidden",
    "SELECT count(*) FROM hidden",
    "SELECT changes FROM api_key_changes",
    "SELECT nextval('members_number_seq')",
    "SELECT currval('members_number_seq')",
    "SELECT lastval()",
    "SELECT last_value FROM members_number_seq",
    "SELECT setval('members_number_seq', 1)",
    "SELECT starelid FROM pg_statistic",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('postgresql.conf')",
    "INSERT INTO notes (org_id, environment, note) VALUES ('org_alpha', 'live', 'x')",
    "WITH x AS (INSERT INTO members VALUES ('org_beta', 'x') RETURNING name) SELECT * FROM x",
    "WITH x AS (DELETE FROM notes RETURNING note) SELECT * FROM x",
    "UPDATE members SET name = 'x'",
    "DELETE FROM notes",
    "SELECT note FROM notes FOR UPDATE",
    "SELECT erase_payload('org_beta', 'live', 1)",
    "SELECT append_entries('org_alpha', 'live', 1, '47110', ARRAY[gen_random_uuid()], ARRAY['x'], ARRAY['x'], "
    "ARRAY['x'], ARRAY[NULL::bigint], ARRAY['x'::bytea], ARRAY['x'::bytea], ARRAY['x'], NULL, NULL, NULL)",
    "SELECT note INTO TEMP more FROM notes",
    "EXPLAIN SELECT * FROM notes",
    "EXPLAIN ANALYZE SELECT * FROM notes",
    "SET ROLE NONE",
    "RESET ROLE",
    "SET precipiq.org_id = 'org_beta'",
    "COPY notes TO STDOUT",
    "COPY (SELECT * FROM notes) TO PROGRAM 'cat'",
    "PREPARE p AS SELECT * FROM notes",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM notes",
    "CREATE TEMP VIEW mine AS SELECT * FROM notes",
    "COMMIT",
]


@pytest.mark.parametrize("sql", OWN_ROWS_ONLY)
async def test_a_statement_without_a_filter_sees_its_tenants_rows_alone(database: PostgresDatabase, sql: str) -> None:
    assert await fetch(database, sql) == OWN_ROWS_ONLY[sql]


@pytest.mark.parametrize("sql", LEAKY)
async def test_nothing_is_evaluated_on_others_rows(database: PostgresDatabase, sql: str) -> None:
    assert_only_of(ALPHA, await fetch(database, sql))


async def test_the_leaky_statements_do_fail_where_everything_is_seen(database: PostgresDatabase) -> None:
    for sql in LEAKY:
        if "own_notes" not in sql and "entries" not in sql:
            with pytest.raises(PrecipiqError):
                await database.fetch(Statement(sql))


@pytest.mark.parametrize("sql", REFUSED)
async def test_everything_else_is_refused(
    database: PostgresDatabase, shared_postgres: postgres.PostgresDatabase, sql: str
) -> None:
    counts = "SELECT (SELECT count(*) FROM precipiq.notes), (SELECT count(*) FROM precipiq.entries)"
    before = list((await postgres.execute(shared_postgres.admin_url, counts))[0])
    with pytest.raises(PrecipiqError) as refused:
        await fetch(database, sql)
    assert_only_of(ALPHA, refused.value.message)
    for chain in CHAINS:
        assert await fetch(database, "SELECT note FROM notes", chain) == [(MARKS[chain],)], "all goes on as before"
    assert list((await postgres.execute(shared_postgres.admin_url, counts))[0]) == before


async def test_another_tenant_set_within_a_statement_ends_with_it(database: PostgresDatabase) -> None:
    tricks = [
        "SELECT set_config('precipiq.org_id', 'org_beta', true)",
        "SELECT set_config('precipiq.org_id', 'org_beta', false)",
        "SELECT set_config('role', 'none', false)",
    ]
    for trick in tricks:
        for _ in range(3):
            await fetch(database, trick)
        for chain in CHAINS:
            assert await fetch(database, "SELECT note FROM notes", chain) in ([(MARKS[chain],)],), trick


async def test_without_a_tenant_nothing_is_seen(database: PostgresDatabase, migrations: list[Migration]) -> None:
    for table, (_, environment_column) in tenant_tables(migrations).items():
        count = f"SELECT count(*) FROM {table}"
        settings = [
            "SELECT 1",
            "SELECT set_config('precipiq.org_id', '', false), set_config('precipiq.environment', '', false)",
            "SELECT set_config('precipiq.org_id', '', false), set_config('precipiq.environment', 'live', false)",
        ]
        if environment_column is not None:
            settings.append("SELECT set_config('precipiq.org_id', 'org_alpha', true)")
        for setting in settings:

            async def work(connection, setting=setting, count=count):
                await connection.execute(setting)
                return await connection.fetchval(count)

            assert await database.run(work) == 0, (table, setting)
    await fetch(database, "SELECT 1")
    assert await database.run(lambda c: c.fetchval("SELECT current_setting('precipiq.org_id', true)")) in ("", None)


async def test_the_settings_of_a_tenant_end_with_its_transaction(database: PostgresDatabase) -> None:
    for failing in ("SELECT 1", "SELECT 1 / 0"):
        for chain in CHAINS:
            try:
                await fetch(database, failing, chain)
            except PrecipiqError:
                assert failing != "SELECT 1"
            assert await database.run(lambda c: c.fetchval("SELECT count(*) FROM notes")) == 0
            for setting in (ORG_SETTING, ENVIRONMENT_SETTING):
                now = f"SELECT current_setting('{setting}', true)"
                assert await database.run(lambda c, now=now: c.fetchval(now)) in ("", None)


COLLISIONS = [
    ("api_keys", "INSERT INTO api_keys VALUES ('key_47112', :org_id, 'live', 'h', 'p', 'l', 's', 1)"),
    ("api_keys", "INSERT INTO api_keys VALUES ('key_new', :org_id, 'live', '47112', 'p', 'l', 's', 1)"),
    ("notes", "INSERT INTO notes (org_id, environment, note) VALUES (:org_id, 'live', '47112')"),
    ("notes", "UPDATE notes SET note = '47112' WHERE org_id = :org_id"),
    ("notes", "UPDATE notes SET number = -1 WHERE org_id = :org_id"),
    ("api_keys", "INSERT INTO api_keys VALUES ('key_new', 'org_gamma', 'live', :org_id, 'p', 'l', 's', 1)"),
    ("organisations", "DELETE FROM organisations WHERE org_id = :org_id"),
    ("api_keys", "UPDATE api_keys SET prefix = NULL WHERE org_id = :org_id"),
]


@pytest.mark.parametrize(("table", "sql"), COLLISIONS)
async def test_a_conflict_tells_nothing_of_what_is_stored(database: PostgresDatabase, table: str, sql: str) -> None:
    stream = io.BytesIO()
    control = configure_logging(LogSettings(level="debug"), SystemClock(), stream=stream)
    try:
        with pytest.raises(Conflict) as refused:
            await database.transaction([Statement(sql, {"org_id": ALPHA.org_id})])
        structlog.get_logger("test").error("refused", exc_info=refused.value)
        structlog.get_logger("test").error("cause", error=repr(refused.value.__cause__), text=str(refused.value))
    finally:
        control.restore()
    assert refused.value.message == Conflict.default_message
    assert refused.value.details is None
    told = stream.getvalue().decode() + "".join(traceback.format_exception(refused.value))
    assert "UniqueViolation" in told or "violates" in told, "the log says what kind of conflict it was"
    for secret in (*MARKS.values(), "org_alpha", "org_beta"):
        assert not [line for line in told.splitlines() if secret in line]


def test_the_detail_of_an_error_is_nowhere_in_the_projects() -> None:
    """PostgreSQL leaves it out where row-level security holds, and gives it for all other tables."""
    fields = {"C": "23505", "M": "duplicate key", "D": "Key (note)=(47112) already exists."}
    error = asyncpg.PostgresError.new(fields)
    assert "47112" in str(error)
    failure = translate(error)
    assert "47112" not in "".join(traceback.format_exception(failure))


async def test_chains_share_no_keys_and_no_ids(database: PostgresDatabase) -> None:
    chains = [Chain("org_one", "live"), Chain("org_one", "test"), Chain("org_two", "live")]
    async with PostgresDriver(database).open() as store:
        writers = [Writer(store, seed=7) for _ in chains]  # the same ids, in the same order
        entries = []
        for writer, chain in zip(writers, chains, strict=True):
            appended = await writer.append(chain, writer.draft(key="the same key"))
            entries += appended.entries
        ids = await database.run_in(
            database.roles.begin_as_auditor(),
            lambda connection: connection.fetch("SELECT DISTINCT id FROM entries WHERE org_id LIKE 'org_one%'"),
        )
        assert len(ids) == 1, "the test must have made the same id twice"
        assert [entry.seq for entry in entries] == [1, 1, 1]
        for chain, entry in zip(chains, entries, strict=True):
            assert [found.statement for found in await store.read(chain, 0, 10)] == [entry.statement]
            assert (await store.get(chain, str(ids[0][0]))) == entry


async def test_a_view_that_reads_as_its_owner_stops_the_start(
    database: PostgresDatabase, shared_postgres: postgres.PostgresDatabase, migrations: list[Migration]
) -> None:
    role, owner = f'"{shared_postgres.runtime_role}"', f'"{database.roles.owner}"'
    for kind in ("VIEW", "MATERIALIZED VIEW"):
        await postgres.execute(
            shared_postgres.admin_url,
            f"CREATE {kind} precipiq.leak AS SELECT * FROM precipiq.notes",
            f"ALTER {kind} precipiq.leak OWNER TO {owner}",
            f"GRANT SELECT ON precipiq.leak TO {role}",
        )
        try:
            assert len(await fetch(database, "SELECT * FROM leak")) == 3, "the hole is real"
            with pytest.raises(DeploymentError, match="table leak does not keep tenants apart"):
                async with opened(shared_postgres, migrations):
                    pass
        finally:
            await postgres.execute(shared_postgres.admin_url, f"DROP {kind} precipiq.leak")
