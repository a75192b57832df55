"""Pages of entries are bounded in bytes as well as in number: nothing is left out, repeated or read at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import EntryPage, EntryQuery
from precipiq_ledger.pages import find_page, read_page, size_of, within

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_a", "test")
QUERY = EntryQuery("decision")
AT_ONCE_MAX = 50


class Store:
    """Entries of these sizes from seq 1. ``short``: whether it gives fewer than asked for, as a driver may."""

    def __init__(self, sizes: Sequence[int], short: random.Random | None = None) -> None:
        self.entries = [Entry(CHAIN, seq, "", b"", b"x" * size, None, None) for seq, size in enumerate(sizes, start=1)]
        self.short = short

    def _count(self, limit: int) -> int:
        assert limit <= AT_ONCE_MAX
        return limit if self.short is None else self.short.randint(1, limit)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return self.entries[after_seq : after_seq + self._count(limit)]

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        end = len(self.entries) if before_seq is None else before_seq - 1
        found = self.entries[max(0, end - self._count(limit)) : end][::-1]
        more = bool(found) and found[-1].seq > 1
        return EntryPage(tuple(found), found[-1].seq if more else None)


async def test_small_entries_fill_the_page() -> None:
    store = Store([10] * 300)
    assert [entry.seq for entry in await read_page(store, CHAIN, 0, 120, None, 10_000)] == list(range(1, 121))  # type: ignore[arg-type]
    page = await find_page(store, CHAIN, QUERY, None, 120, 10_000)  # type: ignore[arg-type]
    assert [entry.seq for entry in page.entries] == list(range(300, 180, -1))
    assert page.next_before_seq == 181


async def test_large_entries_end_the_page() -> None:
    store = Store([1000] * 300)
    assert len(await read_page(store, CHAIN, 0, 300, None, 10_000)) < 60  # type: ignore[arg-type]
    page = await find_page(store, CHAIN, QUERY, None, 300, 10_000)  # type: ignore[arg-type]
    assert size_of(page.entries) == 10_000
    assert page.next_before_seq == page.entries[-1].seq


@pytest.mark.parametrize("seed", range(20))
async def test_pages_hold_every_entry_once_whatever_its_size(seed: int) -> None:
    source = random.Random(seed)
    store = Store([source.choice([1, 100, 5_000]) for _ in range(400)], source if seed % 2 else None)
    limit, bytes_max = source.randrange(1, 200), source.choice([500, 8_000, 50_000])
    seqs, before = [], None
    while True:
        page = await find_page(store, CHAIN, QUERY, before, limit, bytes_max)  # type: ignore[arg-type]
        assert len(page.entries) <= limit
        assert size_of(page.entries) <= bytes_max or len(page.entries) == 1
        seqs += [entry.seq for entry in page.entries]
        before = page.next_before_seq
        if before is None:
            break
    assert seqs == list(range(400, 0, -1))
    seqs = []
    while read := await read_page(store, CHAIN, seqs[-1] if seqs else 0, limit, None, bytes_max):  # type: ignore[arg-type]
        assert len(read) <= limit
        seqs += [entry.seq for entry in read]
    assert seqs == list(range(1, 401))


def test_a_page_has_one_entry_however_large() -> None:
    entries = Store([9_000, 1]).entries
    assert within(entries, 10) == entries[:1]
    assert within(entries, 9_001) == entries
    assert within([], 10) == []
