"""Reads that never end, of one organisation: others read and write meanwhile, and a read ends with its caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import precipiq_auth_keys.plugin
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.errors import Unavailable
from precipiq_postgres.service import PostgresDatabase
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit import postgres as testkit
from tests.databases import new_database

pytestmark = pytest.mark.anyio

MIGRATION = Migration(
    "auth_keys",
    Path(precipiq_auth_keys.__file__).parent / "sql" / "migrations",
    precipiq_auth_keys.plugin._TENANT_TABLES,
)
CROWDED, OTHER = Chain("org_a", "live"), Chain("org_b", "live")
QUICK = Statement("SELECT 1 AS one")
ZEROS = f"json_each('{[0] * 1000}')"
COUNT_FOR_EVER = f"SELECT count(*) AS n FROM {ZEROS} AS a, {ZEROS} AS b, {ZEROS} AS c, {ZEROS} AS d"
SLEEP_FOR_EVER = "SELECT CAST(pg_sleep(600) AS TEXT) AS slept"
CROWD = 12
WAIT_S = 15.0
ENDED_WITHIN_S = 5.0
"""Less than the time after which the database ends any statement by itself."""


class Endless:
    """A database and reads of it that never end; ``running``: how many of them it works on."""

    def __init__(self, database: SqliteDatabase | PostgresDatabase, place: testkit.PostgresDatabase | None) -> None:
        self.database = database
        self._place = place
        self.reads: list[asyncio.Task[object]] = []

    async def begin(self, chain: Chain, count: int) -> None:
        statement = Statement(COUNT_FOR_EVER if self._place is None else SLEEP_FOR_EVER)
        self.reads += [asyncio.create_task(self.database.fetch_as(chain, statement)) for _ in range(count)]  # type: ignore[arg-type]
        await until(self.running, lambda running: running > 0)

    async def leave(self) -> None:
        for read in self.reads:
            read.cancel()
        await asyncio.gather(*self.reads, return_exceptions=True)

    async def running(self) -> int:
        if isinstance(self.database, SqliteDatabase):
            return sum(reader.job is not None for reader in self.database.readers._readers)
        assert self._place is not None
        sql = f"SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '{SLEEP_FOR_EVER}'"
        return len(await testkit.execute(self._place.admin_url, sql))


async def until(look: Callable[[], Awaitable[int]], is_good: Callable[[int], bool], within_s: float = WAIT_S) -> None:
    async with asyncio.timeout(within_s):
        while not is_good(await look()):
            await asyncio.sleep(0.01)


@pytest.fixture
async def endless(server_database: testkit.PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Endless]:
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database({**settings, "reader_queue_max": 100}, tmp_path)
    async with database.open([MIGRATION]):
        endless = Endless(database, server_database)
        yield endless
        await endless.leave()


async def test_others_read_and_write_while_one_organisations_reads_never_end(endless: Endless) -> None:
    database = endless.database
    await endless.begin(CROWDED, CROWD)
    own = asyncio.create_task(database.fetch_as(CROWDED, QUICK))
    async with asyncio.timeout(WAIT_S):
        for chain in (OTHER, Chain(OTHER.org_id, "test")):
            assert len(await database.fetch_as(chain, QUICK)) == 1
        await database.fetch(QUICK)
        await database.transaction([Statement("UPDATE api_key_changes SET changes = changes")])
        await database.ping()
    assert not own.done(), "the control: behind the crowd one waits"
    endless.reads.append(own)


async def test_a_crowd_of_test_leaves_readers_to_live(endless: Endless) -> None:
    for number in range(4):
        await endless.begin(Chain(f"org_{number}", "test"), CROWD)
    async with asyncio.timeout(WAIT_S):
        assert len(await endless.database.fetch_as(Chain("org_0", "live"), QUICK)) == 1


async def test_a_read_ends_with_its_caller(endless: Endless) -> None:
    await endless.begin(CROWDED, CROWD)
    await endless.leave()
    await until(endless.running, lambda running: running == 0, ENDED_WITHIN_S)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(endless.database.fetch_as(CROWDED, QUICK) for _ in range(CROWD)))


async def test_reads_that_wait_are_bounded_and_those_that_left_make_room(endless: Endless) -> None:
    await endless.begin(CROWDED, 100)
    waiting = [asyncio.create_task(endless.database.fetch_as(CROWDED, QUICK)) for _ in range(CROWD)]
    done, _ = await asyncio.wait(waiting, timeout=WAIT_S, return_when=asyncio.FIRST_EXCEPTION)
    assert all(isinstance(task.exception(), Unavailable) for task in done)
    assert done
    endless.reads += waiting
    await endless.leave()
    assert len(await endless.database.fetch_as(CROWDED, QUICK)) == 1
