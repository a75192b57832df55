"""One thread with the only connection of this process that writes to the file: all waiting jobs share a commit.

The writer knows no tables. While a commit waits for the disk, the next group gathers.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import InternalError, Unavailable
from precipiq_sqlite.connection import concerns_every_write, is_connection_bad, translate, translate_errors
from precipiq_work.fair_queue import FairQueue

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Handler: TypeAlias = Callable[[sqlite3.Connection, Sequence[ItemT]], Sequence[ResultT | Exception]]
"""Writes all items inside the transaction that is open; one result each. An exception in place of a result fails that
item alone, which must have had no effect. Its own error undoes the whole group; each item is then tried alone."""

_CHECKPOINT_WAIT_MS = 250
_FULL = "too many writes are waiting; try again"


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    chain: Chain | None
    item: Any
    rows: int
    future: asyncio.Future[Any]


class SqliteWriter:
    """Runs handlers in transactions (``BEGIN IMMEDIATE`` to ``COMMIT``), jobs of one handler together.

    ``queue_max``: jobs that may wait. ``group_rows_max``: rows that one transaction takes in. Handlers that wait take
    turns, and so do the organisations whose items one handler takes. The thread is a daemon: a process that never
    closes the database can end.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, queue_max: int, group_rows_max: int) -> None:
        self._connect = connect
        self._queue_max = queue_max
        self._group_rows_max = group_rows_max
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Handler[Any, Any], FairQueue[_Job]] = OrderedDict()
        self._waiting_count = 0
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="precipiq-sqlite-writer", daemon=True)

    async def start(self) -> None:
        """Open the connection and begin. Raises ``Unavailable`` when the file cannot be opened."""
        with translate_errors():
            self._connection = await asyncio.to_thread(self._connect)
        self._thread.start()

    def submit(
        self, handler: Handler[ItemT, ResultT], item: ItemT, rows: int = 1, chain: Chain | None = None
    ) -> asyncio.Future[ResultT]:
        """Have ``handler`` write ``item``, for ``chain``; the result comes after the commit is durable.

        ``handler`` must be the same (equal) object for all items that may share a transaction. Cancelling the future
        before its turn withdraws the item, later it changes nothing. Raises ``Unavailable`` when the queue is full or
        the writer is closed; the future fails with ``Unavailable`` when the disk is full, fails, or is locked.
        """
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise Unavailable("the database is closed")
            if self._waiting_count >= self._queue_max:
                raise Unavailable(_FULL)
            queue = self._waiting.get(handler) or FairQueue(self._queue_max, _FULL)
            queue.add(chain, _Job(chain, item, rows, future))
            self._waiting.setdefault(handler, queue)
            self._waiting_count += 1
            self._changed.notify()
        return future

    async def checkpoint(self) -> bool:
        """Move the log into the file and empty it. False when a reader prevented that."""
        return await self.submit(self._checkpoint, None)

    async def close(self) -> None:
        """Finish the accepted jobs, then close the connection."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def is_running(self) -> bool:
        """Whether writes are accepted."""
        return self._thread.is_alive() and not self._closing

    def _run(self) -> None:
        try:
            while (group := self._next_group()) is not None:
                handler, jobs = group
                _deliver(jobs, self._execute(handler, [job.item for job in jobs]))
        finally:
            self._drop_connection()

    def _next_group(self) -> tuple[Handler[Any, Any], list[_Job]] | None:
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            handler, queue = self._waiting.popitem(last=False)
            jobs: list[_Job] = []
            rows = 0
            while (found := queue.peek()) is not None:
                job = found[1]
                if jobs and rows + job.rows > self._group_rows_max:
                    break
                queue.pop()
                self._waiting_count -= 1
                if not job.future.cancelled():
                    jobs.append(job)
                    rows += job.rows
            if queue:
                self._waiting[handler] = queue
            return handler, jobs

    def _execute(self, handler: Handler[Any, Any], items: list[Any]) -> Sequence[Any]:
        if not items:
            return ()
        if handler == self._checkpoint:
            return [self._outcome_of_checkpoint()] * len(items)
        try:
            return self._transaction(handler, items)
        except BaseException as error:  # noqa: BLE001  (the callers get it; the thread must go on)
            if len(items) == 1 or concerns_every_write(error):
                return [_failure(error) for _ in items]
        return [self._execute_alone(handler, item) for item in items]

    def _execute_alone(self, handler: Handler[Any, Any], item: Any) -> Any:
        try:
            return self._transaction(handler, [item])[0]
        except BaseException as error:  # noqa: BLE001  (as above)
            return _failure(error)

    def _transaction(self, handler: Handler[Any, Any], items: list[Any]) -> Sequence[Any]:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = handler(connection, items)
            if len(results) != len(items):
                raise InternalError("a handler of the writer must give one result for each item")
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
            raise
        return results

    def _undo(self, error: BaseException) -> None:
        connection = self._connection
        assert connection is not None
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not is_connection_bad(error):
                return
        except sqlite3.Error:
            pass
        self._drop_connection()

    def _checkpoint(self, connection: sqlite3.Connection, items: Sequence[None]) -> Sequence[bool | Exception]:
        """Mark the job in the queue. Never called, because a checkpoint runs outside of transactions."""
        raise NotImplementedError

    def _outcome_of_checkpoint(self) -> bool | BaseException:
        try:
            if self._connection is None:
                self._connection = self._connect()
            (timeout_ms,) = self._connection.execute("PRAGMA busy_timeout").fetchone()
            try:
                self._connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT_MS}")
                (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        except sqlite3.Error as error:
            return _failure(error)
        return not busy

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _failure(error: BaseException) -> BaseException:
    failure = translate(error)
    return failure if isinstance(failure, Exception) else InternalError(f"the writer met {type(error).__name__}")


def _deliver(jobs: Sequence[_Job], results: Sequence[Any]) -> None:
    """Deliver the results, with one wake-up of each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.future.get_loop(), []).append((job.future, result))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # that loop is closed: no caller waits any more
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in settled:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
