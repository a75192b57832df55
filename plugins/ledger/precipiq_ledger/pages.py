"""Pages of entries that are bounded in bytes too: entries are read some at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import EntryPage, EntryQuery, EntryReader

_AT_ONCE = 25
"""Entries of one reading; with entries of 256 KiB these are 6 MiB, and a few times as much while they are read."""


async def read_page(
    store: EntryReader, chain: Chain, after_seq: int, limit: int, kind: str | None, bytes_max: int
) -> Sequence[Entry]:
    """As ``EntryReader.read``, of about ``bytes_max`` at most, yet of ``_AT_ONCE`` entries if there are so many."""
    found = list(await store.read(chain, after_seq, min(limit, _AT_ONCE), kind))
    last = len(found)
    while last == _AT_ONCE and len(found) < limit and size_of(found) < bytes_max:
        more = await store.read(chain, found[-1].seq, min(limit - len(found), _AT_ONCE), kind)
        found += more
        last = len(more)
    return found


async def find_page(
    store: EntryReader, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int, bytes_max: int
) -> EntryPage:
    """As ``EntryReader.find``; the page ends where its entries have ``bytes_max``, yet has one if any matches."""
    page = await store.find(chain, query, before_seq, min(limit, _AT_ONCE))
    found = list(page.entries)
    while len(page.entries) == _AT_ONCE and page.next_before_seq is not None and len(found) < limit:
        if size_of(found) >= bytes_max:
            break
        page = await store.find(chain, query, page.next_before_seq, min(limit - len(found), _AT_ONCE))
        found += page.entries
    kept = within(found, bytes_max)
    return EntryPage(tuple(kept), page.next_before_seq if len(kept) == len(found) else kept[-1].seq)


def within(entries: Sequence[Entry], bytes_max: int) -> Sequence[Entry]:
    """The first entries that have so many bytes together; one at least."""
    size = 0
    for index, entry in enumerate(entries):
        size += size_of((entry,))
        if size > bytes_max and index:
            return entries[:index]
    return entries


def size_of(entries: Sequence[Entry]) -> int:
    """Bytes of statements and payloads."""
    return sum([len(entry.statement) + len(entry.payload or b"") for entry in entries])
