"""The PostgreSQL database: plain reads, tenant reads, transactions, and connections for drivers.

Every piece of work that writes runs to its end in a task of its own, even when the caller is cancelled: a cancelled
request leaves no half transaction, no lock and no lost connection. A tenant's read ends with its caller, also in the
database. Organisations take turns to read, and a third of the connections is not for tenants' reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.database import ColumnType, Migration, Row, Statement
from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable
from precipiq_contracts.secret_location import SecretLocation
from precipiq_contracts.settings import SecretReference
from precipiq_postgres.address import PostgresAddress
from precipiq_postgres.check import check_deployment
from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.errors import (
    ConnectionLost,
    NoConnection,
    is_deadlock,
    translate_errors,
)
from precipiq_postgres.guards import read_schema
from precipiq_postgres.roles import READ_COMMITTED, Roles, begin_as
from precipiq_postgres.statements import fetch_rows
from precipiq_postgres.transactions import Work, drop, in_transaction, is_calm
from precipiq_schema.schema_state import SchemaState
from precipiq_work.turns import Turns

if TYPE_CHECKING:
    from precipiq_postgres.databases_library import PostgresConnections

T = TypeVar("T")

log = structlog.get_logger("precipiq.database")

_DEADLOCK_ATTEMPTS = 5
_READ_PAUSES_S = (0.0, 0.05)
_CLOSE_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 3.0
_COMMAND_TIMEOUT_S = 20.0  # beyond the server's own limit of a statement: the server is gone


class PostgresDatabase:
    """See ``precipiq_contracts.database.Database``; also gives drivers its connections and roles."""

    def __init__(self, settings: PostgresConfig) -> None:
        self.settings = settings
        self.address = PostgresAddress(settings.url, _location(settings.password))
        self.listen_address = PostgresAddress(settings.listen_url or settings.url, _location(settings.password))
        self.roles = Roles(self.address.role)
        self._connections: PostgresConnections | None = None
        self._running: set[asyncio.Task[Any]] = set()
        reads_max = settings.connections_max - max(settings.connections_max // 3, 1)
        full = "too many reads are waiting; try again"
        self._reads = Turns(reads_max, settings.reader_queue_max, full, kept_free=reads_max // 2)

    def migrate(self, migrations: Sequence[Migration], *, post: bool = False) -> list[str]:
        """See ``MigratedDatabase.migrate``."""
        from precipiq_postgres.migrate import migrate  # alembic takes a third of a second to import

        if self.settings.migrate_url is None:
            raise DeploymentError(["database.migrate_url: is needed to migrate: a role that may make roles"])
        as_whom = PostgresAddress(self.settings.migrate_url, _location(self.settings.migrate_password))
        return migrate(as_whom, self.address, migrations, post=post)

    @asynccontextmanager
    async def open(self, migrations: Sequence[Migration]) -> AsyncIterator[None]:
        """Open the database for the life of the application. Raises ``DeploymentError`` when the schema is another."""
        if self.settings.migrate_at_start:
            for revision in await asyncio.to_thread(self.migrate, migrations):
                log.info("migrated", revision=revision)
        async with AsyncExitStack() as stack:
            with translate_errors():
                self._connections = await stack.enter_async_context(self._pool())
            stack.push_async_callback(self._finish)
            version = await self._check(migrations)
            log.info("database open", address=self.address.shown, postgresql_version=version)
            yield

    async def _check(self, migrations: Sequence[Migration]) -> str:
        try:
            return await self.run(lambda connection: check_deployment(connection, self.roles, migrations))
        except Unavailable as error:
            raise DeploymentError([_cannot_open(self.address, error)]) from error

    @asynccontextmanager
    async def _pool(self) -> AsyncIterator[PostgresConnections]:
        from precipiq_postgres.databases_library import open_postgres_connections  # SQLAlchemy, as above

        options = self.address.options() | {
            "min_size": 0,  # a server starts while its database is away, and waits for it
            "max_size": self.settings.connections_max,
            "timeout": self.settings.connection_wait_s,
            "command_timeout": _COMMAND_TIMEOUT_S,
            "reset": _keep,  # the plugin makes no session state; this saves a round trip
        }
        if self.settings.transaction_pooler:
            options["statement_cache_size"] = 0  # the next transaction may be on another connection
        stack = AsyncExitStack()
        try:
            yield await stack.enter_async_context(open_postgres_connections(self.address.url, options))
        finally:
            with suppress(TimeoutError):  # each connection waits for the server to close it
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await stack.aclose()

    async def _finish(self) -> None:
        self._connections = None
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_TIMEOUT_S)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def select_rows(self, columns: Sequence[tuple[str, ColumnType]], parameter: str) -> str:
        """See ``Database.select_rows``."""
        taken = [f"CAST(value->>{index} AS {kind}) AS {name}" for index, (name, kind) in enumerate(columns)]
        array = f"jsonb_array_elements(CAST(:{parameter} AS jsonb))"
        return f"SELECT {', '.join(taken)} FROM {array} AS item (value)"  # noqa: S608

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch``."""
        return await self._fetch(partial(self.read_in, self.roles.begin_as_system(read_only=True)), statement)

    async def fetch_as(self, chain: Chain, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch_as``."""
        return await self._fetch(partial(self.read_as, chain), statement)

    async def _fetch(self, read: Callable[[Work[list[Row]]], Awaitable[list[Row]]], statement: Statement) -> list[Row]:
        try:
            return await read(lambda connection: fetch_rows(connection, statement))
        except Unavailable as error:
            if isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                raise InternalError("a statement that reads must not write: use Database.transaction") from error
            raise

    async def transaction(self, statements: Sequence[Statement]) -> Sequence[Sequence[Row]]:
        """See ``Database.transaction``. Raises ``Conflict`` when a constraint of the schema is violated."""

        async def work(connection: asyncpg.Connection) -> list[list[Row]]:
            return [await fetch_rows(connection, statement) for statement in statements]

        return await self.run_in(self.roles.begin_as_system(), work)

    async def now_us(self) -> int:
        """See ``ClockedDatabase``."""
        rows = await self.fetch(Statement("SELECT CAST(CURRENT_TIMESTAMP AS TEXT) AS now"))
        return parse_timestamp(str(rows[0]["now"]))

    async def schema_state(self) -> SchemaState:
        """See ``GuardedDatabase``."""
        return await self.read_in(f"{READ_COMMITTED} READ ONLY", read_schema)  # as the role that serves

    async def ping(self) -> None:
        """See ``Database.ping``."""
        await self.run_statement("SELECT 1")

    async def read_as(self, chain: Chain, work: Work[T]) -> T:
        """As :meth:`read_in`, as that tenant and in its turn. A cancelled caller's statement is cancelled.

        Raises ``Unavailable`` when too many reads of the chain, or in all, wait.
        """
        try:
            async with asyncio.timeout(self.settings.connection_wait_s):
                await self._reads.take(chain)
        except TimeoutError:
            raise NoConnection("no connection to the database in time; try again") from None
        try:
            return await self.read_in(begin_as(chain), work, ends_with_caller=True)
        finally:
            self._reads.give_back(chain)

    async def run_in(self, begin: str, work: Work[T], *, ends_with_caller: bool = False) -> T:
        """Run the work inside the transaction that ``begin`` begins, again when it deadlocked. See :meth:`run`."""
        for attempt in range(_DEADLOCK_ATTEMPTS):
            try:
                transaction = partial(in_transaction, begin=begin, work=work)
                return await self.run(transaction, ends_with_caller=ends_with_caller)
            except Unavailable as error:
                if not is_deadlock(error) or attempt == _DEADLOCK_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def read_in(self, begin_read_only: str, work: Work[T], *, ends_with_caller: bool = False) -> T:
        """As :meth:`run_in`, for work that only reads: a broken connection is replaced by another."""
        for pause_s in _READ_PAUSES_S:
            try:
                return await self.run_in(begin_read_only, work, ends_with_caller=ends_with_caller)
            except NoConnection:
                raise
            except ConnectionLost:
                await asyncio.sleep(pause_s)
        return await self.run_in(begin_read_only, work, ends_with_caller=ends_with_caller)

    async def run_statement(self, sql: str, *parameters: object) -> Any:
        """Run one statement that is a transaction by itself; gives its first value."""
        return await self.run_single("BEGIN", lambda connection: connection.fetchval(sql, *parameters))

    async def run_single(self, begin: str, work: Work[T]) -> T:
        """Run work that is one statement and so a transaction by itself. See :meth:`run`.

        Behind a pooler ``begin`` opens the transaction, because statement and parameters go in two messages.
        """
        return await (self.run_in(begin, work) if self.settings.transaction_pooler else self.run(work))

    async def run(self, work: Work[T], *, ends_with_caller: bool = False) -> T:
        """Run the work with a connection, to its end even when the caller is cancelled, or else until then.

        ``work`` leaves no transaction open and sets nothing for the session. Raises ``Unavailable`` when the database
        cannot be reached (``ConnectionLost``) or is busy, ``Conflict`` when a constraint is violated.
        """
        if len(self._running) >= self.settings.reader_queue_max:
            raise Unavailable("too many requests wait for the database; try again")
        task = asyncio.ensure_future(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._note_end)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if ends_with_caller:
                task.cancel()
                await asyncio.wait([task], timeout=_STOP_TIMEOUT_S)
            raise
        if task.cancelled():
            raise Unavailable("the database is being closed")
        return task.result()

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone

    async def _run(self, work: Work[T]) -> T:
        if self._connections is None:
            raise Unavailable("the database is not open")
        with translate_errors():
            async with self._connections.acquire(self.settings.connection_wait_s) as connection:
                try:
                    return await work(connection)
                except asyncio.CancelledError:
                    if not await is_calm(connection):
                        drop(connection)
                    raise
                except (TimeoutError, ConnectionLost):
                    drop(connection)  # a server that does not answer would not obey a request to cancel
                    raise


def _location(reference: SecretReference | None) -> SecretLocation | None:
    return None if reference is None else reference.location


async def _keep(_: asyncpg.Connection) -> None:
    """Stand in for asyncpg's reset of a session; asyncpg undoes an open transaction by itself."""


def _cannot_open(address: PostgresAddress, error: Unavailable) -> str:
    """A text for the operator alone: role, address and the system's error, which no client may see."""
    cause = error.__cause__
    if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
        why = "it has another password, or is not there yet: run `precipiq migrate`"
        return f"database.url: role {address.role} cannot log in at {address.shown}: {why}"
    said = "" if cause is None else f" ({type(cause).__name__}: {cause})"
    return f"database.url: {address.shown}: {error.message}{said}"
