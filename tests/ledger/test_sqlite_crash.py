"""kill -9 while appending: every acknowledged entry is there afterwards, and the chain is whole."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from tests.databases import SQLITE_ENTRIES
from tests.effort import rounds

ALPHA = Chain("org_alpha", "live")
MIGRATION = SQLITE_ENTRIES
ROUNDS_COUNT = rounds(2, long=10)

APPENDER = """
import asyncio, json, os, signal, sys
from pathlib import Path
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Migration
from precipiq_sqlite.config import SqliteConfig
from precipiq_postgres.config import PostgresConfig
from precipiq_sqlite.service import SqliteDatabase
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_testkit.sealing import Writer

path, migrations, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
ALPHA = Chain("org_alpha", "live")
migration = Migration("ledger", migrations, {"entries": ("org_id", "environment")})

async def main():
    database = SqliteDatabase(SqliteConfig(migrate_at_start=True), path)
    async with database.open([migration]), SqliteDriver(database).open() as store:
        writer = Writer(store, seed=seed)
        acknowledged = []
        async def append():
            while True:
                appended = await writer.append(ALPHA, writer.draft(), writer.draft())
                for entry in appended.entries:
                    print("acknowledged", json.dumps([entry.seq, entry.hash]), flush=True)
                    acknowledged.append(entry)
                if len(acknowledged) >= count:
                    os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.gather(*(append() for _ in range(8)))

asyncio.run(main())
"""


def acknowledge_then_die(path: Path, seed: int, count: int) -> list[tuple[int, str]]:
    """It kills itself right after an answer: a commit that has not ended by then never ends."""
    arguments = [sys.executable, "-c", APPENDER, str(path), str(MIGRATION.location), str(seed), str(count)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == -9, "the appender ended by itself"
    lines = [line for line in done.stdout.splitlines() if line.startswith("acknowledged")]
    return [tuple(json.loads(line.split(" ", 1)[1])) for line in lines]


@pytest.mark.system
@pytest.mark.slow
def test_every_acknowledged_entry_survives_a_kill(tmp_path: Path) -> None:
    path, rng = tmp_path / "precipiq.db", random.Random(3)
    acknowledged: list[tuple[int, str]] = []
    for seed in range(ROUNDS_COUNT):
        acknowledged += acknowledge_then_die(path, seed, rng.randrange(1, 400))

    async def stored() -> tuple[dict[int, str], object]:
        database = SqliteDatabase(SqliteConfig(), path)
        async with database.open([MIGRATION]), SqliteDriver(database).open() as store:
            entries = await store.read(ALPHA, 0, 1_000_000)
            auditor = store.auditor()
            return {entry.seq: entry.hash for entry in entries}, verify_stretch(
                auditor, ALPHA, GENESIS, None, batch_entries=100
            ).broken

    hashes, broken = asyncio.run(stored())
    assert broken is None
    assert len(acknowledged) > ROUNDS_COUNT
    assert [item for item in acknowledged if hashes.get(item[0]) != item[1]] == []
