"""Pages of entries that end at a number of bytes: an answer holds no more than that, or one entry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from precipiq_contracts.chain import Entry
from precipiq_contracts.entry_store import EntryPage

_FIRST_ENTRIES = 25  # of the largest entries that is six MiB; afterwards their mean size is known


async def find_page(
    find: Callable[[int | None, int], Awaitable[EntryPage]], before_seq: int | None, limit: int, bytes_max: int
) -> EntryPage:
    """A page of ``find(before_seq, limit)``; ``next_before_seq`` is set where it stops early."""
    kept: list[Entry] = []
    left, asked = bytes_max, min(limit, _FIRST_ENTRIES)
    while True:
        page = await find(before_seq, asked)
        left = _take(page.entries, kept, left)
        if page.entries and kept[-1] is not page.entries[-1]:
            return EntryPage(tuple(kept), kept[-1].seq)
        before_seq = page.next_before_seq
        if before_seq is None or left <= 0 or len(kept) >= limit or len(page.entries) < asked:
            return EntryPage(tuple(kept), before_seq)
        asked = _next_count(len(kept), limit, left, bytes_max)


async def read_page(
    read: Callable[[int, int], Awaitable[Sequence[Entry]]], after_seq: int, limit: int, bytes_max: int
) -> tuple[Sequence[Entry], int | None]:
    """A page of ``read(after_seq, limit)``, oldest first, and the seq after which to go on; None at the end."""
    kept: list[Entry] = []
    left, asked = bytes_max, min(limit, _FIRST_ENTRIES)
    while True:
        entries = await read(after_seq, asked)
        left = _take(entries, kept, left)
        if len(entries) < asked and (not entries or kept[-1] is entries[-1]):
            return kept, None
        if left <= 0 or len(kept) >= limit:
            return kept, kept[-1].seq
        after_seq, asked = entries[-1].seq, _next_count(len(kept), limit, left, bytes_max)


def _take(entries: Sequence[Entry], kept: list[Entry], left: int) -> int:
    """Keep those that fit, and the first of all in any case; gives the bytes that are left, 0 when one did not fit."""
    for entry in entries:
        size = len(entry.statement) + len(entry.payload or b"")
        if kept and size > left:
            return 0
        kept.append(entry)
        left -= size
    return left


def _next_count(kept_count: int, limit: int, left: int, bytes_max: int) -> int:
    """How many more entries probably fit."""
    mean = max(1, (bytes_max - left) // max(1, kept_count))
    return min(limit - kept_count, max(1, left // mean))
