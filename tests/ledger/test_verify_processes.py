"""The processes that verify: what becomes of them and of their server when one of both dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import Unavailable
from precipiq_core.master_key import derive_key
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.verifier import Verifier, VerifierLimits

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
IN_PROCESSES = VerifierLimits(3, 2, 0, 2, 100)


class KnownKey:
    """A master key that every process knows."""

    def derive(self, purpose: str) -> bytes:
        return derive_key("k" * 32, purpose)


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


@dataclass(frozen=True, slots=True)
class Suicidal:
    """An auditor whose verifying process is killed, as by the kernel when memory runs out."""

    mark: Path

    def last_seq(self, chain: Chain) -> int:
        return 10

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        if size == 1:  # an anchor, asked for in this process
            return
        self.mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
        yield AuditBatch([], [], [], [], [])


async def test_a_verifying_process_that_is_killed_is_no_verdict(
    files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = Path(__file__).stem  # under which the process finds the class
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(Suicidal, "__module__", name)
    monkeypatch.setitem(sys.modules, name, sys.modules[__name__])
    verifier = Verifier(KnownKey(), files, IN_PROCESSES)
    async with asyncio.timeout(60):
        for _ in range(3):  # the places are given back
            with pytest.raises(Unavailable, match="without a result"):
                await verifier.verify(Suicidal(tmp_path / "reached"), CHAIN)  # type: ignore[arg-type]
    assert (tmp_path / "reached").exists()


@dataclass(frozen=True, slots=True)
class Slow:
    """An auditor that takes longer than its server lives."""

    mark: Path

    def last_seq(self, chain: Chain) -> int:
        return 10

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        if size == 1:
            return
        self.mark.write_text(str(os.getpid()))
        time.sleep(3600)
        yield AuditBatch([], [], [], [], [])


SERVER = """
import asyncio, sys
from pathlib import Path
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.verifier import Verifier
from test_verify_processes import CHAIN, IN_PROCESSES, Slow, KnownKey

folder = Path(sys.argv[1])
verifier = Verifier(KnownKey(), CheckpointFiles(folder / "checkpoints"), IN_PROCESSES)
asyncio.run(verifier.verify(Slow(folder / "pid"), CHAIN))
"""


def test_a_verifying_process_ends_with_the_server_that_started_it(tmp_path: Path) -> None:
    """However that died: nobody closes the pipe then but the kernel."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    mark = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], env=environment) as server:
        try:
            assert becomes(lambda: mark.exists() and mark.read_text() != "")
        finally:
            server.kill()
    assert becomes(lambda: not is_there(int(mark.read_text())))


def becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()
