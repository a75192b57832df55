"""The entry store: the seam that drivers implement. High level, so that each driver acts natively; no SQL here.

MUST and MAY are used as in RFC 2119. ``precipiq_testkit.entry_store`` tests every MUST; a driver's own tests cover
the faults that only an intruder in the store can cause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft

Seal: TypeAlias = Callable[[Head | None, Sequence[PreparedDraft]], Sequence[Entry]]
"""Seals drafts after that head (None: empty chain). Pure, synchronous, short. An exception aborts the append.

A driver MAY call it in any thread, and the seals of several appends at the same time. It MAY call one more than once,
first with a guessed head: only the last call counts. So it MUST NOT call the seal of one append twice at the same
time, and MUST NOT call it once that append has returned or raised; an append whose caller was cancelled MAY go on.
"""

MULTI_WRITER = "multi_writer"
"""Capability: several processes may append to one chain at the same time."""

PHYSICAL_ERASURE = "physical_erasure"
"""Capability: erased data is in no file any more.

Once ``redact`` has returned, the payload and its salt MUST NOT be in any file of the store. While a read that began
earlier is under way they MAY stay; the open store MUST remove them soon after that read has ended. The operator is
responsible for the storage beneath the files (freed blocks, snapshots, backups).
"""

IDEMPOTENCY_KEY_BYTES_MAX = 2048
"""An ``external_id`` of 255 emoji is 1,020 bytes; writers of keys put names before it."""

ORG_ID_BYTES_MAX = 64
KIND_BYTES_MAX = 64
ACTOR_BYTES_MAX = 255
NAME_BYTES_MAX = 1020
"""A text of the body that ``find`` compares: 255 characters of four bytes each."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an append: an entry per draft, in the drafts' order. ``created[i]`` is False for a replayed one."""

    entries: tuple[Entry, ...]
    created: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """Which entries to find; all conditions hold at once.

    ``kind``: exact kind. ``body``: body fields that equal these strings. ``metadata``: keys of the payload's
    ``metadata`` object and the JSON scalar's text (a string's own text, ``true``, ``null``, a number as stored).
    ``start_us`` (inclusive) and ``end_us`` (exclusive): microseconds since the epoch.
    """

    kind: str
    body: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class EntryPage:
    """A page of found entries, newest first. ``next_before_seq``: for the next page, None at the end.

    A page MAY hold fewer entries than ``limit``, even none, while ``next_before_seq`` is set: a driver bounds the
    work of one call.
    """

    entries: tuple[Entry, ...]
    next_before_seq: int | None


@dataclass(frozen=True, slots=True)
class AuditBatch:
    """Consecutive entries as the store holds them, unchecked, column by column (all of one length).

    ``problem``: the index of the first row one of whose other stored columns contradicts its statement or is damaged,
    and a sentence about it; None when the driver found no fault.
    """

    seqs: Sequence[int]
    hashes: Sequence[str]
    statements: Sequence[bytes]
    payloads: Sequence[bytes | None]
    macs: Sequence[str | None]
    problem: tuple[int, str] | None = None


class EntryAuditor(Protocol):
    """Raw reading for verification. MUST be picklable: verification runs it in processes of its own, synchronously.

    MUST NOT repair, skip or reinterpret anything: verification cannot find a fault that the auditor hides.
    """

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """Every row filed under the chain with ``after_seq`` < seq <= ``through_seq``, by seq, ``size`` a batch.

        After 0 that MUST include rows that an intruder filed below 1, and through None those whose seq is no number.
        """
        ...

    def last_seq(self, chain: Chain) -> int:
        """The highest seq filed under the chain; 0 when there is none."""
        ...

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        """The stored hash at each of these seqs, in their order; None where there is no entry."""
        ...

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        """Statement and MAC of each redaction entry that names one of these seqs."""
        ...

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """An entry whose statement names this chain but that is filed under another: its seq, and that place."""
        ...


class EntryReader(Protocol):
    """One chain's entries, for callers that may see that chain alone. ``Ledger`` and ``EntryStore`` extend it."""

    async def head(self, chain: Chain) -> Head | None:
        """The chain's last entry, or None. MUST reflect every append that has returned."""
        ...

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """Up to ``limit`` entries with seq > ``after_seq``, oldest first. A ledger MAY give fewer. No gaps."""
        ...

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """The entry with that id in that chain; None also for an id of another chain, or a text that is no id."""
        ...

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """Entries that match, newest first, with seq < ``before_seq`` when that is given."""
        ...

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """Which redaction entry erased which: by each of these seqs that one names (``target_seq``), the entry's id.

        MUST reflect every redaction that has returned.
        """
        ...

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Wake-ups after appends to that chain. May be spurious, MUST NOT be missed, never carries an entry."""
        ...


class EntryStore(EntryReader, Protocol):
    """The entries of all chains of a deployment. Every method may be called from many tasks at once.

    A driver MUST store, and distinguish, texts of every length up to the bounds above. Bounds are in bytes of UTF-8;
    a text may hold any character but NUL; a kind is ASCII. The ledger refuses longer texts.

    Every method raises ``Unavailable`` when the store cannot answer now; nothing was changed then, unless an append's
    outcome is unknown; the message then says so.
    """

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        """Seal and store drafts, all or none.

        MUST call ``seal``, last, with the chain's true head and only those drafts whose idempotency key is new (in
        order; a key that occurs twice among the drafts counts as known the second time; it MAY leave the call out when
        none is new and it has not called it), while no other append to that chain can intervene; MUST store exactly
        the entries that this call returns; MUST give back each entry's MAC, or its absence, wherever it gives the
        entry; MUST be durable (it survives a power cut) before it returns, also when it stores nothing new; MUST NOT
        store anything when ``seal`` raises, and let that error through. A draft with a known key MUST be answered with
        the stored entry. MAY group concurrent appends into one transaction.
        """
        ...

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        """Append the redaction entry, then drop the target's payload and salt; returns the redaction entry.

        MUST NOT drop the payload before the redaction entry is durable; both MUST be durable before it returns. A
        second call with the same idempotency key MUST return the first redaction and drop the payload if it is still
        there.
        """
        ...

    def chains(self) -> AsyncIterator[Chain]:
        """Every chain that has an entry. For the operator's work (checkpoints), never for a tenant's request."""
        ...

    def auditor(self) -> EntryAuditor:
        """Raw reading for verification, usable in another process."""
        ...

    async def ping(self) -> None:
        """Raises ``Unavailable`` when the store cannot serve."""
        ...


@runtime_checkable
class UpgradingStore(Protocol):
    """An ``EntryStore`` to which servers from before the sealer's MACs can append until an upgrade is over."""

    async def is_upgrade_over(self) -> bool: ...


class EntryStoreDriver(Protocol):
    """A value of the hook ``entry_store_drivers``: opens an entry store.

    A driver that keeps its entries in tables of the deployment's database MAY have a sequence ``migrations`` of
    ``precipiq_contracts.database.Migration``: the ledger contributes those of the driver that the deployment uses.
    """

    name: str
    """Unique; the deployment names it."""

    capabilities: frozenset[str]
    """Declared extras, such as ``multi_writer``."""

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        """Open the store for the life of the application. Raises ``Unavailable`` with a reason for the operator."""
        ...
