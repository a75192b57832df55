"""The checking itself: in a thread for a short stretch, in a patient process of its own for a long one."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog

from precipiq_chain.verify import Anchor, Stretch, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_macs.entry_macs import MacCheck
from precipiq_work.child_process import ChildProcess, Role

_ROLE = Role(
    "a sweeping process",
    "the sweeping process did not answer; it is tried again",
    structlog.get_logger("precipiq.ledger"),
)
_SILENT_S_MAX = 300.0
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """A stretch that was checked, and what that cost: seconds of one core."""

    stretch: Stretch
    cpu_s: float


@dataclass(frozen=True, slots=True)
class SweepTask:
    """Checks stretches; the servant of the process."""

    auditor: EntryAuditor
    batch_entries: int

    def be_patient(self) -> None:
        """Let every other process of the machine go first."""
        with suppress(OSError):
            os.nice(_NICENESS)

    def check(self, chain: Chain, after: Anchor, through_seq: int, macs: MacCheck) -> Checked:
        """See ``verify_stretch``. ``macs`` holds a secret."""
        begin_s = time.thread_time()
        stretch = verify_stretch(self.auditor, chain, after, through_seq, batch_entries=self.batch_entries, macs=macs)
        return Checked(stretch, time.thread_time() - begin_s)


class SweepWorker:
    """Checks stretches off the event loop. ``inline_entries_max``: longer ones go to the process."""

    def __init__(self, auditor: EntryAuditor, *, batch_entries: int, inline_entries_max: int) -> None:
        self._task = SweepTask(auditor, batch_entries)
        self._inline_entries_max = inline_entries_max
        self._process: ChildProcess | None = None

    async def check(self, chain: Chain, after: Anchor, through_seq: int, macs: MacCheck) -> Checked:
        """Check the entries after ``after`` up to ``through_seq``. Raises ``Unavailable``."""
        if through_seq - after.seq <= self._inline_entries_max:
            return await asyncio.to_thread(self._task.check, chain, after, through_seq, macs)
        if self._process is None:
            self._process = ChildProcess(self._task, _ROLE, timeout_s=_SILENT_S_MAX)
            await self._process.call("be_patient")
        checked: Checked = await self._process.call("check", chain, after, through_seq, macs)
        return checked

    async def rest(self) -> None:
        """End the process; the next long stretch starts another."""
        process, self._process = self._process, None
        if process is not None:
            await process.close()
