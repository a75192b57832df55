"""Pages of entries end at a number of bytes, and lose and repeat nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import EntryPage
from precipiq_core.entry_pages import find_page, read_page

CHAIN = Chain("org_pages", "live")


class Entries:
    """A chain of entries of these sizes. ``scanned_max``: how many one ``find`` looks at; every third is no match."""

    def __init__(self, sizes: Sequence[int], scanned_max: int = 1000) -> None:
        self.all = [Entry(CHAIN, seq, "", b"s" * size, None, None) for seq, size in enumerate(sizes, 1)]
        self.scanned_max = scanned_max
        self.read_bytes = 0

    async def find(self, before_seq: int | None, limit: int) -> EntryPage:
        candidates = [entry for entry in reversed(self.all) if before_seq is None or entry.seq < before_seq]
        found: list[Entry] = []
        for number, entry in enumerate(candidates):
            if len(found) == limit or number == self.scanned_max:
                return EntryPage(tuple(found), entry.seq + 1)
            if entry.seq % 3:
                found.append(entry)
                self.read_bytes += len(entry.statement)
        return EntryPage(tuple(found), None)

    async def read(self, after_seq: int, limit: int) -> Sequence[Entry]:
        found = self.all[after_seq : after_seq + limit]
        self.read_bytes += sum(len(entry.statement) for entry in found)
        return found


def size_of(entries: Sequence[Entry]) -> int:
    return sum(len(entry.statement) for entry in entries)


SIZES = st.lists(st.one_of(st.integers(1, 30), st.integers(1, 3000)), max_size=160)


@given(SIZES, st.integers(1, 120), st.integers(1, 4000), st.integers(1, 60))
@pytest.mark.anyio
async def test_pages_hold_every_entry_once_and_not_too_many_bytes(
    sizes: list[int], limit: int, bytes_max: int, scanned_max: int
) -> None:
    entries = Entries(sizes, scanned_max)
    found: list[Entry] = []
    before: int | None = None
    while True:
        page = await find_page(entries.find, before, limit, bytes_max)
        assert len(page.entries) <= limit
        assert len(page.entries) <= 1 or size_of(page.entries) <= bytes_max
        found += page.entries
        if page.next_before_seq is None:
            break
        assert before is None or page.next_before_seq < before
        before = page.next_before_seq
    assert found == [entry for entry in reversed(entries.all) if entry.seq % 3]

    found, after = [], 0
    while True:
        kept, next_after = await read_page(entries.read, after, limit, bytes_max)
        assert len(kept) <= limit
        assert len(kept) <= 1 or size_of(kept) <= bytes_max
        found += kept
        if next_after is None:
            break
        assert next_after > after
        after = next_after
    assert found == entries.all


@pytest.mark.anyio
async def test_a_page_of_large_entries_reads_little_more_than_it_gives() -> None:
    """Five hundred were asked for; what is read beyond the budget is one first look."""
    entries = Entries([250_000] * 400)
    page = await find_page(entries.find, None, 500, 1_000_000)
    assert len(page.entries) == 4
    assert entries.read_bytes <= 50 * 250_000
    entries.read_bytes = 0
    kept, next_after = await read_page(entries.read, 0, 500, 1_000_000)
    assert (len(kept), next_after) == (4, 4)
    assert entries.read_bytes <= 50 * 250_000


@pytest.mark.anyio
async def test_a_page_of_small_entries_is_as_long_as_it_was_asked_for() -> None:
    entries = Entries([100] * 1000)
    page = await find_page(entries.find, None, 500, 1_000_000)
    assert (len(page.entries), page.next_before_seq) == (500, page.entries[-1].seq)
    kept, next_after = await read_page(entries.read, 0, 500, 1_000_000)
    assert (len(kept), next_after) == (500, 500)
