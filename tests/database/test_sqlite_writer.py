"""The one writer of an SQLite file: groups, failures that stay with their cause, limits, and its end."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Conflict, Unavailable
from precipiq_sqlite.connection import open_for_writing
from precipiq_sqlite.writer import SqliteWriter

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.db"
    connection = open_for_writing(path, 5)
    connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE, note BLOB)")
    connection.close()
    return path


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[SqliteWriter]:
    writer = SqliteWriter(partial(open_for_writing, path, 0.2), queue_max=2_000, group_rows_max=100)
    await writer.start()
    yield writer
    await writer.close()


class Groups:
    """A handler that inserts numbers and remembers which came together. ``refused`` ones fail alone."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.seen: list[list[int]] = []
        self.refused = refused

    def insert(self, connection: sqlite3.Connection, items: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(items))
        results: list[int | Exception] = []
        for item in items:
            if item in self.refused:
                results.append(ValueError(item))
                continue
            connection.execute("INSERT INTO numbers VALUES (?, NULL)", (item,))
            results.append(item)
        return results


def stored(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]
    finally:
        connection.close()


def block(
    connection: sqlite3.Connection, items: Sequence[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> list[None]:
    """Holds the writer until the event is set."""
    for loop, event in items:
        asyncio.run_coroutine_threadsafe(event.wait(), loop).result(timeout=30)
    return [None] * len(items)


def hold(writer: SqliteWriter) -> tuple[asyncio.Future[None], asyncio.Event]:
    event = asyncio.Event()
    return writer.submit(block, (asyncio.get_running_loop(), event)), event


async def test_nobody_is_answered_before_the_commit(path: Path) -> None:
    reached, go = threading.Event(), threading.Event()

    def stop_at_commit(statement: str) -> None:
        if statement == "COMMIT":
            reached.set()
            go.wait(60)

    def connect() -> sqlite3.Connection:
        connection = open_for_writing(path, 5)
        connection.set_trace_callback(stop_at_commit)
        return connection

    writer = SqliteWriter(connect, queue_max=10, group_rows_max=10)
    await writer.start()
    future = writer.submit(Groups().insert, 1)
    assert await asyncio.to_thread(reached.wait, 60)
    await asyncio.sleep(0)  # what was answered by then has arrived
    was_answered = future.done()
    go.set()
    assert await future == 1
    assert not was_answered
    assert stored(path) == [1]
    await writer.close()


async def test_what_waits_shares_transactions_up_to_the_limit_of_rows(writer: SqliteWriter, path: Path) -> None:
    groups = Groups()
    held, release = hold(writer)
    futures = [writer.submit(groups.insert, number) for number in range(250)]
    release.set()
    assert await asyncio.gather(held, *futures) == [None, *range(250)]
    assert [len(group) for group in groups.seen] == [100, 100, 50]
    assert stored(path) == list(range(250))


async def test_handlers_that_wait_take_turns(writer: SqliteWriter) -> None:
    order: list[str] = []
    handlers = {name: partial(_note, order, name) for name in "ab"}
    held, release = hold(writer)
    futures = [writer.submit(handlers[name], number, 60) for name in "aaab" for number in range(1)]
    release.set()
    await asyncio.gather(held, *futures)
    assert order == ["a", "b", "a", "a"]


def _note(order: list[str], name: str, connection: sqlite3.Connection, items: Sequence[int]) -> list[int]:
    order.append(name)
    return list(items)


@pytest.mark.parametrize("chain", [Chain("org_b", "live"), Chain("org_a", "live")], ids=["another", "control"])
async def test_a_crowd_of_writes_delays_another_organisation_by_one_group(
    chain: Chain, path: Path, writer: SqliteWriter
) -> None:
    crowd = Chain("org_a", "live")
    groups = Groups()
    held, release = hold(writer)
    futures = [writer.submit(groups.insert, number, 10, crowd) for number in range(150)]
    one = writer.submit(groups.insert, 1_000, 10, chain)
    release.set()
    await asyncio.gather(held, *futures, one)
    at = next(index for index, group in enumerate(groups.seen) if 1_000 in group)
    assert at == (0 if chain != crowd else len(groups.seen) - 1)
    assert len(groups.seen) >= 15


async def test_one_chain_fills_its_share_of_the_queue_alone(writer: SqliteWriter, path: Path) -> None:
    groups = Groups()
    held, release = hold(writer)
    futures = [writer.submit(groups.insert, number, 1, Chain("org_a", "test")) for number in range(200)]
    with pytest.raises(Unavailable, match="too many writes"):
        writer.submit(groups.insert, 999, 1, Chain("org_a", "test"))
    futures.append(writer.submit(groups.insert, 1_000, 1, Chain("org_a", "live")))
    release.set()
    await asyncio.gather(held, *futures)
    assert len(stored(path)) == 201


async def test_a_result_that_is_an_exception_fails_its_item_alone(writer: SqliteWriter, path: Path) -> None:
    groups = Groups(refused=[3])
    results = await asyncio.gather(*(writer.submit(groups.insert, n) for n in range(6)), return_exceptions=True)
    assert isinstance(results[3], ValueError)
    assert stored(path) == [0, 1, 2, 4, 5]


async def test_a_poisoned_item_does_not_fail_its_neighbours(writer: SqliteWriter, path: Path) -> None:
    groups = Groups()
    await writer.submit(groups.insert, 7)
    held, release = hold(writer)
    futures = [writer.submit(groups.insert, number) for number in (5, 6, 7, 8, 9)]
    release.set()
    await held
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results[2], Conflict)
    assert [result for result in results if not isinstance(result, Exception)] == [5, 6, 8, 9]
    assert stored(path) == [5, 6, 7, 8, 9]
    assert groups.seen == [[7], [5, 6, 7, 8, 9], [5], [6], [7], [8], [9]], "each is tried alone, once"


async def test_cancelled_waiters_change_nothing_for_the_others(writer: SqliteWriter, path: Path) -> None:
    groups, rng = Groups(), random.Random(1)
    acknowledged: list[int] = []

    async def write(number: int) -> None:
        acknowledged.append(await writer.submit(groups.insert, number))

    tasks = [asyncio.create_task(write(number)) for number in range(500)]
    while any(not task.done() for task in tasks):
        for task in rng.sample(tasks, 20):
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await writer.submit(groups.insert, 1_000) == 1_000
    assert set(acknowledged) <= set(stored(path))
    assert len(stored(path)) == len(set(stored(path)))


async def test_a_full_queue_refuses_and_recovers(path: Path) -> None:
    writer = SqliteWriter(partial(open_for_writing, path, 5), queue_max=3, group_rows_max=10)
    await writer.start()
    groups = Groups()
    held, release = hold(writer)
    while writer._waiting_count:
        await asyncio.sleep(0.001)
    futures = [writer.submit(groups.insert, number) for number in range(3)]
    with pytest.raises(Unavailable, match="too many writes"):
        writer.submit(groups.insert, 3)
    release.set()
    await asyncio.gather(held, *futures)
    assert await writer.submit(groups.insert, 3) == 3
    await writer.close()


async def test_closing_finishes_what_was_accepted(writer: SqliteWriter, path: Path) -> None:
    groups = Groups()
    futures = [writer.submit(groups.insert, number) for number in range(300)]
    await writer.close()
    assert await asyncio.gather(*futures) == list(range(300))
    assert stored(path) == list(range(300))
    with pytest.raises(Unavailable, match="closed"):
        writer.submit(groups.insert, 1)


async def test_a_full_disk_is_told_and_leaves_the_writer_usable(writer: SqliteWriter, path: Path) -> None:
    def limit(connection: sqlite3.Connection, items: Sequence[int]) -> list[int]:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        return [connection.execute(f"PRAGMA max_page_count = {pages + item}").fetchone()[0] for item in items]

    def insert_large(connection: sqlite3.Connection, items: Sequence[int]) -> list[int]:
        for item in items:
            connection.execute("INSERT INTO numbers VALUES (?, zeroblob(?))", (item, item))
        return list(items)

    await writer.submit(limit, 10)
    results = await asyncio.gather(
        *(writer.submit(insert_large, size) for size in (1, 1_000_000, 2)), return_exceptions=True
    )
    assert isinstance(results[1], Unavailable)
    assert "full" in results[1].message
    assert (results[0], results[2]) == (1, 2)
    await writer.submit(limit, 10_000)
    assert await writer.submit(insert_large, 1_000_000) == 1_000_000
    assert stored(path) == [1, 2, 1_000_000]


async def test_a_lock_held_elsewhere_is_told_and_passes(writer: SqliteWriter, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    groups = Groups()
    results = await asyncio.gather(
        *(writer.submit(groups.insert, number) for number in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, Unavailable) for result in results)
    assert groups.seen == [], "a handler may rely on what it reads: the lock comes first"
    other.execute("ROLLBACK")
    other.close()
    assert await writer.submit(Groups().insert, 1) == 1
    assert stored(path) == [1]


async def test_a_broken_connection_is_replaced(writer: SqliteWriter, path: Path) -> None:
    def fail(connection: sqlite3.Connection, items: Sequence[None]) -> list[None]:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with pytest.raises(Unavailable, match="disk"):
        await writer.submit(fail, None)
    assert await writer.submit(Groups().insert, 1) == 1


async def test_a_handler_with_too_few_results_stores_nothing(writer: SqliteWriter, path: Path) -> None:
    def forget(connection: sqlite3.Connection, items: Sequence[int]) -> list[int]:
        connection.execute("INSERT INTO numbers VALUES (1, NULL)")
        return []

    with pytest.raises(Exception, match="one result"):
        await writer.submit(forget, 1)
    assert stored(path) == []


@pytest.mark.system
def test_a_process_that_forgot_to_close_ends(tmp_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from precipiq_contracts.database import Statement
from tests.databases import new_database
async def main():
    database = new_database({{"migrate_at_start": True}}, Path({str(tmp_path)!r}))
    opened = database.open([])
    await opened.__aenter__()
    assert await database.fetch(Statement("SELECT 1 AS one")) == [{{"one": 1}}]
    keep.extend([database, opened])
keep = []
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True).returncode == 0


async def test_what_was_answered_is_stored_although_others_wait(path: Path, writer: SqliteWriter) -> None:
    """Another handler's job keeps the thread busy; the one before it was answered, so it is in the file."""
    first_hold, go_first = hold(writer)
    answered = writer.submit(Groups().insert, 7)
    second = Groups()

    def wait_then_insert(connection: sqlite3.Connection, items: Sequence[threading.Event]) -> list[int | Exception]:
        for item in items:
            item.wait(30)
        return second.insert(connection, [8] * len(items))

    go_second = threading.Event()
    waiting = writer.submit(wait_then_insert, go_second)
    go_first.set()
    await first_hold
    assert await answered == 7
    try:
        assert await asyncio.to_thread(stored, path) == [7]
    finally:
        go_second.set()
    assert await waiting == 8
