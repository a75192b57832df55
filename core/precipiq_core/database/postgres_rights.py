"""The roles of a deployment, and for each table who may read and write which rows.

Everything is derived from what the plugins' migrations declare; a table that nobody declared can be read by nobody who
serves a tenant. Nothing is locked when nothing is to be changed.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import pbkdf2_hmac, sha256
from hmac import digest
from typing import Any

import asyncpg

from precipiq_core.clock import SystemRandomness
from precipiq_core.contracts.database import Migration
from precipiq_core.database.branches import version_table
from precipiq_core.database.postgres_roles import ENVIRONMENT_SETTING, ORG_SETTING, SCHEMA, Roles, quoted
from precipiq_core.settings import SecretReference

_SCRAM_ITERATIONS = 4096
_PINNED = {
    "search_path": SCHEMA,
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "10s",
    "statement_timeout": "30s",
    "row_security": "on",
}
"""Settings of the role that serves, so that they hold behind a pooler too."""

_STATE_OF_TABLES = """
SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''),
       c.relrowsecurity AND c.relforcerowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.prosecdef, pg_get_userbyid(p.proowner)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = current_schema()
"""


async def make_roles(connection: asyncpg.Connection, roles: Roles, password: SecretReference | None) -> None:
    """Make what is missing of the roles and the schema. A role that exists keeps its password."""
    present = {row[0] for row in await connection.fetch("SELECT rolname::text FROM pg_roles")}
    group = "NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE"
    wanted = {
        roles.system: f"{group} NOINHERIT",
        roles.auditor: f"{group} NOINHERIT",
        roles.owner: f"{group} INHERIT",
        roles.runtime: "LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE",
    }
    for name, attributes in wanted.items():
        if name in present:
            continue
        if name == roles.runtime and password is not None:
            attributes += f" PASSWORD '{scram_verifier(password.reveal(), SystemRandomness().bytes(16))}'"
        await connection.execute(f"CREATE ROLE {quoted(name)} {attributes}")
    runtime, system, auditor, owner = map(quoted, (roles.runtime, roles.system, roles.auditor, roles.owner))
    await _grant(connection, system, runtime)
    await _grant(connection, auditor, runtime)
    await _grant(connection, system, owner)
    if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await _grant(connection, owner, quoted(await connection.fetchval("SELECT current_user::text")))
    if not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", SCHEMA):
        await connection.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {owner}")
    database = quoted(await connection.fetchval("SELECT current_database()"))
    pinned = await connection.fetchval(_PINNED_SETTINGS, roles.runtime)
    for name, value in _PINNED.items():
        if f"{name}={value}" not in (pinned or ()):
            await connection.execute(f"ALTER ROLE {runtime} IN DATABASE {database} SET {name} = '{value}'")


_PINNED_SETTINGS = """
SELECT setconfig FROM pg_db_role_setting
WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = $1)
AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def _grant(connection: asyncpg.Connection, role: str, member: str) -> None:
    sql = (
        "SELECT 1 FROM pg_auth_members WHERE roleid = (SELECT oid FROM pg_roles WHERE quote_ident(rolname) = $1) "
        "AND member = (SELECT oid FROM pg_roles WHERE quote_ident(rolname) = $2)"
    )
    names = [await connection.fetchval("SELECT quote_ident($1)", name.strip('"')) for name in (role, member)]
    if not await connection.fetchval(sql, *names):
        await connection.execute(f"GRANT {role} TO {member}")


