"""Verification off the event loop: processes for long chains, a thread for short ones, then the checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from precipiq_chain.verify import FILED_ELSEWHERE, GENESIS, SEQ_GAP, Anchor, Stretch, anchor_at, verify_stretch
from precipiq_contracts.chain import GENESIS_HASH, Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.errors import InternalError, Unavailable, ValidationFailed
from precipiq_contracts.ledger import ChainBreak, ChainVerdict, CheckpointComparison
from precipiq_contracts.vault import MasterKey
from precipiq_ledger import omissions
from precipiq_ledger.anchors import AnchorAge, Compared, Evidence, compare
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoint_manifest import CheckpointManifest
from precipiq_ledger.checkpoints import CheckpointSigner
from precipiq_ledger.clock_watch import ClockWatch
from precipiq_ledger.grading import CHECKED_ZERO, first_failing, grade
from precipiq_ledger.sweep_memory import Seen, with_memory
from precipiq_ledger.verify_worker import Task
from precipiq_macs.entry_macs import PURPOSE, MacCheck
from precipiq_work.child_process import ChildProcess, Role
from precipiq_work.turns import Turns

Progress = Callable[[int], None]

_WAIT_FOR_A_TURN_S = 4.0  # before a late answer has begun with a status 200, beyond which it cannot be refused
_FULL = "too many verifications are waiting; try again"
_SILENT_S_MAX = 600.0
_ROLE = Role(
    "a verifying process",
    "a verifying process ended without a result; try again",
    structlog.get_logger("precipiq.ledger"),
)


@dataclass(frozen=True, slots=True)
class VerifierLimits:
    """See the settings ``verify_*`` and ``checkpoint_signatures_max`` of the ledger."""

    batch_entries: int
    processes: int
    inline_entries_max: int
    concurrency_max: int
    checkpoint_signatures_max: int
    waiting_max: int = 100


@dataclass(frozen=True, slots=True)
class _Range:
    """The range of a request. ``through_seq``: None for the chain's end."""

    auditor: EntryAuditor
    chain: Chain
    from_seq: int
    through_seq: int | None

    def last_of(self, last_seq: int) -> int:
        """The last entry to check in a chain that ends with ``last_seq``."""
        return last_seq if self.through_seq is None else min(self.through_seq, last_seq)


