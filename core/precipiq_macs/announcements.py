"""What a chain itself says: the authentic entries of some kinds, folded into a state, read on from where it was."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import Ledger

State = TypeVar("State")

_PAGE = 500


@dataclass(slots=True)
class _Folded(Generic[State]):
    state: State
    through_seq: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Announcements(Generic[State]):
    """The states of chains. ``fold`` takes the entries of those kinds into a state, oldest first.

    The states of the ``chains_max`` chains that were asked for last are kept. Entries that no sealer made are passed
    over: a server's verification reports them.
    """

    def __init__(
        self,
        ledger: Ledger,
        kinds: Sequence[str],
        new: Callable[[], State],
        fold: Callable[[State, Entry], None],
        *,
        chains_max: int = 10_000,
    ) -> None:
        self._ledger = ledger
        self._kinds = kinds
        self._new = new
        self._fold = fold
        self._chains_max = chains_max
        self._folded: OrderedDict[Chain, _Folded[State]] = OrderedDict()

    async def of(self, chain: Chain) -> State:
        """The state of the chain as it is now, not to be changed.

        Raises ``Unavailable``, for good when the chain was cut: no server runs while an old copy is restored.
        """
        folded = self._folded.setdefault(chain, _Folded(self._new()))
        self._folded.move_to_end(chain)
        while len(self._folded) > self._chains_max:
            self._folded.popitem(last=False)
        async with folded.lock:
            head = await self._ledger.head(chain)
            through_seq = 0 if head is None else head.seq
            if through_seq < folded.through_seq:  # what it said and does not say any more must not be forgotten
                raise Unavailable(f"the chain ends at {through_seq}, and entry {folded.through_seq} was there")
            if through_seq > folded.through_seq:
                entries = await self._read(chain, folded.through_seq, through_seq)
                for entry in entries:
                    self._fold(folded.state, entry)
                folded.through_seq = through_seq
            return folded.state

    async def _read(self, chain: Chain, after_seq: int, through_seq: int) -> list[Entry]:
        found: list[Entry] = []
        for kind in self._kinds:
            seq = after_seq
            while page := await self._ledger.read(chain, seq, _PAGE, kind):
                found += [entry for entry in await self._authentic(chain, page) if entry.seq <= through_seq]
                seq = page[-1].seq
                if len(page) < _PAGE or seq >= through_seq:
                    break
        return sorted(found, key=lambda entry: entry.seq)

    async def _authentic(self, chain: Chain, page: Sequence[Entry]) -> Sequence[Entry]:
        kept: list[Entry] = []
        rest = page
        while (wrong := await self._ledger.first_unauthentic(chain, rest)) is not None:
            at = rest.index(wrong)
            kept += rest[:at]
            rest = rest[at + 1 :]
        return [*kept, *rest]
