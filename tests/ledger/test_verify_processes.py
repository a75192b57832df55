"""The processes that verify: what becomes of them and of their server when one of both dies."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from precipiq_chain.verify import GENESIS
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import Unavailable
from precipiq_core.secrets import HkdfMasterKey
from precipiq_ledger import verify_worker
from precipiq_ledger.checkpoints import CheckpointFiles
from precipiq_ledger.verifier import Verifier, VerifierLimits

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
IN_PROCESSES = VerifierLimits(3, 2, 0, 2, 100)


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
        yield AuditBatch([], [], [], [])


async def test_a_verifying_process_that_is_killed_is_no_verdict(
    files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = Path(__file__).stem  # under which the process finds the class
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(Suicidal, "__module__", name)
    monkeypatch.setitem(sys.modules, name, sys.modules[__name__])
    verifier = Verifier(HkdfMasterKey("k" * 32), files, IN_PROCESSES)
    async with asyncio.timeout(60):
        for _ in range(3):  # the places are given back
            with pytest.raises(Unavailable, match="without a result"):
                await verifier.verify(Suicidal(tmp_path / "reached"), CHAIN)  # type: ignore[arg-type]
    assert (tmp_path / "reached").exists()


SLOW_WORKER = """
import time
from precipiq_ledger import verify_worker

def verify_stretch(*arguments, **options):
    print("verifying", flush=True)
    time.sleep(60)

verify_worker.verify_stretch = verify_stretch
verify_worker.main()
"""


def test_a_verifying_process_ends_with_the_server_that_started_it() -> None:
    """However that died: nobody closes the pipe then but the kernel."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SLOW_WORKER], **pipes) as process:  # type: ignore[call-overload]
        try:
            pickle.dump(verify_worker.Task(None, CHAIN, GENESIS, None, 1), process.stdin)  # type: ignore[arg-type]
            process.stdin.flush()
            assert process.stdout.readline() == b"verifying\n"
            process.stdin.close()
            assert process.wait(10) == 1
        finally:
            process.kill()
