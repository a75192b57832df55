"""The schema on PostgreSQL: roles, the plugins' Alembic branches, and the rights to rows, under one lock.

Each revision is a transaction of its own that waits briefly for its table locks and is tried again, so that the server
of the version before reads and writes on while this runs. Rights are set anew in each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import structlog
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_postgres.address import PostgresAddress
from precipiq_postgres.errors import translate, translate_errors
from precipiq_postgres.rights import make_roles, rights
from precipiq_postgres.roles import OLDEST, SCHEMA, Roles, quoted
from precipiq_schema.branches import missing_steps, take_step
from precipiq_schema.steps import Step, version_table

log = structlog.get_logger("precipiq.database")

_LOCK = "SELECT pg_try_advisory_lock(7305221163900117)"  # any number that no other program takes
_LOCK_POLL_S = 0.1
_LOCK_ATTEMPTS = 600
_TABLE_LOCK_TIMEOUT_MS = 500  # half of PostgreSQL's deadlock_timeout: the migration gives up, not the server
_TABLE_LOCK_ATTEMPTS = 120
_TABLE_LOCK_PAUSE_S = 0.2
_IN_THE_WAY = frozenset(("55P03", "40P01"))


def migrate(
    as_whom: PostgresAddress, runtime: PostgresAddress, migrations: Sequence[Migration], *, post: bool
) -> list[str]:
    """Apply the missing revisions; they are returned in order. ``post``: also steps that older servers cannot bear.

    Raises ``DeploymentError`` when the database is newer than the code or the role lacks a right, ``Unavailable`` when
    another migration, or a reader of a table, does not end. Applied revisions stay; the operator runs it again.
    """
    return asyncio.run(_migrate(as_whom, runtime, migrations, post=post))


async def _migrate(
    as_whom: PostgresAddress, runtime: PostgresAddress, migrations: Sequence[Migration], *, post: bool
) -> list[str]:
    roles = Roles(runtime.role)
    with translate_errors():
        async with _lock(as_whom) as connection:
            try:
                await make_roles(connection, roles, runtime.password)
            except asyncpg.InsufficientPrivilegeError as error:
                raise DeploymentError([f"database.migrate_url: role {as_whom.role} may not do this: {error}"]) from None
            applied = []
            engine = _engine(as_whom)
            try:
                for migration in migrations:
                    versions = await _versions(connection, migration.branch)
                    oldest = await _oldest(connection, migration.branch) or "".join(versions[:1])
                    for step in _due(missing_steps(migration, versions), post=post or not versions):
                        oldest = step.revision if step.is_post or not versions else oldest
                        await _take(engine, roles, migrations, step, oldest)
                        applied.append(step.revision)
                    if post:
                        await _in_schema(engine, roles, partial(_note_oldest, branch=migration.branch))
                await _in_schema(engine, roles, lambda plain: _set_rights(plain, roles, migrations, ""))
            finally:
                await engine.dispose()
            return applied


def _due(steps: Sequence[Step], *, post: bool) -> list[Step]:
    """All of them, or those before the first that must wait."""
    due: list[Step] = []
    for step in steps:
        if step.is_post and not post:
            log.warning("waits for `precipiq migrate --post`", revision=step.revision)
            break
        due.append(step)
    return due


@asynccontextmanager
async def _lock(address: PostgresAddress) -> AsyncIterator[asyncpg.Connection]:
    """Lend a connection that keeps other migrations out while it is open. Not through a pooler."""
    connection = await asyncpg.connect(**address.options())
    try:
        for _ in range(_LOCK_ATTEMPTS):
            if await connection.fetchval(_LOCK):
                break
            await asyncio.sleep(_LOCK_POLL_S)
        else:
            raise Unavailable("another migration is running; try again")
        yield connection
    finally:
        await connection.close()


def _engine(address: PostgresAddress) -> AsyncEngine:
    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        # No time limit: to fill a column or an index takes as long as it takes.
        return await asyncpg.connect(**address.options() | {"command_timeout": None})

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


async def _versions(connection: asyncpg.Connection, branch: str) -> list[str]:
    table = f'{SCHEMA}."{version_table(branch)}"'
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return []
    return [row[0] for row in await connection.fetch(f"SELECT version_num FROM {table}")]  # noqa: S608


async def _take(engine: AsyncEngine, roles: Roles, migrations: Sequence[Migration], step: Step, oldest: str) -> None:
    """``oldest``: the revision that a server must know to run on what this step makes; kept beside the version."""

    def work(plain: Connection) -> None:
        take_step(plain, step.migration, step.revision, roles=roles)
        _note_oldest(plain, step.migration.branch, oldest)
        _set_rights(plain, roles, migrations, step.migration.branch)

    await _in_schema(engine, roles, work)


async def _oldest(connection: asyncpg.Connection, branch: str) -> str:
    table = f'{SCHEMA}."{version_table(branch)}"'
    noted: str | None = await connection.fetchval("SELECT col_description(to_regclass($1), 1)", table)
    return (noted or "").removeprefix(OLDEST)


def _note_oldest(plain: Connection, branch: str, oldest: str | None = None) -> None:
    """``oldest``: None for the present revision, once no server of another version runs."""
    table = quoted(version_table(branch))
    oldest = oldest or plain.exec_driver_sql(f"SELECT version_num FROM {table}").scalar_one()  # noqa: S608
    plain.exec_driver_sql(f"COMMENT ON COLUMN {table}.version_num IS '{OLDEST}{oldest}'")


async def _in_schema(engine: AsyncEngine, roles: Roles, work: Any) -> None:
    """Run the work in one transaction as the schema's owner; retry when a table stays in use."""
    for attempt in range(_TABLE_LOCK_ATTEMPTS):
        try:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_TABLE_LOCK_TIMEOUT_MS}")
                await connection.exec_driver_sql(f"SET LOCAL search_path = {SCHEMA}")
                await connection.exec_driver_sql(f"SET LOCAL ROLE {quoted(roles.owner)}")
                await connection.run_sync(work)
            return
        except Exception as error:
            cause = getattr(getattr(error, "orig", None), "__cause__", None) or error  # asyncpg's own
            if getattr(cause, "sqlstate", None) not in _IN_THE_WAY:
                failure = translate(cause)
                if isinstance(failure, Unavailable):
                    raise failure from error
                raise
            if attempt == _TABLE_LOCK_ATTEMPTS - 1:
                raise Unavailable(
                    "a table stays in use, by a long read perhaps; what is applied stays, run it again"
                ) from None
        await asyncio.sleep(_TABLE_LOCK_PAUSE_S)


def _set_rights(plain: Connection, roles: Roles, migrations: Sequence[Migration], branch: str) -> None:
    for statement in rights(plain, roles, migrations, branch):
        plain.exec_driver_sql(statement)
