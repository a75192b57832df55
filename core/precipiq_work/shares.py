"""A number of bytes of memory that owners share: each has at most its share, and those that wait get theirs in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from precipiq_contracts.errors import Unavailable


class Shares:
    """Bytes that may be held at once: ``bytes_max`` in all, ``share_bytes_max`` by one owner."""

    def __init__(self, bytes_max: int, share_bytes_max: int) -> None:
        self._free = bytes_max
        self._share_bytes_max = min(share_bytes_max, bytes_max)
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[
            Hashable, deque[tuple[int, asyncio.Future[None]]]
        ] = {}  # owners in the order of their turns

    async def take(self, owner: Hashable, size: int) -> int:
        """Wait until the owner may hold that many bytes; gives how many to :meth:`give_back`. May be cancelled.

        More than a share counts as a share.
        """
        size = min(size, self._share_bytes_max)
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append((size, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # what stood behind it may fit
            else:
                self.give_back(owner, size)
            raise
        return size

    @contextmanager
    def held_now(self, owner: Hashable, size: int, full: str) -> Iterator[None]:
        """Hold that many bytes while the context is entered. Raises ``Unavailable`` where they cannot be had at once.

        ``full``: the error's message. For what is in memory already, and would stay there while it waits.
        """
        size = min(size, self._share_bytes_max)
        if size > self._free or self._held.get(owner, 0) + size > self._share_bytes_max:
            raise Unavailable(full)
        self._free -= size
        self._held[owner] = self._held.get(owner, 0) + size
        try:
            yield
        finally:
            self.give_back(owner, size)

    def give_back(self, owner: Hashable, size: int) -> None:
        """Let others have what the owner held."""
        self._free += size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        """Give to each owner in turn what fits into its share; what does not fit into the rest is waited for."""
        gave = True
        while gave:
            gave = False
            for owner, queue in list(self._waiting.items()):
                while queue and queue[0][1].cancelled():
                    queue.popleft()
                if queue and self._held.get(owner, 0) + queue[0][0] > self._share_bytes_max:
                    continue
                if queue and queue[0][0] > self._free:
                    return
                del self._waiting[owner]
                if queue:
                    size, granted = queue.popleft()
                    self._free -= size
                    self._held[owner] = self._held.get(owner, 0) + size
                    granted.set_result(None)
                    gave = True
                if queue:
                    self._waiting[owner] = queue  # behind the others
