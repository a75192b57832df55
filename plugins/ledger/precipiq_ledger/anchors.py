"""What the checkpoints prove of a stored chain: which of them count as anchors, and what contradicts them.

A checkpoint is an anchor only with a valid signature of this deployment's key, for exactly this chain, and when the
chain has its hash. Everything else that stands in a chain's file, or should stand there and does not, is a finding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from precipiq_chain.verify import CHECKPOINT_FORGED, INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING, TRUNCATED, anchor_at
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, format_timestamp, parse_timestamp
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.ledger import ChainBreak, CheckpointComparison
from precipiq_ledger.checkpoint_files import CheckpointFiles, Line
from precipiq_ledger.checkpoint_manifest import CheckpointManifest, Manifest, ManifestRefused
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner
from precipiq_ledger.grading import ANCHOR_STALE, first_failing
from precipiq_macs.row_macs import KEY_UNANCHORED

WRONG_ORIGIN = "WRONG_ORIGIN"
CHECKPOINTS_LOST = "CHECKPOINTS_LOST"

_GRAVEST_FIRST = (
    ORG_MISSING,
    INCONSISTENT_WITH_CHECKPOINT,
    TRUNCATED,
    CHECKPOINT_FORGED,
    WRONG_ORIGIN,
    KEY_UNANCHORED,
    CHECKPOINTS_LOST,
    ANCHOR_STALE,
)
CODES_OF_EVIDENCE = frozenset(_GRAVEST_FIRST)
"""The codes that the checkpoints give rise to; all others are of the entries themselves."""
CODES_OF_FILES = frozenset((CHECKPOINT_FORGED, WRONG_ORIGIN, KEY_UNANCHORED, CHECKPOINTS_LOST, ANCHOR_STALE))
"""Those among them that are no fault of the chain: new checkpoints may and should be signed."""

ROUNDS_MISSED_MAX = 5
_COMPARED_AT_ONCE = 1000
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an entry may become without a checkpoint. ``now_us``: None when no server writes checkpoints here now.

    ``tried_us``: an entry since then was there for fewer rounds than it may miss; None when the rounds are not known.
    """

    stale_us: int
    now_us: int | None = None
    tried_us: int | None = None


