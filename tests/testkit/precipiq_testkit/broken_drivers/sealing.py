"""Faults in calling the seal."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import Seal
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryData


class SealsTwiceAtOnce(Fault):
    """Seals on two guesses of the head side by side, and takes what is ready first."""

    caught_by = "test_a_seal_runs_once_at_a_time"
    symptom = "one seal was called twice at the same time"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        def seal_twice(head: Head | None, drafts: Sequence[PreparedDraft]) -> Sequence[Entry]:
            with ThreadPoolExecutor(2) as threads:
                first, _ = [threads.submit(seal, head, drafts) for _ in range(2)]
                return first.result()

        return super()._store_sealed(chain, new, seal_twice)


class KeepsASealForLater(Fault):
    """Calls the seal of the append before once more, on the head that has moved since."""

    caught_by = "test_a_seal_is_not_called_once_its_append_has_ended"
    symptom = "a seal was called after its append had ended"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._kept: Seal | None = None

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        kept, self._kept = self._kept, seal
        if kept is not None:
            with suppress(Exception):
                kept(self._head_now(chain), new)
        return super()._store_sealed(chain, new, seal)
