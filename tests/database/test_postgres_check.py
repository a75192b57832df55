"""Generated from the catalog: every table, view, sequence and function of the schema keeps tenants apart.

A new table, policy or grant that is not of the few kinds below fails the first test; the others show that it can fail,
and that a server does not start over such a database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_postgres.check import check_deployment
from precipiq_postgres.roles import Roles
from precipiq_testkit import postgres

from .plugins import KEYS, LEDGER, new_database, notes_plugin

pytestmark = pytest.mark.anyio

TENANT = "NULLIF(current_setting('precipiq.{}'::text, true), ''::text)"
READ, WRITE = {"SELECT"}, {"SELECT", "INSERT", "UPDATE", "DELETE"}

_TABLES = """
SELECT c.oid, c.relname::text AS name, c.relkind::text AS kind, pg_get_userbyid(c.relowner)::text AS owner,
       c.relrowsecurity AS is_enabled, c.relforcerowsecurity AS is_forced, c.reloptions AS options
FROM pg_class AS c WHERE c.relnamespace = 'precipiq'::regnamespace AND c.relkind NOT IN ('i', 'I', 't') ORDER BY 2
"""
_POLICIES = """
SELECT p.polname::text AS name, p.polcmd::text AS command, p.polpermissive AS is_permissive,
       (SELECT string_agg(CASE WHEN role = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role)::text END, ',')
        FROM unnest(p.polroles) AS role) AS roles,
       coalesce(pg_get_expr(p.polqual, p.polrelid), 'none') AS sees,
       coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none') AS writes
FROM pg_policy AS p WHERE p.polrelid = $1
"""
_GRANTS = """
SELECT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END AS grantee, privilege_type AS what,
       column_name
FROM (SELECT (aclexplode(relacl)).*, NULL AS column_name FROM pg_class WHERE oid = $1
      UNION ALL SELECT (aclexplode(attacl)).*, attname FROM pg_attribute WHERE attrelid = $1) AS granted
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, p.prosecdef AS is_definer, pg_get_userbyid(p.proowner)::text AS owner,
       coalesce(p.proconfig, '{}') AS config,
       ARRAY(SELECT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END
             FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))) AS callers
