"""The process that writes bundles: what it writes, what it leaves behind, and that it ends with whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest
import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import InternalError, Unavailable, VaultRefused
from precipiq_exports.bundle.entries import Context
from precipiq_exports.bundle.spec import BundleSummary, BundleTask
from precipiq_exports.bundle_process import run_bundle_worker
from precipiq_exports.bundle_worker import BundleServant
from precipiq_work.child_process_main import LENGTH_BYTES, frame
from tests.effort import rounds

from .chains import MadeChain, bundle_of, key, longer, problems, sign, spec_of

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WORKER = [sys.executable, "-m", "precipiq_work.child_process_main"]
LONG = rounds(20_000, long=60_000)
GROWTH_BYTES_MAX = LONG * 1000


@pytest.fixture(scope="module")
def chain() -> MadeChain:
    made = longer(MadeChain(), 30)
    made.announce(key())
    made.erase(3)
    return made


def task_of(chain: MadeChain, path: Path, **changes: Any) -> BundleTask:
    return BundleTask(chain.auditor, spec_of(chain, key(), **changes), path)


async def signed(digest: bytes) -> bytes:
    return sign(key(), digest)


async def test_the_process_writes_the_same_bundle_as_the_writer(chain: MadeChain, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(b"left by an earlier attempt")
    path.chmod(0o644)
    done: list[int] = []
    summary = await run_bundle_worker(task_of(chain, path), signed, done.append)
    bundle = path.read_bytes()
    assert bundle == bundle_of(chain)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert summary == BundleSummary(
        32,
        {"decision": 30, "signing_key_created": 1, "redaction": 1},
        {"decisions.jsonl": 30, "decisions.csv": 30},
        len(bundle),
        sha256(bundle).hexdigest(),
        1,
        32,
    )
    assert sum(done) <= 3 * 32
    assert problems(bundle, tmp_path) == []


async def test_who_refuses_to_sign_is_heard(chain: MadeChain, tmp_path: Path) -> None:
    async def refuse(digest: bytes) -> bytes:
        raise VaultRefused

    with pytest.raises(VaultRefused):
        await run_bundle_worker(task_of(chain, tmp_path / "bundle"), refuse, lambda _: None)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An auditor of a store that cannot be read, or that kills who reads it."""

    kills: bool = False

    def batches(self, *_: Any) -> Iterator[AuditBatch]:
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Unavailable("the disk is gone")


