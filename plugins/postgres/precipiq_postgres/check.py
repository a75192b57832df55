"""The checks of a server before it serves from a PostgreSQL: the schema's version, and the separation of tenants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import structlog

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_postgres.roles import OLDEST, ORG_SETTING, SCHEMA, Roles
from precipiq_schema.branches import missing_steps
from precipiq_schema.steps import version_table

log = structlog.get_logger("precipiq.database")

_HINT = "run `precipiq migrate`"

_ROLE = """
SELECT current_user::text AS name, rolsuper, rolbypassrls, current_setting('search_path') AS search_path,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('server_version') AS version, current_setting('server_encoding') AS encoding
FROM pg_roles WHERE rolname = current_user
"""
_OTHER_ROLES = """
SELECT rolname::text AS name, rolsuper OR rolbypassrls AS sees_all, pg_has_role(oid, 'USAGE') AS is_inherited
FROM pg_roles WHERE rolname <> current_user AND pg_has_role(oid, 'MEMBER') ORDER BY rolname
"""
_TABLES = """
SELECT c.relname::text AS name, pg_has_role(c.relowner, 'MEMBER') AS is_owned,
       CASE WHEN c.relkind IN ('r', 'p') THEN c.relrowsecurity AND c.relforcerowsecurity
            ELSE NOT has_any_column_privilege(c.oid, 'SELECT') OR c.relkind = 'v' AND coalesce(
                c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1'], false)
       END AS is_isolated
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname
"""
"""By default a view reads as its owner, which sees every tenant; other kinds have no row-level security."""
_WIDE_POLICIES = """
SELECT c.relname::text AS table_, p.polname::text AS name
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND p.polpermissive AND NOT starts_with(c.relname, 'alembic_version_')
AND (p.polroles && ARRAY[0, (SELECT oid FROM pg_roles WHERE rolname = current_user)]::oid[])
AND position($2 IN concat(pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))) = 0
ORDER BY c.relname, p.polname
"""


async def check_deployment(connection: asyncpg.Connection, roles: Roles, migrations: Sequence[Migration]) -> str:
    """The server's version. Raises ``DeploymentError`` with every problem found."""
    role = await connection.fetchrow(_ROLE)
    tables = await connection.fetch(_TABLES, SCHEMA)
    if not tables:
        raise DeploymentError([f"the database holds no tables of this program: {_HINT}"])
    problems = await _problems_of_schema(connection, migrations, {row["name"] for row in tables})
    if role["encoding"] != "UTF8":
        problems.append(f"the database's encoding is {role['encoding']}, it must be UTF8")
    if [name.strip(' "') for name in role["search_path"].split(",")] != [SCHEMA, "pg_temp"]:
        problems.append(f"database.url: role {role['name']} does not look into schema {SCHEMA} first: {_HINT}")
    if role["rolsuper"] or role["rolbypassrls"]:
        problems.append(f"database.url: role {role['name']} may see every tenant (superuser or BYPASSRLS): use another")
    else:
        problems += _problems_of_memberships(roles, await connection.fetch(_OTHER_ROLES))
        problems += [f"table {row['name']} belongs to {roles.runtime}: it must own nothing" for row in tables
                     if row["is_owned"]]  # fmt: skip
    problems += [f"table {row['name']} does not keep tenants apart (row-level security): {_HINT}" for row in tables
                 if not row["is_isolated"]]  # fmt: skip
    problems += [f"table {row['table_']} does not keep tenants apart (policy {row['name']}): drop that policy"
                 for row in await connection.fetch(_WIDE_POLICIES, SCHEMA, ORG_SETTING)]  # fmt: skip
    if problems:
        raise DeploymentError(problems)
    if "off" in (role["fsync"], role["full_page_writes"]):
        log.warning("the database loses acknowledged entries when it crashes: fsync or full_page_writes is off")
    return str(role["version"])


def _problems_of_memberships(roles: Roles, others: Sequence[Any]) -> Iterator[str]:
    """The role that serves may become the two others, and has none of their rights before it does."""
    for other in others:
        name = other["name"]
        if other["sees_all"]:
            yield f"role {roles.runtime} may become {name}, who may see every tenant (superuser or BYPASSRLS)"
        elif other["is_inherited"] and name in (roles.system, roles.auditor):
            yield f"role {roles.runtime} sees all that {name} sees (INHERIT): {_HINT}"
    for name in {roles.system, roles.auditor} - {other["name"] for other in others}:
        yield f"role {roles.runtime} may not become {name}: {_HINT}"


async def _may_run_on_newer(connection: asyncpg.Connection, migration: Migration) -> bool:
    """Whether the newer program that migrated left room for this one: it took no step but those before its servers."""
    table = f'{SCHEMA}."{version_table(migration.branch)}"'
    noted = await connection.fetchval("SELECT col_description(to_regclass($1), 1)", table) or ""
    oldest = noted.removeprefix(OLDEST)
    try:
        return oldest != noted and not missing_steps(migration, [oldest])
    except DeploymentError:
        return False


async def _problems_of_schema(
    connection: asyncpg.Connection, migrations: Sequence[Migration], tables: set[str]
) -> list[str]:
    problems: list[str] = []
    before: list[str] = []
    after: list[str] = []
    behind: list[str] = []
    for migration in migrations:
        table = version_table(migration.branch)
        versions = []
        if table in tables:
            rows = await connection.fetch(f'SELECT version_num FROM {SCHEMA}."{table}"')  # noqa: S608
            versions = [row["version_num"] for row in rows]
        try:
            steps = missing_steps(migration, versions)
        except DeploymentError as error:
            if not await _may_run_on_newer(connection, migration):
                problems += error.problems
                continue
            log.warning("the schema is newer than this server, and allows it for the time of an upgrade",
                        branch=migration.branch, revisions=versions)  # fmt: skip
            steps = []
        first = next((index for index, step in enumerate(steps) if step.is_post and versions), len(steps))
        before += [step.revision for step in steps[:first]]
        after += [step.revision for step in steps[first:] if step.is_post]
        behind += [step.revision for step in steps[first:] if not step.is_post]
    if before:
        problems.append(f"the database needs {len(before)} migrations ({', '.join(before)}): {_HINT}")
    if behind:
        problems.append(
            f"the database needs migrations ({', '.join(behind)}) that come after others that wait "
            f"({', '.join(after)}): run `precipiq migrate --post` when no older server runs"
        )
    elif after:
        log.warning("migrations wait: run `precipiq migrate --post` when no older server runs", revisions=after)
    return problems
