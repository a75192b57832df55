"""A bounded queue in which organisations take turns, and in each of them ``live`` and ``test``. Waits for nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable

ItemT = TypeVar("ItemT", bound=Hashable)

_CHAIN_SHARE = 10
_CHAIN_LEAST = 100


def chain_share(waiting_max: int) -> int:
    """The places of a queue that one chain may take: a tenth, but no fewer than 100 where there are as many."""
    return min(waiting_max, max(_CHAIN_LEAST, waiting_max // _CHAIN_SHARE))


def _every(_: Chain | None) -> bool:
    return True


class FairQueue(Generic[ItemT]):
    """Items of chains. None in place of a chain: the deployment's own work, which takes turns like an organisation.

    ``waiting_max``: items in all; see :func:`chain_share`. ``full``: the error's message. Needs a lock among threads.
    """

    def __init__(self, waiting_max: int, full: str) -> None:
        self._waiting_max = waiting_max
        self._chain_max = chain_share(waiting_max)
        self._full = full
        self._count = 0
        # By organisation, then by chain; whose turn it is stands first.
        self._lines: OrderedDict[str | None, OrderedDict[Chain | None, OrderedDict[ItemT, None]]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def add(self, chain: Chain | None, item: ItemT) -> None:
        """Put the item behind its chain's others. Raises ``Unavailable`` when the queue, or that share, is full."""
        lines = self._lines.get(_organisation(chain)) or OrderedDict()
        line = lines.setdefault(chain, OrderedDict())
        if self._count >= self._waiting_max or (chain is not None and len(line) >= self._chain_max):
            raise Unavailable(self._full)
        self._lines[_organisation(chain)] = lines
        line[item] = None
        self._count += 1

    def discard(self, chain: Chain | None, item: ItemT) -> None:
        """Take an item out of its turn, if it is there."""
        lines = self._lines.get(_organisation(chain))
        if lines is None or item not in lines.get(chain, ()):
            return
        del lines[chain][item]
        self._count -= 1
        if not lines[chain]:
            del lines[chain]
        if not lines:
            del self._lines[_organisation(chain)]

    def peek(self, may_go: Callable[[Chain | None], bool] = _every) -> tuple[Chain | None, ItemT] | None:
        """The item whose turn it is, among the chains that may go; None when there is none."""
        for lines in self._lines.values():
            for chain, line in lines.items():
                if may_go(chain):
                    return chain, next(iter(line))
        return None

    def pop(self, may_go: Callable[[Chain | None], bool] = _every) -> tuple[Chain | None, ItemT] | None:
        """As :meth:`peek`, and take it out: its chain, and its organisation, have their next turn after all others."""
        found = self.peek(may_go)
        if found is not None:
            self._lines[_organisation(found[0])].move_to_end(found[0])
            self._lines.move_to_end(_organisation(found[0]))
            self.discard(*found)
        return found

    def clear(self) -> list[ItemT]:
        """Empty the queue; what waited."""
        items = [item for lines in self._lines.values() for line in lines.values() for item in line]
        self._lines.clear()
        self._count = 0
        return items


def _organisation(chain: Chain | None) -> str | None:
    return None if chain is None else chain.org_id