@pytest.mark.parametrize(("auditor", "said"), [(Unreadable(), "the disk is gone"), (Unreadable(True), "ended without")])
async def test_a_store_that_cannot_be_read_and_a_killed_process_are_told(
    chain: MadeChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auditor: Any, said: str
) -> None:
    folders = [*map(str, Path(__file__).parents[1:3]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # so that the process finds the auditor's class
    task = BundleTask(auditor, spec_of(chain, key()), tmp_path / "bundle")
    with pytest.raises(Unavailable, match=said):
        await run_bundle_worker(task, signed, lambda _: None)


async def test_a_fault_is_a_line_of_the_log_and_not_a_traceback_between_its_lines(
    chain: MadeChain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = BundleTask(object(), spec_of(chain, key()), tmp_path / "bundle")  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as logs, pytest.raises(InternalError):
        await run_bundle_worker(task, signed, lambda _: None)
    assert "AttributeError" in logs[0]["exception"]
    assert capfd.readouterr().err == ""


async def test_a_folder_that_is_not_there_is_told(chain: MadeChain, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be written: No such file"):
        await run_bundle_worker(task_of(chain, tmp_path / "none" / "bundle"), signed, lambda _: None)


async def test_the_process_ends_when_its_work_is_given_up(chain: MadeChain, tmp_path: Path) -> None:
    asked = asyncio.Event()
    children: list[int] = []

    async def never(digest: bytes) -> bytes:
        children.extend(_children())
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    work = asyncio.ensure_future(run_bundle_worker(task_of(chain, tmp_path / "bundle"), never, lambda _: None))
    await asyncio.wait_for(asked.wait(), 30)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert children
    assert not set(children) & set(_children())


def _children() -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "writes a bundle"], capture_output=True, text=True)
    return list(map(int, done.stdout.split()))


def test_the_process_ends_with_its_parent(chain: MadeChain, tmp_path: Path) -> None:
    with subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        servant = BundleServant(task_of(chain, tmp_path / "bundle"))
        call = ("write", (), {"sign": True, "progress": False})
        process.stdin.write(frame(pickle.dumps(servant)) + frame(pickle.dumps(call)))
        process.stdin.flush()
        while (message := message_from(process.stdout))[0] != "asked":
            assert message[0] in ("result", "told")
        process.stdin.close()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stdout.read() == b""


def message_from(stream: IO[bytes]) -> Any:
    return pickle.loads(stream.read(int.from_bytes(stream.read(LENGTH_BYTES))))


@dataclass(frozen=True, slots=True)
class LongChain:
    """An auditor of a chain far longer than memory: the rows have the form of entries, their hashes are made up.

    Every other payload was erased, by redaction entries after the range.
    """

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        assert through_seq is not None
        for start in range(after_seq, through_seq, size):
            seqs = range(start + 1, min(start + size, through_seq) + 1)
            payloads = [PAYLOAD if seq % 2 else None for seq in seqs]
            hashes, statements = [f"{seq:064x}" for seq in seqs], [self.statement(seq) for seq in seqs]
            yield AuditBatch(seqs, hashes, statements, payloads, [None] * len(seqs))

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> list[tuple[bytes, str | None]]:
        return [(self.statement(LONG + seq, seq), None) for seq in reversed(target_seqs)]

    def statement(self, seq: int, target_seq: int | None = None) -> bytes:
        kind, body = "decision", '{"agent_id":"agent"}'
        if target_seq is not None:
            kind, body = "redaction", f'{{"target_hash":"{target_seq:064x}","target_seq":{target_seq}}}'
        return (
            f'{{"actor":"key_1","body":{body},"environment":"test","id":"{seq:08x}-0000-7000-8000-000000000000",'
            f'"kind":"{kind}","org_id":"org_alpha","payload_hash":"{seq:064x}","prev_hash":"{seq - 1:064x}",'
            f'"seq":{seq},"timestamp":"2026-01-01T00:00:00.{seq % 1_000_000:06d}Z","v":1}}'
        ).encode()


PAYLOAD = b'{"payload":{"inputs":{"text":"%b"}},"salt":"%b"}' % (b"0123456789 " * 90, b"0" * 32)

MEMORY = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.exports.chains import MadeChain, key, sign, spec_of
from tests.exports.test_bundle_worker import LONG, LongChain
from precipiq_exports.bundle.writer import write_bundle

def peak_kib():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

with Path(sys.argv[1]).open("wb") as out:
    spec = spec_of(MadeChain(), key(), through_seq=LONG, batch_entries=1000, compression_level=1)
    before_kib = peak_kib()
    summary = write_bundle(LongChain(), spec, out, lambda digest: sign(key(), digest))
print(json.dumps([summary.entries_count, before_kib, peak_kib()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_chain(tmp_path: Path) -> None:
    """By the process's own peak: what ``getrusage`` tells includes that of the process that started it."""
    path = tmp_path / "bundle"
    command = [sys.executable, "-c", MEMORY, str(path), str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, before_kib, peak_kib = json.loads(done.stdout)
    assert count == LONG
    assert (peak_kib - before_kib) * 1024 < GROWTH_BYTES_MAX


def test_context_has_each_entry_once_in_order() -> None:
    context = Context()
    for seq in (5, 3, 9, 3):
        context.add(seq, b"%d\n" % seq)
    assert (list(context.lines()), context.count) == ([b"3\n", b"5\n", b"9\n"], 3)
    context.close()
    with contextlib.suppress(sqlite3.ProgrammingError):
        context.add(1, b"")
        raise AssertionError
