"""A few threads that read, each with its own connections: one as the deployment, one as a tenant.

Organisations take turns, and none, and no ``test``, has more than half of the threads. A cancelled read ends.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Row, Statement
from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.connection import is_connection_bad, translate, translate_errors
from precipiq_sqlite.tenant import TenantConnection
from precipiq_work.turns import Slots

T = TypeVar("T")


_INTERRUPTED_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    chain: Chain | None
    work: Callable[[sqlite3.Connection, TenantConnection], Any]
    future: asyncio.Future[Any]


class SqliteReaders:
    """Reads run in ``threads_count`` daemon threads; up to ``queue_max`` wait."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        connect_tenant: Callable[[], TenantConnection],
        *,
        threads_count: int,
        queue_max: int,
    ) -> None:
        self._connect = connect
        self._connect_tenant = connect_tenant
        self._changed = threading.Condition()
        full = "too many reads are waiting; try again"
        self._slots: Slots[_Job] = Slots(threads_count, queue_max, full, kept_free=threads_count // 2)
        self._ready: deque[_Job] = deque()
        self._closing = False
        self._readers = [_Reader(self) for _ in range(threads_count)]

    async def start(self) -> None:
        """Open the connections. Raises ``Unavailable`` or, when a tenant's table is missing, ``DeploymentError``."""
        try:
            with translate_errors():
                await asyncio.to_thread(self._open_all)
        except BaseException:
            await self.close()
            raise
        for reader in self._readers:
            reader.thread.start()

    def _open_all(self) -> None:
        for reader in self._readers:
            reader.open()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work`` in a thread with a connection that sees every tenant and can only read."""
        return await self._submit(None, lambda plain, _: work(plain))

    async def run_as(self, chain: Chain, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work`` in a thread with a connection that shows that chain's rows and nothing else."""
        return await self._submit(chain, lambda _, tenant: tenant.run(chain, work))

    async def fetch_as(self, chain: Chain, statement: Statement) -> Sequence[Row]:
        """The rows of a plugin's statement, as :meth:`run_as` shows them."""
        return await self._submit(chain, lambda _, tenant: tenant.fetch(chain, statement))

    async def _submit(self, chain: Chain | None, work: Callable[[sqlite3.Connection, TenantConnection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(chain, work, future)
        with self._changed:
            if self._closing:
                raise Unavailable("the database is closed")
            if self._slots.enter(chain):
                self._ready.append(job)
                self._changed.notify()
            else:
                self._slots.wait(chain, job)
        try:
            return await future
        except asyncio.CancelledError:
            self._withdraw(job)
            raise

    def _withdraw(self, job: _Job) -> None:
        """The caller is gone: the read does not begin, or is interrupted until it has ended."""
        with self._changed:
            self._slots.withdraw(job.chain, job)
            running = [reader for reader in self._readers if reader.job is job]
            for reader in running:
                reader.interrupt()
        if running:  # it may have been between two statements
            job.future.get_loop().call_later(_INTERRUPTED_AGAIN_S, self._withdraw, job)

    async def close(self) -> None:
        """End the reads that run, refuse those that wait, close the connections."""
        with self._changed:
            self._closing = True
            refused = [*self._ready, *self._slots.refuse_all()]
            self._ready.clear()
            self._changed.notify_all()
        for job in refused:
            if not job.future.done():
                job.future.set_exception(Unavailable("the database is closed"))
        for reader in self._readers:
            await asyncio.to_thread(reader.close)

    def next_job(self, reader: _Reader) -> _Job | None:
        """The next read, for a thread that has ended the one before; None at the end."""
        with self._changed:
            if reader.job is not None:
                self._hand_over(reader.job)
                reader.job = None
            while not self._ready:
                if self._closing:
                    return None
                self._changed.wait()
            reader.job = self._ready.popleft()
            return reader.job

    def _hand_over(self, ended: _Job) -> None:
        heir = self._slots.leave(ended.chain)
        if heir is not None:
            self._ready.append(heir[1])

    def connect(self) -> tuple[sqlite3.Connection, TenantConnection]:
        """Opens the connections of one thread."""
        plain = self._connect()
        try:
            return plain, self._connect_tenant()
        except BaseException:
            plain.close()
            raise


class _Reader:
    def __init__(self, pool: SqliteReaders) -> None:
        self._pool = pool
        self._connections: tuple[sqlite3.Connection, TenantConnection] | None = None
        self.job: _Job | None = None
        self.thread = threading.Thread(target=self._run, name="precipiq-sqlite-reader", daemon=True)

    def open(self) -> tuple[sqlite3.Connection, TenantConnection]:
        if self._connections is None:
            self._connections = self._pool.connect()
        return self._connections

    def close(self) -> None:
        if self.thread.ident is not None:
            self.interrupt()
            self.thread.join()
        self._drop()

    def interrupt(self) -> None:
        """End the running statement, from any thread."""
        connections = self._connections
        if connections is not None:
            with suppress(sqlite3.Error):
                connections[0].interrupt()
                connections[1].interrupt()

    def _run(self) -> None:
        while (job := self._pool.next_job(self)) is not None:
            if job.future.cancelled():
                continue
            result, error = self._read(job)
            with suppress(RuntimeError):  # that loop is closed: no caller waits any more
                job.future.get_loop().call_soon_threadsafe(_settle, job.future, result, error)

    def _read(self, job: _Job) -> tuple[Any, BaseException | None]:
        try:
            plain, tenant = self.open()
            return job.work(plain, tenant), None
        except BaseException as error:  # noqa: BLE001  (the caller gets it; the thread must go on)
            if is_connection_bad(error):
                self._drop()
            return None, translate(error)

    def _drop(self) -> None:
        if self._connections is not None:
            for connection in self._connections:
                with suppress(sqlite3.Error):
                    connection.close()
            self._connections = None


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
