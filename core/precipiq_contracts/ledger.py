"""The ledger as other plugins see it: append drafts, read entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.entry_store import Appended, EntryAuditor, EntryReader


class Ledger(EntryReader, Protocol):
    """Capability: the chains of this deployment. Provided by the plugin ``ledger``."""

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> Appended:
        """Seal and store drafts, all or none; durable on return.

        Raises ``ValidationFailed`` (no canonical JSON, unknown kind, too large, texts beyond the bounds of
        ``entry_store``), ``IdempotencyConflict`` (a known key with other content) and ``Unavailable``.
        """
        ...

    async def redact(self, chain: Chain, entry_id: str, kind: str, reason: str, actor: str) -> Entry:
        """Erase the payload of the entry with that id and kind; returns the redaction entry.

        Raises ``NotFound``, ``Conflict`` (there is no payload, or it was erased before) and ``Unavailable``.
        """
        ...

    async def first_unauthentic(self, chain: Chain, entries: Sequence[Entry]) -> Entry | None:
        """The first of these entries of that chain that no sealer of this deployment made, by their hashes and MACs.

        Raises ``Unavailable``.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first fault of a chain: its place, a stable code, a sentence. ``id``: the entry's, if it has one."""

    seq: int
    code: str
    reason: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointComparison:
    """A chain and its checkpoints. ``newest_*``: of the newest confirming a checked entry; ``broken``: what fails."""

    compared_count: int
    signatures_checked_count: int
    newest_seq: int | None
    broken: ChainBreak | None
    newest_time: str | None = None
    findings: tuple[ChainBreak, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """The result of verifying a range of a chain. ``head_seq`` and ``head_hash``: its last valid entry.

    ``verdict``: ``checkpointed``, ``unanchored``, ``could_not_check`` (nothing was checked), ``failed``. ``findings``:
    the gravest first. ``unchecked``: sentences about omitted checks. ``exempt_through``: see ``MacCheck``.
    """

    verdict: str
    checked_count: int
    broken: ChainBreak | None
    head_seq: int
    head_hash: str
    from_seq: int
    checkpoints: CheckpointComparison
    unchecked: tuple[str, ...]
    findings: tuple[ChainBreak, ...] = ()
    exempt_through: int = 0

    @property
    def is_valid(self) -> bool | None:
        return None if self.verdict == "could_not_check" else self.broken is None


class ChainAudit(Protocol):
    """Capability: the chains as they are stored, for proofs. Provided by the plugin ``ledger``."""

    def auditor(self) -> EntryAuditor:
        """Raw reading, usable in another process."""
        ...

    def known_break(self, chain: Chain) -> ChainBreak | None:
        """The fault that the continual verification found in that chain, until it is gone. Costs nothing."""
        ...

    def describe(self, verdict: ChainVerdict, at_us: int) -> Mapping[str, object]:
        """The verdict's grade as JSON, see ``docs/api.md``; with ages at that time, microseconds since the epoch."""
        ...

    async def verify(
        self,
        chain: Chain,
        from_seq: int = 1,
        through_seq: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> ChainVerdict:
        """Check the entries ``from_seq`` to ``through_seq`` (None: to the end). Raises ``Unavailable``.

        ``progress``: called with the number of entries checked since the last call.
        """
        ...
