"""Which checkpoints count as anchors: those of this key, for this chain, with a checked signature, that match."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoints import Checkpoint, parse_checkpoint
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_testkit.memory import MemoryAuditor
from tests.ledger.checkpoint_helpers import CHAIN, OTHER, THEIRS, Key, Stored, codes, compared, hash_of, path_of, sign


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def write(files: CheckpointFiles, lines: Sequence[Checkpoint | bytes]) -> None:
    """As an intruder on the disk does."""
    files.folder.mkdir(exist_ok=True)
    path_of(files).write_bytes(b"".join(line.line() if isinstance(line, Checkpoint) else line for line in lines))


def forged(seq: int) -> Checkpoint:
    return replace(sign(seq), hash=hash_of(-seq))


def test_valid_checkpoints_are_anchors(files: CheckpointFiles) -> None:
    write(files, [sign(3), sign(7)])
    found = compared(files, Stored(9)).comparison
    assert (found.broken, found.compared_count, found.signatures_checked_count, found.newest_seq) == (None, 2, 2, 7)
    assert found.newest_time == sign(7).time


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        (sign(9, THEIRS), ("KEY_UNANCHORED", 9)),
        (replace(sign(9), key_id=THEIRS.key_id), ("KEY_UNANCHORED", 9)),
        (sign(9, chain=OTHER), ("WRONG_ORIGIN", 9)),
        (replace(sign(9, chain=OTHER), org_id=CHAIN.org_id), ("CHECKPOINT_FORGED", 9)),
        (replace(sign(9), environment="live"), ("WRONG_ORIGIN", 9)),
        (replace(sign(9), signature=sign(8).signature), ("CHECKPOINT_FORGED", 9)),
    ],
    ids=["foreign key", "foreign key id", "other chain", "renamed", "other environment", "other signature"],
)
def test_a_line_that_this_key_did_not_sign_for_this_chain_is_a_finding_and_no_anchor(
    files: CheckpointFiles, line: Checkpoint, finding: tuple[str, int]
) -> None:
    write(files, [sign(3), line])
    found = compared(files, Stored(9))
    assert codes(found) == [finding]
    assert found.comparison.broken is not None
    assert found.comparison.newest_seq == 3
    write(files, [line])
    assert compared(files, Stored(9)).comparison.newest_seq is None


def test_a_rewritten_chain_is_not_confirmed_by_lines_that_the_forger_made(files: CheckpointFiles) -> None:
    rewritten = Stored(9, rewritten_from=2)
    write(files, [replace(sign(9, THEIRS), hash=hash_of(-9))])
    assert codes(compared(files, rewritten)) == [("KEY_UNANCHORED", 9)]
    write(files, [sign(3), replace(sign(9, THEIRS), hash=hash_of(-9))])
    assert codes(compared(files, rewritten)) == [("INCONSISTENT_WITH_CHECKPOINT", 3), ("KEY_UNANCHORED", 9)]


def test_a_forged_line_cuts_no_tail(files: CheckpointFiles) -> None:
    write(files, [sign(3), forged(10**6)])
    assert codes(compared(files, Stored(9))) == [("CHECKPOINT_FORGED", 10**6)]


def test_lines_beyond_the_bound_are_no_anchors_but_still_contradict(files: CheckpointFiles) -> None:
    write(files, [sign(1), sign(2), forged(3), forged(3)])
    found = compared(files, Stored(9), signatures_max=2)
    assert found.comparison.newest_seq is None
    assert any("signatures of 2 checkpoints" in sentence for sentence in found.unchecked)

    write(files, [sign(5), sign(2), sign(3)])
    found = compared(files, Stored(9), signatures_max=2)
    assert (found.comparison.newest_seq, found.comparison.compared_count, codes(found)) == (3, 3, [])

    write(files, [sign(5), sign(2), sign(3)])
    assert codes(compared(files, Stored(9, rewritten_from=4), signatures_max=2)) == [
        ("INCONSISTENT_WITH_CHECKPOINT", 5)
    ]


def test_more_lines_than_are_compared_at_once_are_all_compared(files: CheckpointFiles) -> None:
    write(files, [sign(seq) for seq in range(1, 2202)])
    found = compared(files, Stored(2201), signatures_max=10).comparison
    assert (found.compared_count, found.signatures_checked_count, found.broken) == (2201, 10, None)
    assert codes(compared(files, Stored(2201, rewritten_from=2150), signatures_max=10)) == [
        ("INCONSISTENT_WITH_CHECKPOINT", 2150)
    ]


def test_a_line_in_the_middle_that_is_no_checkpoint_is_named(files: CheckpointFiles) -> None:
    write(files, [sign(3), b"nonsense\n", sign(4)])
    found = compared(files, Stored(9))
    assert codes(found) == [("CHECKPOINT_FORGED", 9)]
    assert found.comparison.broken is not None
    assert "line 2 of" in found.comparison.broken.reason
    assert found.comparison.newest_seq == 4


@pytest.mark.parametrize("torn", [b'{"org_id":"org_al', b"\0" * 700, b"nonsense\n", b"\n", sign(4).line()[:-5] + b"\n"])
def test_a_torn_last_line_is_told_and_is_no_finding(files: CheckpointFiles, torn: bytes) -> None:
    write(files, [sign(3), torn])
    found = compared(files, Stored(9))
    assert (codes(found), found.comparison.newest_seq) == ([], 3)
    assert any("line 2 of the checkpoint file" in sentence for sentence in found.unchecked)


def test_a_line_that_lacks_its_end_alone_counts(files: CheckpointFiles) -> None:
    write(files, [sign(3), sign(4).line()[:-1]])
    found = compared(files, Stored(9))
    assert (found.comparison.newest_seq, found.unchecked) == (4, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": "9"},
        {"seq": True},
        {"seq": 0},
        {"seq": 2**63},
        {"seq": 1.5},
        {"hash": "x"},
        {"hash": None},
        {"time": "now"},
        {"key_id": "\n"},
        {"signature": "\0"},
        {"org_id": 5},
        {"org_id": "x" * 65},
        {"environment": "../live"},
    ],
)
def test_values_that_no_checkpoint_has_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a line of the checkpoint file"):
        parse_checkpoint(replace(sign(3), **changes).line())  # type: ignore[arg-type]


def test_a_chain_that_checkpoints_know_and_the_database_does_not_is_missing(files: CheckpointFiles) -> None:
    write(files, [sign(3)])
    assert codes(compared(files, Stored(0)))[0] == ("ORG_MISSING", 1)


@pytest.mark.anyio
async def test_files_that_cannot_be_read_are_no_verdict(files: CheckpointFiles) -> None:
    files.folder.mkdir()
    os.mkfifo(path_of(files))
    verifier = Verifier(Key(), files, VerifierLimits(10, 1, 100, 1, 10))
    with pytest.raises(Unavailable, match="the checkpoints cannot be read"):
        await verifier.verify(MemoryAuditor({}), CHAIN)