class Verifier:
    """Verifies chains; at most ``concurrency_max`` at a time. No organisation, and no ``test``, ever has all places.

    ``check_of``: gives the check of a chain's MACs; by itself, every entry must have one. ``remembered``: see
    ``SweepMemory``.
    """

    def __init__(
        self,
        master_key: MasterKey,
        files: CheckpointFiles,
        limits: VerifierLimits,
        watch: ClockWatch | None = None,
        age: AnchorAge | None = None,
        check_of: Callable[[Chain], Awaitable[MacCheck]] | None = None,
    ) -> None:
        """``age``: None to judge neither the age of anchors nor the manifest of their folder."""
        self.check_of = check_of or self._check_all
        self.remembered: Callable[[], Mapping[Chain, Seen]] = dict
        self._master_key = master_key
        self._age = age
        self._kept: Evidence | None = None
        self._watch = watch
        self._files = files
        self._limits = limits
        self._turns = Turns(limits.concurrency_max, limits.waiting_max, _FULL, kept_free=1)

    async def verify(
        self,
        auditor: EntryAuditor,
        chain: Chain,
        from_seq: int = 1,
        through_seq: int | None = None,
        progress: Progress = lambda _: None,
        *,
        is_ours: bool = False,
    ) -> ChainVerdict:
        """Check the chain from ``from_seq`` to ``through_seq`` (None: its end).

        ``progress`` is called with each number of entries checked. ``is_ours``: the server asks, and
        waits behind nobody who asks about that chain: a crowd of questions must not hide a fault from the sweep.
        Raises ``Unavailable`` when too many verifications run, or when this one cannot be carried out,
        ``ValidationFailed`` when a chain that is checked to its end ends before ``from_seq``, and no checkpoint names a
        later entry. A chain or range without an entry is no success: ``CHECKED_ZERO``, or ``ORG_MISSING``.
        """
        turn = None if is_ours else chain
        try:
            async with asyncio.timeout(_WAIT_FOR_A_TURN_S):
                await self._turns.take(turn)
        except TimeoutError:
            raise Unavailable("too many verifications are running; try again", retry_after_s=10) from None
        try:
            return await self._verify(_Range(auditor, chain, from_seq, through_seq), progress)
        finally:
            self._turns.give_back(turn)

    async def _check_all(self, chain: Chain) -> MacCheck:
        return MacCheck(await asyncio.to_thread(self._master_key.derive, PURPOSE))

    async def _verify(self, asked: _Range, progress: Progress) -> ChainVerdict:
        macs = await self.check_of(asked.chain)
        auditor, chain, from_seq = asked.auditor, asked.chain, asked.from_seq
        last_seq = await asyncio.to_thread(auditor.last_seq, chain)
        after = GENESIS
        if asked.through_seq is None and from_seq > max(last_seq, 1):
            return await self._judge_beyond(asked, last_seq, macs)
        if from_seq > 1:
            anchor = await asyncio.to_thread(anchor_at, auditor, chain, from_seq - 1)
            if anchor is None:
                missing = min(from_seq - 1, last_seq + 1)
                broken = ChainBreak(missing, SEQ_GAP, f"entry {missing} is missing")
                return await self._judge(asked, Stretch(0, GENESIS, broken), last_seq, macs)
            after = anchor
        if asked.last_of(last_seq) - after.seq <= self._limits.inline_entries_max:
            batch_entries = self._limits.batch_entries
            work = partial(verify_stretch, auditor, chain, after, asked.through_seq, batch_entries=batch_entries)
            stretch = await asyncio.to_thread(work, progress=progress, macs=macs)
        else:
            stretch = await self._verify_in_processes(asked, after, last_seq, macs, progress)
        return await self._judge(asked, stretch, last_seq, macs)

    async def _judge_beyond(self, asked: _Range, last_seq: int, macs: MacCheck) -> ChainVerdict:
        """A range behind the chain's end is no break; a checkpoint from there is."""
        broken = (await self._compare(asked, last_seq, range(0))).comparison.broken
        if broken is None:
            raise ValidationFailed(details={"from_seq": [f"is beyond the chain's last entry, {last_seq}"]})
        return await self._judge(asked, Stretch(0, GENESIS, broken), last_seq, macs)

    async def _compare(self, asked: _Range, ends_at: int, checked: range) -> Compared:
        work = partial(compare, self._evidence(), asked.auditor, asked.chain, ends_at, checked)
        try:
            compared = await asyncio.to_thread(work)
        except OSError as error:
            raise Unavailable(f"the checkpoints cannot be read: {error.strerror}") from error
        seen = (await asyncio.to_thread(self.remembered)).get(asked.chain)
        if compared.comparison.broken is not None or seen is None:
            return compared
        [stored] = await asyncio.to_thread(asked.auditor.hashes_at, asked.chain, [seen.seq])
        return with_memory(compared, seen, ends_at, stored)

    def _evidence(self) -> Evidence:
        """Made when it is first asked for: a deployment that is only checked reads no master key."""
        if self._kept is None:
            signer = CheckpointSigner(self._master_key)
            manifest = None if self._age is None else CheckpointManifest(self._files, signer, self._age.clock)
            self._kept = Evidence(self._files, signer, self._limits.checkpoint_signatures_max, manifest, self._age)
        return self._kept

    async def compare_with_checkpoints(self, auditor: EntryAuditor, chain: Chain, ends_at: int) -> Compared:
        """A chain, checked up to ``ends_at``, and its checkpoints."""
        return await self._compare(_Range(auditor, chain, 1, None), ends_at, range(1, ends_at + 1))

    def checkpointed_chains(self) -> set[Chain]:
        """The chains that have a checkpoint, or had one, whether the store knows them or not."""
        manifest = self._evidence().manifest
        return self._files.chains() | (set() if manifest is None else manifest.chains())

    async def _verify_in_processes(
        self, asked: _Range, after: Anchor, last_seq: int, macs: MacCheck, progress: Progress
    ) -> Stretch:
        """Split the range; each part trusts the stored hash before it, which the previous part proves."""
        auditor, chain = asked.auditor, asked.chain
        starts = await self._starts(asked, after, last_seq)
        ends = [*(start.seq for start in starts[1:]), asked.through_seq]
        tasks = [
            asyncio.ensure_future(
                _run_worker(Task(auditor, chain, start, end, self._limits.batch_entries), macs, progress)
            )
            for start, end in zip(starts, ends, strict=True)
        ]
        try:
            stretches = [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return join_stretches(starts, stretches)

    async def _starts(self, asked: _Range, after: Anchor, last_seq: int) -> list[Anchor]:
        starts = [after]
        parts = self._limits.processes
        for part in range(1, parts):
            seq = after.seq + (asked.last_of(last_seq) - after.seq) * part // parts
            start = await asyncio.to_thread(anchor_at, asked.auditor, asked.chain, seq)
            if start is not None and start.seq > starts[-1].seq:
                starts.append(start)
        return starts

    async def _judge(self, asked: _Range, stretch: Stretch, last_seq: int, macs: MacCheck) -> ChainVerdict:
        auditor, chain = asked.auditor, asked.chain
        broken = stretch.broken
        if broken is None and stretch.last.seq < asked.last_of(last_seq):
            missing = stretch.last.seq + 1
            reason = f"entry {missing} cannot be read, though the store counts to {last_seq}"
            broken = ChainBreak(missing, SEQ_GAP, reason)
        if broken is None:
            stray = await asyncio.to_thread(auditor.stray, chain)
            if stray is not None:
                broken = ChainBreak(stray[0], FILED_ELSEWHERE, stray[1])
        checked_to = stretch.last.seq
        checked = range(asked.from_seq, checked_to + 1)
        if broken is None:
            ends_at = checked_to if asked.through_seq is None else max(checked_to, last_seq)
            compared = await self._compare(asked, ends_at, checked)
            findings = compared.comparison.findings
        else:
            compared = Compared(CheckpointComparison(0, 0, None, None), ())
            findings = (broken,)
        broken = first_failing(findings)
        if broken is None and not stretch.checked_count:
            reason = omissions.nothing(chain, asked.from_seq, asked.through_seq)
            findings = (*findings, ChainBreak(asked.from_seq, CHECKED_ZERO, reason))
        comparison = compared.comparison
        unchecked = None if broken is None else omissions.after_break(broken)
        if unchecked is None:
            ranged = omissions.of_range(range(checked.start, asked.last_of(last_seq) + 1), last_seq)
            unchecked = [*ranged, *omissions.of_anchors(checked, comparison), *compared.unchecked]
        doubt = self._watch.doubt(checked_to, stretch.last.timestamp) if self._watch and checked_to else None
        return ChainVerdict(
            grade(findings, comparison.newest_seq),
            stretch.checked_count,
            broken,
            checked_to,
            stretch.last.hash if checked_to else GENESIS_HASH,
            asked.from_seq,
            comparison,
            (*unchecked, *omissions.of_macs(macs, checked), *([] if doubt is None else [doubt])),
            findings,
            macs.exempt_through,
        )


def join_stretches(starts: Sequence[Anchor], stretches: Sequence[Stretch]) -> Stretch:
    """The first break of consecutive stretches, or the whole as one."""
    count = 0
    last = starts[0]
    for start, stretch in zip(starts, stretches, strict=True):
        count += stretch.checked_count
        if stretch.checked_count:
            last = stretch.last
        if stretch.broken is not None:
            return Stretch(count, last if last.seq >= start.seq else start, stretch.broken)
    return Stretch(count, last, None)


async def _run_worker(task: Task, macs: MacCheck, progress: Progress) -> Stretch:
    try:
        stretch: Stretch = await ChildProcess(task, _ROLE, timeout_s=_SILENT_S_MAX).call_and_end(
            "verify", macs, progress=progress
        )
    except InternalError:
        raise Unavailable(_ROLE.no_answer) from None
    return stretch
