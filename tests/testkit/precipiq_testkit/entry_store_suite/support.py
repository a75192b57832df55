"""What the tests of the suite share: their chains, running things at once, and what an intact chain is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, TypeAlias, TypeVar

import anyio
import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import GENESIS_HASH, Chain, Entry
from precipiq_contracts.entry_store import EntryQuery, EntryStore, EntryStoreDriver

T = TypeVar("T")

Reopen: TypeAlias = Callable[[], AbstractAsyncContextManager[EntryStore]]
"""Opens the data of the test's driver once more."""

ALPHA = Chain("org_alpha", "live")
ALPHA_TEST = Chain("org_alpha", "test")
BETA = Chain("org_beta", "live")

PAGES_MAX = 10_000
READ_ALL = 100_000
WAKE_UPS_MAX = 10_000


class StoreTests:
    """Base of the suite's parts: every test is a coroutine on anyio's asyncio backend."""

    pytestmark = pytest.mark.anyio

    patience_s: ClassVar[float] = 30.0
    """How long a test waits for what must come. Only a broken driver lets it run out."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The suite runs on asyncio, as the server does."""
        return "asyncio"

    @contextmanager
    def patience(self, awaited: str) -> Iterator[None]:
        """Fail with a sentence when ``awaited`` does not come; the first error of a group comes out alone."""
        with anyio.move_on_after(self.patience_s) as scope:
            try:
                yield
            except BaseExceptionGroup as group:
                raise _first_of(group) from None
        if scope.cancelled_caught:
            pytest.fail(f"{awaited} did not come within {self.patience_s} s")

    async def run_together(self, *jobs: Callable[[], Awaitable[T]]) -> list[T]:
        """Run all at once; their results in order. The first error ends all."""
        results: dict[int, T] = {}

        async def run(index: int, job: Callable[[], Awaitable[T]]) -> None:
            results[index] = await job()

        with self.patience("the end of what runs at once"):
            async with anyio.create_task_group() as group:
                for index, job in enumerate(jobs):
                    group.start_soon(run, index, job)
        return [results[index] for index in range(len(jobs))]


async def read_all(store: EntryStore, chain: Chain) -> list[Entry]:
    """The whole chain in one read."""
    return list(await store.read(chain, 0, READ_ALL))


async def find_all(store: EntryStore, chain: Chain, query: EntryQuery, limit: int = 4) -> list[Entry]:
    """Every page of a search, in the order given; fails when the pages do not come to an end."""
    found: list[Entry] = []
    before_seq: int | None = None
    for _ in range(PAGES_MAX):
        page = await store.find(chain, query, before_seq, limit)
        assert len(page.entries) <= limit, f"a page of {len(page.entries)} entries for a limit of {limit}"
        found.extend(page.entries)
        if page.next_before_seq is None:
            return found
        assert before_seq is None or page.next_before_seq < before_seq, "next_before_seq must fall from page to page"
        before_seq = page.next_before_seq
    raise AssertionError(f"no last page after {PAGES_MAX} pages")


def seqs(entries: Sequence[Entry]) -> list[int]:
    """Their seqs."""
    return [entry.seq for entry in entries]


def agents(entries: Sequence[Entry]) -> list[object]:
    """The ``agent_id`` of each, by which the tests tell entries apart."""
    return [parse_statement(entry.statement).body["agent_id"] for entry in entries]


def assert_intact(chain: Chain, entries: Sequence[Entry]) -> None:
    """Those are a whole chain from its genesis: dense, linked, in time's order, every hash right."""
    assert seqs(entries) == list(range(1, len(entries) + 1)), "seqs must be dense from 1"
    prev_hash, timestamp = GENESIS_HASH, ""
    for entry in entries:
        statement = parse_statement(entry.statement)
        assert entry.chain == chain, f"entry {entry.seq} is of another chain"
        assert (statement.org_id, statement.environment) == (chain.org_id, chain.environment)
        assert statement.seq == entry.seq, f"entry {entry.seq} has the statement of entry {statement.seq}"
        assert entry.hash == sha256(entry.statement).hexdigest(), f"entry {entry.seq}: hash and statement differ"
        assert statement.prev_hash == prev_hash, f"entry {entry.seq} does not link to the entry before it"
        assert statement.timestamp > timestamp, f"entry {entry.seq} is not later than the entry before it"
        if entry.payload is not None:
            assert sha256(entry.payload).hexdigest() == statement.payload_hash, f"entry {entry.seq}: payload altered"
        prev_hash, timestamp = entry.hash, statement.timestamp


async def take_wake_ups_until(store: EntryStore, wake_ups: AsyncIterator[None], seq: int) -> None:
    """Wait for a wake-up, and on, until ALPHA's head has come to ``seq``; spurious ones are allowed, within reason."""
    for _ in range(WAKE_UPS_MAX):
        await anext(wake_ups)
        head = await store.head(ALPHA)
        if head is not None and head.seq >= seq:
            return
    raise AssertionError("woken without end, and never by the append")


def require(driver: EntryStoreDriver, capability: str) -> None:
    """Skip the test unless the driver declares that capability."""
    if capability not in driver.capabilities:
        pytest.skip(f"the driver {driver.name!r} does not declare the capability {capability!r}")


def require_storage(storage: Path | None) -> Path:
    """The driver's folder, made if it is not there; skips the test unless the suite was told of one."""
    if storage is None:
        pytest.skip("the suite's fixture `storage` is not filled: no folder of this machine has the driver's files")
    storage.mkdir(parents=True, exist_ok=True)
    return storage


def require_reopen(reopen: Reopen | None) -> Reopen:
    """What opens the data once more; skips the test unless the suite was given it."""
    if reopen is None:
        pytest.skip("the suite's fixture `reopen` is not filled")
    return reopen


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
