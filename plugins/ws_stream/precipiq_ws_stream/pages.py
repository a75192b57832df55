"""The number of entries to read at once, when entries may have any size."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_contracts.chain import Entry


class PageSize:
    """The number of entries that a subscriber reads at once, from the size of those it read last.

    Pages end at multiples of a power of two, so that subscribers who are behind at different places soon ask for the
    same pages.
    """

    def __init__(self, entries_max: int, bytes_aim: int) -> None:
        self._entries_max = entries_max
        self._bytes_aim = bytes_aim
        self.entries = _power_of_two(min(32, entries_max))

    def limit_after(self, seq: int) -> int:
        """The number of entries to read after that seq."""
        return self.entries - seq % self.entries

    def learn(self, entries: Sequence[Entry]) -> None:
        """Note the size of the entries just read: the next ones are about as large."""
        average_bytes = sum(map(_size, entries)) // len(entries) + 1
        self.entries = _power_of_two(max(1, min(self._entries_max, self._bytes_aim // average_bytes)))

    def is_reached(self, entries: Sequence[Entry]) -> bool:
        """Whether the entries are so large together that the ledger may have given fewer than there are."""
        return sum(map(_size, entries)) >= self._bytes_aim

    def cut(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The first entries, together of about a page's size; at least one."""
        total = 0
        for index, entry in enumerate(entries):
            total += _size(entry)
            if total > self._bytes_aim and index:
                return entries[:index]
        return entries


def _size(entry: Entry) -> int:
    return len(entry.statement) + len(entry.payload or b"")


def _power_of_two(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)
