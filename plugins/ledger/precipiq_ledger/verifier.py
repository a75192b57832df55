"""Verification off the event loop: processes for long chains, a thread for short ones, then the checkpoints."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import orjson

from precipiq_core.contracts.chain import GENESIS_HASH, Chain
from precipiq_core.contracts.entry_store import EntryAuditor
from precipiq_core.contracts.secrets import MasterKey
from precipiq_core.errors import Unavailable
from precipiq_ledger.checkpoints import CheckpointFiles, CheckpointSigner, Comparison, compare
from precipiq_ledger.verify import FILED_ELSEWHERE, GENESIS, SEQ_GAP, Anchor, Break, Stretch, anchor_at, verify_stretch
from precipiq_ledger.verify_worker import Task, decode_result

Progress = Callable[[int], None]

_WAIT_FOR_A_PLACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a chain. ``head_seq`` and ``head_hash``: its last entry as far as it held.

    ``verdict``: ``checkpointed`` (every check and at least one checkpoint held), ``unanchored`` (the chain holds, but
    nothing outside the database speaks for it) or ``failed``. ``unchecked``: sentences about what was not checked.
    """

    verdict: str
    checked_count: int
    broken: Break | None
    head_seq: int
    head_hash: str
    from_seq: int
    checkpoints: Comparison
    unchecked: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        return self.broken is None


@dataclass(frozen=True, slots=True)
class VerifierLimits:
    """See the settings ``verify_*`` and ``checkpoint_signatures_max`` of the ledger."""

    batch_entries: int
    processes: int
    inline_entries_max: int
    concurrency_max: int
    checkpoint_signatures_max: int


class Verifier:
    """Verifies chains; at most ``concurrency_max`` at a time."""

    def __init__(self, master_key: MasterKey, files: CheckpointFiles, limits: VerifierLimits) -> None:
        self._master_key = master_key
        self._files = files
        self._limits = limits
        self._places = asyncio.Semaphore(limits.concurrency_max)

    async def verify(
        self, auditor: EntryAuditor, chain: Chain, from_seq: int = 1, progress: Progress = lambda _: None
    ) -> Verdict:
        """Check the chain from ``from_seq`` to its end. ``progress``: told how many more entries were checked.

        Raises ``Unavailable`` when too many verifications run, or one could not be carried out.
        """
        try:
            async with asyncio.timeout(_WAIT_FOR_A_PLACE_S):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable("too many verifications are running; try again", retry_after_s=10) from None
        try:
            return await self._verify(auditor, chain, from_seq, progress)
        finally:
            self._places.release()

    async def _verify(self, auditor: EntryAuditor, chain: Chain, from_seq: int, progress: Progress) -> Verdict:
        last_seq = await asyncio.to_thread(auditor.last_seq, chain)
        after = GENESIS
        if from_seq > 1:
            anchor = await asyncio.to_thread(anchor_at, auditor, chain, from_seq - 1)
            if anchor is None:
                missing = min(from_seq - 1, last_seq + 1)
                broken = Break(missing, SEQ_GAP, f"entry {missing} is missing")
                return await self._judge(auditor, chain, Stretch(0, GENESIS, broken), from_seq, last_seq)
            after = anchor
        if last_seq - after.seq <= self._limits.inline_entries_max:
            work = partial(verify_stretch, auditor, chain, after, None, batch_entries=self._limits.batch_entries)
            stretch = await asyncio.to_thread(work, progress=progress)
        else:
            stretch = await self._verify_in_processes(auditor, chain, after, last_seq, progress)
        return await self._judge(auditor, chain, stretch, from_seq, last_seq)

    async def _verify_in_processes(
        self, auditor: EntryAuditor, chain: Chain, after: Anchor, last_seq: int, progress: Progress
    ) -> Stretch:
        """Split the chain; each part takes the stored hash before it as given, which the part before it proves."""
        starts = await self._starts(auditor, chain, after, last_seq)
        ends = [start.seq for start in starts[1:]]
        tasks = [
            asyncio.ensure_future(_run_worker(Task(auditor, chain, start, end, self._limits.batch_entries), progress))
            for start, end in zip(starts, [*ends, None], strict=True)
        ]
        try:
            stretches = [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return join_stretches(starts, stretches)

    async def _starts(self, auditor: EntryAuditor, chain: Chain, after: Anchor, last_seq: int) -> list[Anchor]:
        starts = [after]
        parts = self._limits.processes
        for part in range(1, parts):
            seq = after.seq + (last_seq - after.seq) * part // parts
            start = await asyncio.to_thread(anchor_at, auditor, chain, seq)
            if start is not None and start.seq > starts[-1].seq:
                starts.append(start)
        return starts

    async def _judge(
        self, auditor: EntryAuditor, chain: Chain, stretch: Stretch, from_seq: int, last_seq: int
    ) -> Verdict:
        broken = stretch.broken
        if broken is None and stretch.last.seq < last_seq:
            missing = stretch.last.seq + 1
            broken = Break(missing, SEQ_GAP, f"entry {missing} cannot be read, though the store counts to {last_seq}")
        if broken is None:
            stray = await asyncio.to_thread(auditor.stray, chain)
            if stray is not None:
                broken = Break(stray[0], FILED_ELSEWHERE, stray[1])
        checked_to = stretch.last.seq
        if broken is None:
            work = partial(compare, self._files, CheckpointSigner(self._master_key), auditor, chain, checked_to)
            comparison = await asyncio.to_thread(work, signatures_max=self._limits.checkpoint_signatures_max)
            broken = comparison.broken
        else:
            comparison = Comparison(0, 0, None, None)
        anchored = comparison.newest_seq is not None
        verdict = "failed" if broken is not None else "checkpointed" if anchored else "unanchored"
        head_hash = stretch.last.hash if checked_to else GENESIS_HASH
        unchecked = tuple(_unchecked(from_seq, checked_to, comparison, broken))
        return Verdict(verdict, stretch.checked_count, broken, checked_to, head_hash, from_seq, comparison, unchecked)


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


def _unchecked(from_seq: int, checked_to: int, comparison: Comparison, broken: Break | None) -> list[str]:
    if broken is not None:
        return [f"whatever comes after entry {broken.seq}"]
    sentences = []
    if from_seq > 1:
        sentences.append(f"the entries before {from_seq}, whose last hash was taken as given")
    if comparison.newest_seq is None:
        sentences.append("whether the whole chain was replaced: no checkpoint of it is held outside the database")
    elif comparison.newest_seq < checked_to:
        sentences.append(f"whether entries after {comparison.newest_seq} were rewritten: no checkpoint is newer")
    if comparison.signatures_checked_count < comparison.compared_count:
        count = comparison.compared_count - comparison.signatures_checked_count
        sentences.append(f"the signatures of {count} checkpoints (older ones, or by another key)")
    return sentences


async def _run_worker(task: Task, progress: Progress) -> Stretch:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "precipiq_ledger.verify_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(pickle.dumps(task))
        await process.stdin.drain()
        async for line in process.stdout:
            message = orjson.loads(line)
            if "result" in message:
                return decode_result(message["result"])
            progress(message["checked"])
    except (OSError, orjson.JSONDecodeError):
        pass
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
    raise Unavailable("a verifying process ended without a result; try again")