FROM pg_proc AS p WHERE p.pronamespace = 'precipiq'::regnamespace
"""


@dataclass
class Catalog:
    """What a database says of itself, and what is wrong with it. ``migrations``: what the plugins declare."""

    connection: asyncpg.Connection
    roles: Roles
    migrations: list[Migration]

    async def problems(self) -> list[str]:
        found: list[str] = []
        for table in await self.connection.fetch(_TABLES):
            found += [f"{table['name']}: {problem}" for problem in await self._problems_of_table(table)]
        for function in await self.connection.fetch(_FUNCTIONS):
            found += [f"{function['name']}: {problem}" for problem in self._problems_of_function(function)]
        return found

    async def _problems_of_table(self, table: asyncpg.Record) -> list[str]:
        name, found = table["name"], []
        if table["owner"] != self.roles.owner:
            found.append(f"belongs to {table['owner']}")
        if table["kind"] in "rp":
            if not (table["is_enabled"] and table["is_forced"]):
                found.append("row-level security is not forced")
            policies = {tuple(row.values()) for row in await self.connection.fetch(_POLICIES, table["oid"])}
            expected = set(self._policies(name))
            found += [f"policy {row}" for row in policies - expected]
            found += [f"lacks policy {row}" for row in expected - policies]
        elif table["kind"] != "S" and "security_invoker=true" not in (table["options"] or ()):
            found.append("reads as its owner")
        allowed = self._grants(name, table["kind"])
        for grant in await self.connection.fetch(_GRANTS, table["oid"]):
            if grant["grantee"] != self.roles.owner and tuple(grant.values()) not in allowed:
                found.append(f"{grant['grantee']} may {grant['what']} {grant['column_name'] or ''}".rstrip())
        return found

    def _policies(self, table: str) -> Iterator[tuple[object, ...]]:
        roles = self.roles
        yield ("owner", "*", True, roles.owner, "true", "true")
        if table.startswith("alembic_version_"):
            yield ("anybody", "r", True, "PUBLIC", "true", "none")
            return
        yield ("auditor", "r", True, roles.auditor, "true", "none")
        columns = self._tenant_columns().get(table)
        if columns is not None:
            conditions = [
                f"({column} = {TENANT.format(setting)})"
                for column, setting in zip(columns, ("org_id", "environment"), strict=True)
                if column is not None
            ]
            condition = conditions[0] if len(conditions) == 1 else f"({' AND '.join(conditions)})"
            yield ("tenant", "*", True, "PUBLIC", condition, condition)
        if table not in self._driver_tables():
            yield ("system", "*", True, roles.system, "true", "true")

    def _grants(self, table: str, kind: str) -> set[tuple[str, str, str | None]]:
        runtime, system, auditor = self.roles.runtime, self.roles.system, self.roles.auditor
        if kind == "S":
            return {(system, "USAGE", None)}
        allowed = {(runtime, what, None) for what in READ if self._is_seen_by_tenants(table)}
        if not table.startswith("alembic_version_"):
            allowed |= {(auditor, what, None) for what in READ}
            if table not in self._driver_tables():
                allowed |= {(system, what, None) for what in WRITE}
        if table == "entries":  # for the two functions, which run as that role
            allowed |= {(system, "SELECT", None), (system, "INSERT", None), (system, "UPDATE", "payload")}
        return allowed

    def _is_seen_by_tenants(self, table: str) -> bool:
        return table in self._tenant_columns() or table.startswith("alembic_version_")

    def _tenant_columns(self) -> dict[str, tuple[str, str | None]]:
        return {table: columns for each in self.migrations for table, columns in each.tenant_tables.items()}

    def _driver_tables(self) -> set[str]:
        return {table for each in self.migrations for table in each.driver_tables}

    def _problems_of_function(self, function: asyncpg.Record) -> Iterator[str]:
        if not function["is_definer"]:
            return
        if function["owner"] != self.roles.system:
            yield f"runs as {function['owner']}"
        if "search_path=precipiq, pg_temp" not in function["config"]:
            yield "its search_path is not pinned"
        for caller in sorted(set(function["callers"]) - {self.roles.system, self.roles.runtime}):
            yield f"{caller} may call it"


@pytest.fixture(scope="module")
def migrations(shared_postgres: postgres.PostgresDatabase, tmp_path_factory: pytest.TempPathFactory) -> list[Migration]:
    migrations = [LEDGER, KEYS, notes_plugin(tmp_path_factory.mktemp("plugin"))]
    new_database(shared_postgres).migrate(migrations)
    return migrations


@asynccontextmanager
async def altered(
    place: postgres.PostgresDatabase, migrations: list[Migration], *statements: str
) -> AsyncIterator[Catalog]:
    """The catalog after these statements of a superuser, which are undone afterwards."""
    roles = Roles(place.runtime_role)
    names = {"runtime": roles.runtime, "system": roles.system, "auditor": roles.auditor, "owner": roles.owner}
    connection = await asyncpg.connect(place.admin_url)
    try:
        await connection.execute("BEGIN; SET LOCAL search_path = precipiq, pg_temp")
        for statement in statements:
            for name, role in names.items():
                statement = statement.replace(f"<{name}>", f'"{role}"')
            await connection.execute(statement)
        yield Catalog(connection, roles, migrations)
    finally:
        await connection.close()


async def refusal(catalog: Catalog) -> list[str]:
    """What a server says that starts now."""
    runtime = catalog.roles.runtime
    await catalog.connection.execute(f'SET LOCAL SESSION AUTHORIZATION "{runtime}"')
    try:
        await check_deployment(catalog.connection, catalog.roles, catalog.migrations)
    except DeploymentError as error:
        return [problem.replace(runtime, "<runtime>") for problem in error.problems]
    return []


async def test_everything_in_the_schema_keeps_tenants_apart(
    shared_postgres: postgres.PostgresDatabase, migrations: list[Migration]
) -> None:
    async with altered(shared_postgres, migrations) as catalog:
        tables = {row["name"] for row in await catalog.connection.fetch(_TABLES)}
        assert {"entries", "api_keys", "notes", "hidden", "own_notes", "members_number_seq"} <= tables
        assert len(await catalog.connection.fetch(_FUNCTIONS)) >= 4
        assert await catalog.problems() == []
        assert await refusal(catalog) == []


APART = "table {} does not keep tenants apart (row-level security): run `precipiq migrate`"
WIDE = "table {} does not keep tenants apart (policy {}): drop that policy"
LEAK = "CREATE TABLE leak (org_id text); ALTER TABLE leak OWNER TO <owner>"

HOLES = {
    LEAK: ("leak: row-level security is not forced", APART.format("leak")),
    f"{LEAK}; ALTER TABLE leak ENABLE ROW LEVEL SECURITY": (
        "leak: row-level security is not forced",
        APART.format("leak"),
    ),
    f"{LEAK}; ALTER TABLE leak ENABLE ROW LEVEL SECURITY; ALTER TABLE leak FORCE ROW LEVEL SECURITY": (
        "leak: lacks policy",
        None,  # nobody sees anything
    ),
    "ALTER TABLE entries NO FORCE ROW LEVEL SECURITY": ("entries: row-level", APART.format("entries")),
    "ALTER TABLE api_keys DISABLE ROW LEVEL SECURITY": ("api_keys: row-level", APART.format("api_keys")),
    "DROP POLICY tenant ON key_events": ("key_events: lacks policy ('tenant'", None),
    "CREATE POLICY wide ON notes USING (true)": ("notes: policy ('wide'", WIDE.format("notes", "wide")),
    "CREATE POLICY wide ON hidden TO <runtime> USING (true)": (
        "hidden: policy ('wide'",
        WIDE.format("hidden", "wide"),
    ),
    "CREATE POLICY wide ON notes FOR INSERT WITH CHECK (true)": (
        "notes: policy ('wide'",
        WIDE.format("notes", "wide"),
    ),
    "ALTER POLICY tenant ON members USING (org_id IS NOT NULL) WITH CHECK (true)": (
        "members: policy ('tenant'",
        WIDE.format("members", "tenant"),
    ),
    "ALTER POLICY tenant ON notes USING (org_id = nullif(current_setting('precipiq.org_id', true), ''))": (
        "notes: policy ('tenant'",  # the environment is forgotten
        None,
    ),
    "GRANT SELECT ON entries TO PUBLIC": ("entries: PUBLIC may SELECT", None),
    "GRANT INSERT ON notes TO <runtime>": ("notes: <runtime> may INSERT", None),
    "GRANT UPDATE (note) ON notes TO <auditor>": ("notes: <auditor> may UPDATE note", None),
    "GRANT DELETE ON entries TO <system>": ("entries: <system> may DELETE", None),
    "GRANT UPDATE (hash) ON entries TO <system>": ("entries: <system> may UPDATE hash", None),
    "GRANT SELECT ON hidden TO <runtime>": ("hidden: <runtime> may SELECT", None),
    "GRANT USAGE ON SEQUENCE members_number_seq TO <runtime>": ("members_number_seq: <runtime> may USAGE", None),
    "ALTER TABLE notes OWNER TO <runtime>": (
        "notes: belongs to <runtime>",
        "table notes belongs to <runtime>: it must own nothing",
    ),
    "CREATE VIEW leak AS SELECT * FROM entries; ALTER VIEW leak OWNER TO <owner>": ("leak: reads as its owner", None),
    "CREATE VIEW leak AS SELECT * FROM notes; ALTER VIEW leak OWNER TO <owner>; GRANT SELECT ON leak TO <runtime>": (
        "leak: reads as its owner",
        APART.format("leak"),
    ),
    "ALTER FUNCTION append_entries OWNER TO <owner>": ("append_entries(text", None),
    "ALTER FUNCTION erase_payload RESET search_path": ("erase_payload(text,text,bigint): its search_path", None),
    "GRANT EXECUTE ON FUNCTION erase_payload TO PUBLIC": ("erase_payload(text,text,bigint): PUBLIC may call", None),
    "CREATE FUNCTION leak() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM precipiq.notes'": (
        "leak(): runs as",
        None,
    ),
}
"""What opens a hole -> how the catalog's test names it, and how a server that starts does."""


