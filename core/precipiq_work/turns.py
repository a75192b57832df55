"""Slots that organisations get in turn: one waits for one use of a slot by each other at most, however many it makes.

``Slots`` decides, for threads and tasks; ``Turns`` waits, in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from precipiq_contracts.chain import Chain
from precipiq_work.fair_queue import FairQueue

ItemT = TypeVar("ItemT", bound=Hashable)

WAITING_MAX = 10_000


class Slots(Generic[ItemT]):
    """``count`` slots, and who waits for them. Needs a lock among threads.

    ``kept_free``: slots that no chain may hold beside its others, for work that holds one long. The ``test``
    environments of all organisations together leave as many to ``live``, and an organisation's counts what its ``live``
    holds, but not the other way round. One slot is had by everybody in turn.
    """

    def __init__(self, count: int, waiting_max: int, full: str, *, kept_free: int = 0) -> None:
        self._free = count
        self._each_max = max(count - kept_free, 1)
        self._held: Counter[Chain] = Counter()
        self._tests = 0
        self._waiting: FairQueue[ItemT] = FairQueue(waiting_max, full)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, chain: Chain | None) -> bool:
        """Take a slot if there is one for that chain. Who waits already could not use it."""
        if not self._free or not self._may_go(chain):
            return False
        self._take(chain)
        return True

    def wait(self, chain: Chain | None, item: ItemT) -> None:
        """Have the item wait, after :meth:`enter` gave no slot. Raises ``Unavailable`` when too many wait."""
        self._waiting.add(chain, item)

    def withdraw(self, chain: Chain | None, item: ItemT) -> None:
        """Have an item wait no longer; nothing when it has left the queue."""
        self._waiting.discard(chain, item)

    def leave(self, chain: Chain | None) -> tuple[Chain | None, ItemT] | None:
        """Give a slot back; who has one now instead."""
        self._free += 1
        if chain is not None:
            self._held[chain] -= 1
            if not self._held[chain]:
                del self._held[chain]
            self._tests -= chain.environment == "test"
        heir = self._waiting.pop(self._may_go)
        if heir is not None:
            self._take(heir[0])
        return heir

    def refuse_all(self) -> list[ItemT]:
        """Have nobody wait any more; who waited."""
        return self._waiting.clear()

    def _may_go(self, chain: Chain | None) -> bool:
        if chain is None:
            return True
        held = self._held.get(chain, 0)
        if chain.environment == "test":
            held = max(self._tests, held + self._held.get(Chain(chain.org_id, "live"), 0))
        return held < self._each_max

    def _take(self, chain: Chain | None) -> None:
        self._free -= 1
        if chain is not None:
            self._held[chain] += 1
            self._tests += chain.environment == "test"


class Turns:
    """See :class:`Slots`. A call that finds a free slot awaits nothing."""

    def __init__(
        self,
        at_once_max: int,
        waiting_max: int = WAITING_MAX,
        full: str = "too many requests of this kind are waiting; try again",
        *,
        kept_free: int = 0,
    ) -> None:
        self._slots: Slots[asyncio.Future[None]] = Slots(at_once_max, waiting_max, full, kept_free=kept_free)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""
        return not len(self._slots)

    @asynccontextmanager
    async def of(self, chain: Chain | None) -> AsyncIterator[None]:
        """Wait for the chain's turn, and hold a slot while the context is entered. Raises as :meth:`take`."""
        await self.take(chain)
        try:
            yield
        finally:
            self.give_back(chain)

    async def take(self, chain: Chain | None) -> None:
        """Wait for a slot, to be given back by :meth:`give_back`. A caller that is cancelled leaves no trace.

        Raises ``Unavailable`` when too many of the chain, or in all, wait already.
        """
        if self._slots.enter(chain):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots.wait(chain, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._slots.withdraw(chain, turn)
            else:  # the slot was handed over in the same moment
                self.give_back(chain)
            raise

    def give_back(self, chain: Chain | None) -> None:
        """Hand the slot to whose turn it is."""
        heir = self._slots.leave(chain)
        while heir is not None:
            next_chain, turn = heir
            if not turn.done():
                turn.set_result(None)
                return
            heir = self._slots.leave(next_chain)  # cancelled, and about to withdraw
