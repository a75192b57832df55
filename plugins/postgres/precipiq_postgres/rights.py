"""The roles of a deployment, and each role's rights to the rows of each table.

The rights follow from the declarations of the plugins' migrations; no role that serves a tenant can read a table
that no migration declares. A run that changes nothing locks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import asyncpg

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.secret_location import SecretLocation
from precipiq_core.system import SystemRandomness
from precipiq_postgres.roles import ENVIRONMENT_SETTING, ORG_SETTING, SCHEMA, Roles, quoted
from precipiq_postgres.scram import scram_verifier
from precipiq_schema.steps import version_table

_PINNED = {
    "search_path": f"{SCHEMA}, pg_temp",  # else PostgreSQL looks for temporary tables first
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "10s",
    "statement_timeout": "15s",
    "row_security": "on",
}
"""Settings of the role that serves, so that they hold behind a pooler too."""

_STATE_OF_TABLES = """
SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''),
       c.relrowsecurity AND c.relforcerowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""
_SEQUENCES = """
SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege($1, c.oid, 'USAGE') END
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.prosecdef, pg_get_userbyid(p.proowner)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = current_schema()
"""


async def make_roles(connection: asyncpg.Connection, roles: Roles, password: SecretLocation | None) -> None:
    """Make the missing roles and the schema. A role that exists keeps its password.

    Raises ``DeploymentError`` when another role owns the schema.
    """
    present = {row[0]: row[1] for row in await connection.fetch("SELECT rolname::text, rolinherit FROM pg_roles")}
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
    runtime = quoted(roles.runtime)
    if present.get(roles.runtime):  # made by an administrator, without NOINHERIT: it would have the others' rights
        await connection.execute(f"ALTER ROLE {runtime} NOINHERIT")
    await _grant(connection, roles.system, roles.runtime, inherits=False)
    await _grant(connection, roles.auditor, roles.runtime, inherits=False)
    await _grant(connection, roles.system, roles.owner, inherits=True)
    if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await _grant(connection, roles.owner, await connection.fetchval("SELECT current_user::text"), inherits=True)
    schema_owner = await connection.fetchval(_SCHEMA_OWNER, SCHEMA)
    if schema_owner is None:
        await connection.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {quoted(roles.owner)}")
    elif schema_owner != roles.owner:
        raise DeploymentError([f"schema {SCHEMA} belongs to role {schema_owner}, it must belong to {roles.owner}"])
    database = quoted(await connection.fetchval("SELECT current_database()"))
    pinned = await connection.fetchval(_PINNED_SETTINGS, roles.runtime)
    for name, value in _PINNED.items():
        if f"{name}={value}" not in (pinned or ()):
            shown = value if name == "search_path" else f"'{value}'"
            await connection.execute(f"ALTER ROLE {runtime} IN DATABASE {database} SET {name} = {shown}")


_SCHEMA_OWNER = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1"
_PINNED_SETTINGS = """
SELECT setconfig FROM pg_db_role_setting
WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = $1)
AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def _grant(connection: asyncpg.Connection, role: str, member: str, *, inherits: bool) -> None:
    """Let ``member`` become ``role``, with or without that role's rights before it does."""
    grant = f"GRANT {quoted(role)} TO {quoted(member)}"
    if connection.get_server_version() < (16, 0):  # there the member's INHERIT rules all its memberships
        is_done = await connection.fetchval("SELECT pg_has_role($1::name, $2::name, 'MEMBER')", member, role)
    else:
        sql = "SELECT pg_has_role($1::name, $2::name, 'SET') AND pg_has_role($1::name, $2::name, 'USAGE') = $3"
        is_done = await connection.fetchval(sql, member, role, inherits)
        grant += f" WITH INHERIT {inherits}, SET TRUE"
    if not is_done:
        await connection.execute(grant)


def rights(plain: Any, roles: Roles, migrations: Sequence[Migration], branch: str) -> Iterator[str]:
    """The statements that are still to be executed, as the owner.

    ``plain``: a SQLAlchemy connection. ``branch``: its newest revision may have made tables without rights.
    """
    columns = {table: named for migration in migrations for table, named in migration.tenant_tables.items()}
    of_drivers = {table for migration in migrations for table in migration.driver_tables}
    branches = {migration.branch for migration in migrations}
    runtime, system, auditor = map(quoted, (roles.runtime, roles.system, roles.auditor))
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {runtime}, {system}, {auditor}"
    for table, noted, is_isolated, policies_count in plain.exec_driver_sql(_STATE_OF_TABLES).all():
        made_by = noted.split(" ")[1] if noted.startswith("rights ") else branch
        if is_isolated and noted and table not in columns and made_by not in branches:
            continue  # the table of a plugin that is off keeps its rights
        if table.startswith(version_table("")):
            statements = _rights_of_version_table(table, roles)
        else:
            statements = _rights_of_table(table, roles, columns.get(table), is_of_driver=table in of_drivers)
        note = f"rights {made_by or '-'} {sha256(chr(10).join(statements).encode()).hexdigest()}"
        policies = sum(statement.startswith("CREATE POLICY") for statement in statements)
        if (noted, is_isolated, policies_count) == (note, True, policies):
            continue
        yield from _without_policies(plain, table)
        yield from statements
        yield f"COMMENT ON TABLE {quoted(table)} IS '{note}'"
    for (sequence,) in plain.exec_driver_sql(_SEQUENCES, (roles.system,)).all():
        yield f"GRANT USAGE ON SEQUENCE {quoted(sequence)} TO {system}"
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
    """Functions that write for a tenant run as the system role; the role that serves alone may call them."""
    for function, is_definer, owner in plain.exec_driver_sql(_FUNCTIONS).all():
        if owner == roles.system:
            continue
        if is_definer:
            yield f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
            yield f"GRANT EXECUTE ON FUNCTION {function} TO {quoted(roles.runtime)}"
            yield f"GRANT CREATE ON SCHEMA {SCHEMA} TO {quoted(roles.system)}"
            yield f"ALTER FUNCTION {function} OWNER TO {quoted(roles.system)}"
            yield f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {quoted(roles.system)}"
