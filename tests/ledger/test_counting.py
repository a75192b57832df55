"""A chain from before the count is counted once, with what is appended meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.database import Migration
from precipiq_core.background import standalone_background
from precipiq_ledger.plugin import _OWN_TABLES
from precipiq_ledger.stored_bytes import StoredBytes
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.service import SqliteDatabase

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_a", "test")
SIZE = 100


class Entries:
    """So many entries; the first read waits until ``may_read``, and tells ``is_read``."""

    def __init__(self, count: int) -> None:
        self.entries = [Entry(CHAIN, seq, "", b"s" * SIZE, None) for seq in range(1, count + 1)]
        self.is_read, self.may_read = asyncio.Event(), asyncio.Event()
        self.reads = 0

    def append(self) -> Entry:
        self.entries.append(Entry(CHAIN, len(self.entries) + 1, "", b"s" * SIZE, None))
        return self.entries[-1]

    async def head(self, chain: Chain) -> Head:
        return Head(len(self.entries), "", 0)

    async def read(self, chain: Chain, after_seq: int, limit: int) -> Sequence[Entry]:
        self.reads += 1
        self.is_read.set()
        await self.may_read.wait()
        return self.entries[after_seq : after_seq + limit]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    path = tmp_path / "data" / "precipiq.db"
    database = SqliteDatabase(SqliteConfig(url=f"sqlite:///{path}"), path)
    name = "ledger_usage"
    migrations = [Migration(name, _OWN_TABLES[name], {name: ("org_id", "environment")})]
    database.migrate(migrations)
    async with database.open(migrations):
        yield database


async def test_what_is_appended_while_a_chain_is_counted_is_counted_once(database: SqliteDatabase) -> None:
    entries, usage = Entries(5), StoredBytes(database, 10_000)
    async with asyncio.timeout(20), usage.run(standalone_background(), entries):  # type: ignore[arg-type]
        assert await usage.load(CHAIN) is None
        await entries.is_read.wait()
        for _ in range(3):
            assert await usage.load(CHAIN) is None, "asked again while it is counted"
            usage.note(CHAIN, [entries.append()], [True])
        entries.may_read.set()
        while await usage.load(CHAIN) is None:
            await asyncio.sleep(0)
        assert await usage.load(CHAIN) == len(entries.entries) * SIZE
        usage.note(CHAIN, [entries.append()], [True])
        await usage.flush()
        assert await usage.load(CHAIN) == len(entries.entries) * SIZE
        assert entries.reads == 1