class AnchorAge:
    """How old an entry may become without a checkpoint: ``stale_s`` and, where this process writes them, some rounds.

    Rounds and not only time, because a machine may have been asleep, its clock set, or its database away.
    """

    def __init__(self, clock: Clock, stale_s: float) -> None:
        self.clock = clock
        self._stale_us = round(stale_s * _SECOND_US)
        self._rounds: deque[int] | None = None

    def start(self) -> None:
        """From now on this process writes checkpoints."""
        self._rounds = deque(maxlen=ROUNDS_MISSED_MAX)

    def note_round(self) -> None:
        """A round looked at all chains, whether it could write or not."""
        if self._rounds is not None:
            self._rounds.append(self.clock.now_us())

    def freshness(self, manifest: CheckpointManifest) -> Freshness:
        """As it is now. Blocks."""
        now_us = self.clock.now_us()
        if self._rounds is None:
            return Freshness(self._stale_us, now_us if manifest.is_serving() else None)
        is_known = len(self._rounds) == ROUNDS_MISSED_MAX
        return Freshness(self._stale_us, now_us, self._rounds[0] if is_known else 0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is held outside of the database. ``manifest``, ``age``: None where they are not judged."""

    files: CheckpointFiles
    signer: CheckpointSigner
    signatures_max: int
    manifest: CheckpointManifest | None = None
    age: AnchorAge | None = None


@dataclass(slots=True)
class Compared:
    """A comparison, and sentences about what it left out."""

    comparison: CheckpointComparison
    unchecked: tuple[str, ...]


def compare(
    evidence: Evidence, auditor: EntryAuditor, chain: Chain, last_seq: int, checked: range | None = None
) -> Compared:
    """Compare the stored chain, which ends with ``last_seq``, with everything that is held for it. Blocks.

    ``checked``: the entries that were verified, else all; a checkpoint of no other confirms anything.
    """
    every = range(1, last_seq + 1)
    return _Comparing(evidence, auditor, chain, last_seq, every if checked is None else checked).run()


@dataclass(slots=True)
class _Comparing:
    evidence: Evidence
    auditor: EntryAuditor
    chain: Chain
    last_seq: int
    checked: range
    findings: dict[str, ChainBreak] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    compared_count: int = 0
    checked_count: int = 0
    newest: Checkpoint | None = None
    confirming: Checkpoint | None = None

    def run(self) -> Compared:
        self._compare_lines()
        manifest = self._compare_manifest()
        age, kept = self.evidence.age, self.evidence.manifest
        if not self.last_seq and (self.newest is not None or TRUNCATED in self.findings):
            self._find(ChainBreak(1, ORG_MISSING, "checkpoints know this chain, and the database has no entry of it"))
        if not self.findings and age is not None and kept is not None:
            self._judge_age(age.freshness(kept), manifest)
        findings = tuple(self.findings[code] for code in _GRAVEST_FIRST if code in self.findings)
        newest = (None, None) if self.confirming is None else (self.confirming.seq, self.confirming.time)
        counts = self.compared_count, self.checked_count
        comparison = CheckpointComparison(*counts, newest[0], first_failing(findings), newest[1], findings)
        return Compared(comparison, tuple(self.unchecked))

    def _find(self, broken: ChainBreak | None) -> None:
        """Of each code the first counts."""
        if broken is not None:
            self.findings.setdefault(broken.code, broken)

    def _compare_lines(self) -> None:
        """Check the newest signatures; of the older ones only what they say, which is no anchor."""
        newest: deque[Checkpoint] = deque()
        older: list[Checkpoint] = []
        older_count = 0
        for line in self.evidence.files.read(self.chain):
            checkpoint = self._admit(line)
            if checkpoint is None:
                continue
            newest.append(checkpoint)
            if len(newest) > self.evidence.signatures_max:
                older.append(newest.popleft())
                older_count += 1
            if len(older) == _COMPARED_AT_ONCE:
                self._compare_some(older)
                older = []
        self._compare_some(older)
        if older_count:
            self.unchecked.append(
                f"the signatures of {older_count} checkpoints that are older than the newest "
                f"{self.evidence.signatures_max}: they count as no anchor"
            )
        held = [checkpoint for checkpoint in newest if self._is_signed(checkpoint)]
        for start in range(0, len(held), _COMPARED_AT_ONCE):
            matching = self._compare_some(held[start : start + _COMPARED_AT_ONCE])
            self.newest = _newest(self.newest, matching)
            self.confirming = _newest(self.confirming, [each for each in matching if each.seq in self.checked])

    def _admit(self, line: Line) -> Checkpoint | None:
        """The checkpoint in a line, if it is about this chain and by this key; everything else is a finding."""
        checkpoint = line.checkpoint
        if line.is_torn:
            self.unchecked.append(f"line {line.number} of the checkpoint file, which was not written to its end")
            return None
        if checkpoint is None:
            reason = f"line {line.number} of the checkpoint file is no checkpoint"
            self._find(ChainBreak(max(self.last_seq, 1), CHECKPOINT_FORGED, reason))
            return None
        if checkpoint.chain != self.chain:
            reason = f"line {line.number} of the checkpoint file is about another chain"
            self._find(ChainBreak(checkpoint.seq, WRONG_ORIGIN, reason))
            return None
        if checkpoint.key_id != self.evidence.signer.key_id:
            reason = (
                f"line {line.number} of the checkpoint file is signed by another key, {checkpoint.key_id}, "
                f"than this deployment's, {self.evidence.signer.key_id}"
            )
            self._find(ChainBreak(checkpoint.seq, KEY_UNANCHORED, reason))
            return None
        return checkpoint

    def _is_signed(self, checkpoint: Checkpoint) -> bool:
        self.checked_count += 1
        if self.evidence.signer.holds(checkpoint):
            return True
        reason = f"the checkpoint of {checkpoint.time} at entry {checkpoint.seq} has a wrong signature"
        self._find(ChainBreak(checkpoint.seq, CHECKPOINT_FORGED, reason))
        self.compared_count += 1
        return False

    def _compare_some(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Those that the stored chain confirms."""
        if not checkpoints:
            return []
        self.compared_count += len(checkpoints)
        hashes = self.auditor.hashes_at(self.chain, [checkpoint.seq for checkpoint in checkpoints])
        matching = []
        for checkpoint, stored in zip(checkpoints, hashes, strict=True):
            broken = self._compare_one(f"the checkpoint of {checkpoint.time}", checkpoint.seq, checkpoint.hash, stored)
            self._find(broken)
            if broken is None:
                matching.append(checkpoint)
        return matching

    def _compare_one(self, seen: str, seq: int, expected: str, stored: str | None) -> ChainBreak | None:
        if stored is None and seq > self.last_seq:
            reason = (
                f"{seen} saw entry {seq}, but the chain ends at {self.last_seq}: "
                "its tail was cut or an old copy restored"
            )
            return ChainBreak(self.last_seq + 1, TRUNCATED, reason)
        if stored != expected:
            reason = f"{seen} saw another entry {seq}: the chain was rewritten at or before it"
            return ChainBreak(seq, INCONSISTENT_WITH_CHECKPOINT, reason)
        return None

    def _compare_manifest(self) -> Manifest | None:
        """The chain's file with the manifest, and the chain with what is on record there."""
        if self.evidence.manifest is None:
            return None
        try:
            manifest = self.evidence.manifest.read()
        except ManifestRefused as error:
            code = KEY_UNANCHORED if error.is_foreign else CHECKPOINT_FORGED
            self._find(ChainBreak(max(self.last_seq, 1), code, f"the manifest of the checkpoints is refused: {error}"))
            return None
        if manifest is None:
            if self.compared_count:
                self.unchecked.append("whether checkpoints were removed: their folder has no manifest")
            return None
        record = manifest.records.get(self.chain)
        if record is None:
            return manifest
        seen = f"the checkpoint of {format_timestamp(record.signed_us)}"
        [stored] = self.auditor.hashes_at(self.chain, [record.seq])
        self._find(self._compare_one(seen, record.seq, record.hash, stored))
        lost_seq = record.lost_seq or (0 if self.evidence.manifest.is_held(self.chain, record) else record.seq)
        if lost_seq:
            reason = f"the file of checkpoints was removed or cut: a checkpoint of entry {lost_seq} is no longer in it"
            self._find(ChainBreak(lost_seq, CHECKPOINTS_LOST, reason))
        return manifest

    def _judge_age(self, freshness: Freshness, manifest: Manifest | None) -> None:
        """A finding when an entry waits for a checkpoint for longer than it should.

        Only time counts in which a server could write one: since the entry came and a server started, until now while
        one serves, or else until one last wrote checkpoints. Without a manifest nobody knows that, and the entries'
        own times decide.
        """
        first_seq = 1 if self.newest is None else self.newest.seq + 1
        if first_seq > self.last_seq:
            return
        since_us, last_us = self._time_at(first_seq), self._time_at(self.last_seq)
        if since_us is None or last_us is None:
            return
        if freshness.tried_us is not None and since_us >= freshness.tried_us:
            return
        if freshness.now_us is not None:
            until_us = freshness.now_us
        else:
            until_us = last_us if manifest is None else manifest.written_us
        started_us = 0 if manifest is None else manifest.started_us
        waits_us = until_us - max(since_us, started_us)
        if waits_us > freshness.stale_us:
            which = "no checkpoint of this chain counts" if self.newest is None else "no checkpoint is newer"
            reason = f"entry {first_seq} is without a checkpoint for {waits_us // _SECOND_US} s: {which}"
            self._find(ChainBreak(first_seq, ANCHOR_STALE, reason))

    def _time_at(self, seq: int) -> int | None:
        found = anchor_at(self.auditor, self.chain, seq)
        try:
            return None if found is None else parse_timestamp(found.timestamp)
        except ValueError:
            return None


def _newest(known: Checkpoint | None, others: Sequence[Checkpoint]) -> Checkpoint | None:
    return max([*others, *([known] if known else [])], key=lambda checkpoint: checkpoint.seq, default=None)
