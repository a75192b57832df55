"""What every broken driver of the shelf is made of. Owns no fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import MULTI_WRITER
from precipiq_testkit.memory import MemoryDriver, MemoryEntryStore


class Fault(MemoryEntryStore):
    """A store with one fault, which its docstring names.

    ``caught_by``: the test of the suite that must fail. ``symptom``: a regular expression for what that test must
    say, searched in the failing line and its explanation.
    """

    caught_by: ClassVar[str]
    symptom: ClassVar[str]
    capabilities: ClassVar[frozenset[str]] = frozenset((MULTI_WRITER,))

    def _all(self) -> Sequence[Entry]:
        """The entries of every chain, mixed up."""
        return [entry for entries in self._data.entries.values() for entry in entries]

    def _of_organisation(self, chain: Chain) -> list[Entry]:
        return [entry for entry in self._all() if entry.chain.org_id == chain.org_id]


class BrokenDriver(MemoryDriver):
    """Opens stores with that fault."""

    def __init__(self, fault: type[Fault]) -> None:
        super().__init__(fault)
        self.name = fault.__name__
        self.capabilities = fault.capabilities
