"""How many entries to read at once, when they may be of any size."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_contracts.chain import Entry


class PageSize:
    """How many entries a subscriber reads at once, by how large those were that it read last.

    Pages end at multiples of a power of two, so that subscribers who are behind at different places soon ask for the
    same pages.
    """

    def __init__(self, entries_max: int, bytes_aim: int) -> None:
        self._entries_max = entries_max
        self._bytes_aim = bytes_aim
        self.entries = _power_of_two(min(32, entries_max))

    def limit_after(self, seq: int) -> int:
        """How many entries to read after that one."""
        return self.entries - seq % self.entries

    def learn(self, entries: Sequence[Entry]) -> None:
        """These were read: the next ones are of about their size."""
        average_bytes = sum(map(_size, entries)) // len(entries) + 1
        self.entries = _power_of_two(max(1, min(self._entries_max, self._bytes_aim // average_bytes)))

    def cut(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The first ones, of about the size that a page should have; at least one."""
        total = 0
        for index, entry in enumerate(entries):
            total += _size(entry)
            if total > self._bytes_aim and index:
                return entries[:index]
        return entries


def _size(entry: Entry) -> int:
    return len(entry.statement) + len(entry.payload or b"")


def _power_of_two(number: int) -> int:
    """The largest one that is not larger."""
    return 1 << (number.bit_length() - 1)