def scram_verifier(password: str, salt: bytes) -> str:
    """What PostgreSQL stores of a password (RFC 5803), so that the password itself is in no statement or log."""
    salted = pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = sha256(digest(salted, b"Client Key", "sha256")).digest()
    server = digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def rights(plain: Any, roles: Roles, migrations: Sequence[Migration]) -> Iterator[str]:
    """The statements that are still to be executed, as the owner; ``plain``: a SQLAlchemy connection."""
    columns = {table: named for migration in migrations for table, named in migration.tenant_tables.items()}
    of_drivers = {table for migration in migrations for table in migration.driver_tables}
    versions = {version_table(migration.branch) for migration in migrations}
    runtime, system, auditor = map(quoted, (roles.runtime, roles.system, roles.auditor))
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {runtime}, {system}, {auditor}"
    for table, noted, is_isolated, policies_count in plain.exec_driver_sql(_STATE_OF_TABLES).all():
        statements = _rights_of_version_table(table, roles) if table.startswith("alembic_version_") else (
            _rights_of_table(table, roles, columns.get(table), is_of_driver=table in of_drivers))  # fmt: skip
        if table not in columns and table.startswith("alembic_version_") and table not in versions and noted:
            continue  # of a plugin that is switched off
        note = "rights " + sha256("\n".join(statements).encode()).hexdigest()
        policies = sum(statement.startswith("CREATE POLICY") for statement in statements)
        if (noted, is_isolated, policies_count) == (note, True, policies):
            continue
        yield from _without_policies(plain, table)
        yield from statements
        yield f"COMMENT ON TABLE {quoted(table)} IS '{note}'"
    yield from _rights_of_functions(plain, roles)


def _without_policies(plain: Any, table: str) -> Iterator[str]:
    sql = "SELECT polname FROM pg_policy WHERE polrelid = to_regclass($1)"
    for (name,) in plain.exec_driver_sql(sql, (quoted(table),)).all():
        yield f"DROP POLICY {quoted(name)} ON {quoted(table)}"


def _rights_of_table(
    table: str, roles: Roles, columns: tuple[str, str | None] | None, *, is_of_driver: bool
) -> list[str]:
    name = quoted(table)
    runtime, system, auditor, owner = map(quoted, (roles.runtime, roles.system, roles.auditor, roles.owner))
    statements = [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"GRANT SELECT ON {name} TO {auditor}",
        f"CREATE POLICY auditor ON {name} FOR SELECT TO {auditor} USING (true)",
        f"CREATE POLICY owner ON {name} TO {owner} USING (true) WITH CHECK (true)",
    ]
    if columns is not None:
        condition = " AND ".join(
            f"{quoted(column)} = nullif(current_setting('{setting}', true), '')"
            for column, setting in zip(columns, (ORG_SETTING, ENVIRONMENT_SETTING), strict=True)
            if column is not None
        )
        statements.append(f"GRANT SELECT ON {name} TO {runtime}")
        statements.append(f"CREATE POLICY tenant ON {name} USING ({condition}) WITH CHECK ({condition})")
    if not is_of_driver:
        statements.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {system}")
        statements.append(f"CREATE POLICY system ON {name} TO {system} USING (true) WITH CHECK (true)")
    return statements


def _rights_of_version_table(table: str, roles: Roles) -> list[str]:
    name = quoted(table)
    return [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"GRANT SELECT ON {name} TO {quoted(roles.runtime)}",
        f"CREATE POLICY anybody ON {name} FOR SELECT USING (true)",
        f"CREATE POLICY owner ON {name} TO {quoted(roles.owner)} USING (true) WITH CHECK (true)",
    ]


def _rights_of_functions(plain: Any, roles: Roles) -> Iterator[str]:
    """Functions that write for a tenant run as the system role, and only the role that serves may call them."""
    for function, is_definer, owner in plain.exec_driver_sql(_FUNCTIONS).all():
        if owner == roles.system:
            continue
        if is_definer:
            yield f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
            yield f"GRANT EXECUTE ON FUNCTION {function} TO {quoted(roles.runtime)}"
            yield f"GRANT CREATE ON SCHEMA {SCHEMA} TO {quoted(roles.system)}"
            yield f"ALTER FUNCTION {function} OWNER TO {quoted(roles.system)}"
            yield f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {quoted(roles.system)}"
