"""Many processes append through drivers of their own: dense chains, no fork, true receipts, one entry per key.

Run as a program, this file is one of those writers.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain, Entry, PreparedDraft
from precipiq_contracts.entry_store import EntryStore
from precipiq_core.system import SystemClock
from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres as testkit
from precipiq_testkit.sealing import Writer
from tests.databases import POSTGRES_ENTRIES
from tests.effort import rounds

REPOSITORY = Path(__file__).parents[2]
PROCESSES = rounds(4, long=8)
APPENDS_EACH = rounds(250, long=2000)
TASKS_EACH = 32
BATCH_MAX = 8
KEYED_EVERY = 10
TIMEOUT_S = 300


@dataclass(frozen=True)
class Task:
    """What one process does. ``settings``: of its database; ``number``: makes its ids differ from the others'."""

    settings: dict[str, object]
    number: int
    chains_count: int
    appends: int
    receipts: str


@dataclass(frozen=True)
class Receipt:
    """What an append said of one of its drafts."""

    chain: int
    key: str | None
    seq: int
    hash: str
    created: bool


def chains(count: int) -> list[Chain]:
    return [Chain(f"org_{number}", "live") for number in range(count)]


@asynccontextmanager
async def opened(settings: dict[str, object]) -> AsyncIterator[EntryStore]:
    database = PostgresDatabase(PostgresConfig.model_validate(settings))
    async with (
        database.open([POSTGRES_ENTRIES]),
        PostgresDriver(database, DriverOptions()).open() as store,
    ):
        yield store


async def write(task: Task) -> None:
    """Open, say so, wait for the word, append, and write down the receipts."""
    chosen = random.Random(task.number)
    receipts: list[Receipt] = []
    async with opened(task.settings) as store:
        writer = Writer(store, SystemClock(), seed=task.number)  # type: ignore[arg-type]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        numbers = iter(range(task.appends))

        async def lane() -> None:
            for number in numbers:
                place = chosen.randrange(task.chains_count)
                drafts = list(_drafts(writer, chosen, number))
                appended = await writer.append(chains(task.chains_count)[place], *drafts)
                for draft, entry, created in zip(drafts, appended.entries, appended.created, strict=True):
                    receipts.append(Receipt(place, draft.idempotency_key, entry.seq, entry.hash, created))

        await asyncio.gather(*(lane() for _ in range(TASKS_EACH)))
    Path(task.receipts).write_text(json.dumps([asdict(receipt) for receipt in receipts]))


def _drafts(writer: Writer, chosen: random.Random, number: int) -> Iterator[PreparedDraft]:
    """A draft or a batch; every tenth append bears a key that all processes use, alone or in the batch."""
    if number % KEYED_EVERY == 0:
        yield writer.draft(f"agent-{number % 5}", key=f"shared-{number // KEYED_EVERY}")
    size = chosen.randrange(2, BATCH_MAX) if number % 7 == 0 else int(number % KEYED_EVERY != 0)
    for index in range(size):
        key = f"own-{os.getpid()}-{number}-{index}" if chosen.random() < 0.2 else None
        yield writer.draft(f"agent-{number % 5}", key=key, metadata={"process": os.getpid(), "number": number})


def run_writers(settings: dict[str, object], chains_count: int, folder: Path) -> list[Receipt]:
    """Let all processes write at the same time; every receipt that they got."""
    tasks = [
        Task(settings, number, chains_count, APPENDS_EACH, str(folder / f"{number}.json"))
        for number in range(PROCESSES)
    ]
    with ExitStack() as stack:
        processes = []
        for task in tasks:
            command = [sys.executable, "-m", "tests.ledger.test_postgres_writers", json.dumps(asdict(task))]
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": REPOSITORY}
            process = stack.enter_context(subprocess.Popen(command, text=True, **options))  # type: ignore[call-overload]
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            while "ready" not in (line := process.stdout.readline()):
                assert line, "a writer did not start"
        started_s = time.monotonic()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0
        duration_s = time.monotonic() - started_s
    receipts = [Receipt(**fields) for task in tasks for fields in json.loads(Path(task.receipts).read_text())]
    rate = PROCESSES * APPENDS_EACH / duration_s
    print(f"{PROCESSES} x {APPENDS_EACH} appends, {len(receipts)} receipts: {duration_s:.1f} s, {rate:.0f} appends/s")
    return receipts


@pytest.mark.anyio
@pytest.mark.parametrize("chains_count", [1, 8])
async def test_many_processes_write_dense_chains_with_true_receipts(
    chains_count: int, postgres: testkit.PostgresDatabase, tmp_path: Path
) -> None:
    settings = postgres.settings()
    async with opened(settings) as store:
        receipts = await asyncio.to_thread(run_writers, settings, chains_count, tmp_path)
        stored = {place: await read_all(store, chain) for place, chain in enumerate(chains(chains_count))}
        for place, chain in enumerate(chains(chains_count)):
            work = verify_stretch, store.auditor(), chain, GENESIS, None
            stretch = await asyncio.to_thread(*work, batch_entries=2000)
            assert (stretch.broken, stretch.checked_count) == (None, len(stored[place]))

    assert len(receipts) >= PROCESSES * APPENDS_EACH
    for entries in stored.values():
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert all(parse_statement(entry.statement).seq == entry.seq for entry in entries)
    for receipt in receipts:
        entry = stored[receipt.chain][receipt.seq - 1]
        assert (entry.hash, entry.idempotency_key) == (receipt.hash, receipt.key)
    created = Counter((receipt.chain, receipt.seq) for receipt in receipts if receipt.created)
    everything = {(place, entry.seq) for place, entries in stored.items() for entry in entries}
    assert created == Counter(everything), "each entry was made for exactly one receipt"
    of_keys = Counter(
        (place, entry.idempotency_key)
        for place, entries in stored.items()
        for entry in entries
        if entry.idempotency_key
    )
    assert set(of_keys.values()) == {1}
    shared = sum(1 for _, key in of_keys if key.startswith("shared-"))
    assert shared == chains_count * APPENDS_EACH // KEYED_EVERY or chains_count > 1
    assert sum(not receipt.created for receipt in receipts) > 0


async def read_all(store: EntryStore, chain: Chain) -> Sequence[Entry]:
    entries: list[Entry] = []
    while page := await store.read(chain, len(entries), 5000):
        entries += page
    return entries


if __name__ == "__main__":
    asyncio.run(write(Task(**json.loads(sys.argv[1]))))
