"""Real processes that write checkpoints: killed at any moment, on a full disk, two at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_testkit.clock import ManualClock
from tests.ledger.checkpoint_helpers import CHAIN, Stored, codes, compared, manifest_of, path_of, sign

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 12

WRITER = """
import resource, sys
from pathlib import Path
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_testkit.clock import ManualClock
from tests.ledger.checkpoint_helpers import CHAIN, manifest_of, sign

folder, first, step, last, bytes_max = Path(sys.argv[1]), *map(int, sys.argv[2:])
if bytes_max:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))
files = CheckpointFiles(folder)
manifest = manifest_of(files, ManualClock())
print("ready", flush=True)
for seq in range(first, last, step):
    try:
        place = files.append(sign(seq))
    except OSError as error:
        print("failed", error.errno, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        continue
    manifest.note({CHAIN: place})
    print(seq, flush=True)
"""


def start(folder: Path, first: int = 1, step: int = 1, last: int = 10**9, bytes_max: int = 0) -> subprocess.Popen[str]:
    arguments = [str(folder), *map(str, (first, step, last, bytes_max))]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def read_rest(process: subprocess.Popen[str]) -> list[str]:
    """What it says until it ends. (``communicate`` would pass over what ``readline`` has read ahead.)"""
    assert process.stdout is not None
    with process.stdout:
        rest = process.stdout.read().split("\n")
    process.wait(timeout=30)
    return [line for line in rest if line]


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def held(files: CheckpointFiles) -> list[int]:
    lines = list(files.read(CHAIN))
    assert all(line.checkpoint is not None or line.is_torn for line in lines)
    return [line.checkpoint.seq for line in lines if line.checkpoint is not None]


def test_after_a_kill_every_written_checkpoint_is_there_and_nothing_is_called_lost(files: CheckpointFiles) -> None:
    seq = 1
    for kill in range(KILLS):
        process = start(files.folder, seq)
        said = read_lines(process, 1 + kill % 4)
        process.send_signal(signal.SIGKILL)
        written = [*said, *read_rest(process), str(seq - 1)]
        last = max(int(each) for each in written if each.isdigit())
        seqs = held(files)
        assert seqs[:last] == list(range(1, last + 1))
        found = compared(files, Stored(10**6), manifest_of(files, ManualClock()), signatures_max=10**6)
        assert (codes(found), found.comparison.newest_seq) == ([], seqs[-1] if seqs else None)
        seq = len(seqs) + 1


@pytest.mark.parametrize("spare", [1, 150, len(sign(2).line()) - 1])
def test_a_full_disk_leaves_whole_lines_and_is_written_again_when_there_is_space(
    files: CheckpointFiles, spare: int
) -> None:
    """The limit gives a short write first, then EFBIG, as a full disk gives ENOSPC."""
    process = start(files.folder, last=2)
    assert read_rest(process) == ["ready", "1"]
    process = start(files.folder, 2, last=4, bytes_max=path_of(files).stat().st_size + spare)
    assert read_rest(process) == ["ready", "failed 27", "3"]
    assert held(files) == [1, 3]
    assert path_of(files).read_bytes().count(b"\n") == 2
    assert codes(compared(files, Stored(9), manifest_of(files, ManualClock()))) == []


def test_two_processes_that_write_at_once_lose_and_tear_nothing(files: CheckpointFiles) -> None:
    processes = [start(files.folder, first, 2, 201) for first in (1, 2)]
    for process in processes:
        read_lines(process, 1)
    written = [int(seq) for process in processes for seq in read_rest(process)]
    assert sorted(written) == list(range(1, 201))
    assert sorted(held(files)) == list(range(1, 201))
    assert codes(compared(files, Stored(300), manifest_of(files, ManualClock()), signatures_max=300)) == []
