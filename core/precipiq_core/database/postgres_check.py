"""What a server looks at before it serves from a PostgreSQL: the schema's version, and that tenants are kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import structlog

from precipiq_core.contracts.database import Migration
from precipiq_core.database.postgres_roles import SCHEMA, Roles
from precipiq_core.errors import DeploymentError

log = structlog.get_logger("precipiq.database")

_HINT = "run `precipiq migrate`"

_ROLE = """
SELECT current_user::text AS name, rolsuper, rolbypassrls, current_setting('search_path') AS search_path,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('server_version') AS version, current_setting('server_encoding') AS encoding
FROM pg_roles WHERE rolname = current_user
"""
_TABLES = """
SELECT table_.relname::text AS name, table_.relrowsecurity AND table_.relforcerowsecurity AS is_isolated,
       pg_has_role(table_.relowner, 'USAGE') AS is_owned
FROM pg_class AS table_ JOIN pg_namespace AS space ON space.oid = table_.relnamespace
WHERE space.nspname = $1 AND table_.relkind IN ('r', 'p')
"""


async def check_deployment(connection: asyncpg.Connection, roles: Roles, migrations: Sequence[Migration]) -> str:
    """The server's version. Raises ``DeploymentError`` with everything that is wrong."""
    role = await connection.fetchrow(_ROLE)
    tables = {row["name"]: row for row in await connection.fetch(_TABLES, SCHEMA)}
    if not tables:
        raise DeploymentError([f"the database holds no tables of this program: {_HINT}"])
    problems = await _problems_of_schema(connection, migrations, set(tables))
    if role["rolsuper"] or role["rolbypassrls"]:
        problems.append(f"database.url: role {role['name']} may see every tenant (superuser or BYPASSRLS): use another")
    if role["encoding"] != "UTF8":
        problems.append(f"the database's encoding is {role['encoding']}, it must be UTF8")
    if role["search_path"].split(",")[0].strip(' "') != SCHEMA:
        problems.append(f"database.url: role {role['name']} does not look into schema {SCHEMA} first: {_HINT}")
    problems += [f"table {name} belongs to {roles.runtime}: it must own nothing" for name, row in tables.items()
                 if row["is_owned"]]  # fmt: skip
    problems += [f"table {name} does not keep tenants apart (row-level security): {_HINT}"
                 for name, row in tables.items() if not row["is_isolated"]]  # fmt: skip
    if problems:
        raise DeploymentError(problems)
    if "off" in (role["fsync"], role["full_page_writes"]):
        log.warning("the database loses acknowledged entries when it crashes: fsync or full_page_writes is off")
    return str(role["version"])


async def _problems_of_schema(
    connection: asyncpg.Connection, migrations: Sequence[Migration], tables: set[str]
) -> list[str]:
    from precipiq_core.database.branches import missing_steps, version_table  # alembic, slow to import

    problems: list[str] = []
    before: list[str] = []
    after: list[str] = []
    for migration in migrations:
        table = version_table(migration.branch)
        versions = []
        if table in tables:
            rows = await connection.fetch(f'SELECT version_num FROM {SCHEMA}."{table}"')  # noqa: S608
            versions = [row["version_num"] for row in rows]
        try:
            steps = missing_steps(migration, versions)
        except DeploymentError as error:
            problems += error.problems
            continue
        before += [step.revision for step in steps if not step.is_post]
        after += [step.revision for step in steps if step.is_post]
    if before:
        problems.append(f"the database needs {len(before)} migrations ({', '.join(before)}): {_HINT}")
    if after:
        log.warning("migrations wait: run `precipiq migrate --post` when no older server runs", revisions=after)
    return problems