@pytest.mark.parametrize("statements", HOLES)
async def test_a_hole_is_named(
    shared_postgres: postgres.PostgresDatabase, migrations: list[Migration], statements: str
) -> None:
    problem, said = HOLES[statements]
    async with altered(shared_postgres, migrations, *statements.split("; ")) as catalog:
        found = " | ".join(await catalog.problems())
        for name in ("runtime", "auditor", "system"):
            problem = problem.replace(f"<{name}>", getattr(catalog.roles, name))
        assert problem in found
        assert await refusal(catalog) == ([] if said is None else [said])


ROLES = {
    "ALTER ROLE <runtime> SUPERUSER": [
        "database.url: role <runtime> may see every tenant (superuser or BYPASSRLS): use another"
    ],
    "ALTER ROLE <runtime> BYPASSRLS": [
        "database.url: role <runtime> may see every tenant (superuser or BYPASSRLS): use another"
    ],
    "ALTER ROLE <system> BYPASSRLS": [
        "role <runtime> may become <runtime>_system, who may see every tenant (superuser or BYPASSRLS)"
    ],
    "CREATE ROLE over_all SUPERUSER; GRANT over_all TO <runtime>": [
        "role <runtime> may become over_all, who may see every tenant (superuser or BYPASSRLS)"
    ],
    "REVOKE <auditor> FROM <runtime>": [
        "role <runtime> may not become <runtime>_auditor: run `precipiq migrate`",
    ],
    "ALTER ROLE <runtime> INHERIT; REVOKE <auditor>, <system> FROM <runtime>; GRANT <auditor>, <system> TO <runtime>": [
        "role <runtime> sees all that <runtime>_auditor sees (INHERIT): run `precipiq migrate`",
        "role <runtime> sees all that <runtime>_system sees (INHERIT): run `precipiq migrate`",
    ],
    "SET LOCAL search_path = public": [
        "database.url: role <runtime> does not look into schema precipiq first: run `precipiq migrate`"
    ],
    "DELETE FROM alembic_version_ledger": [
        "the database needs 3 migrations (ledger_0001, ledger_0002, ledger_0003): run `precipiq migrate`",
    ],
    "UPDATE alembic_version_ledger SET version_num = 'ledger_9999'": [],  # a newer version's first phase
    "UPDATE alembic_version_ledger SET version_num = 'ledger_9999'; "
    "COMMENT ON COLUMN alembic_version_ledger.version_num IS NULL": [
        "the database's tables of ledger are newer than this program knows: "
        "Can't locate revision identified by 'ledger_9999'"
    ],
    "ALTER ROLE <runtime> BYPASSRLS; ALTER TABLE notes DISABLE ROW LEVEL SECURITY; DELETE FROM alembic_version_notes": [
        "the database needs 1 migrations (notes_0001): run `precipiq migrate`",
        "database.url: role <runtime> may see every tenant (superuser or BYPASSRLS): use another",
        "table notes does not keep tenants apart (row-level security): run `precipiq migrate`",
    ],
}


@pytest.mark.parametrize("statements", ROLES)
async def test_a_server_says_exactly_why_it_does_not_start(
    shared_postgres: postgres.PostgresDatabase, migrations: list[Migration], statements: str
) -> None:
    async with altered(shared_postgres, migrations, *statements.split("; ")) as catalog:
        assert await refusal(catalog) == ROLES[statements]


async def test_becoming_the_owner_is_refused(
    shared_postgres: postgres.PostgresDatabase, migrations: list[Migration]
) -> None:
    async with altered(shared_postgres, migrations, "GRANT <owner> TO <runtime>") as catalog:
        said = await refusal(catalog)
        assert "table entries belongs to <runtime>: it must own nothing" in said
        assert all("must own nothing" in problem or "INHERIT" in problem for problem in said), said
