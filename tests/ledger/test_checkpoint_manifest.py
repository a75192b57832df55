"""The manifest of the checkpoint folder: what it remembers of files that were removed, cut or set back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.chain import Chain
from precipiq_ledger.anchors import ROUNDS_MISSED_MAX, AnchorAge
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoint_manifest import FILE_NAME, CheckpointManifest, ManifestRefused
from precipiq_testkit.clock import ManualClock
from tests.ledger.checkpoint_helpers import (
    CHAIN,
    OTHER,
    OURS,
    THEIRS,
    Stored,
    codes,
    compared,
    manifest_of,
    path_of,
    sign,
)


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def manifest(files: CheckpointFiles, clock: ManualClock) -> CheckpointManifest:
    return manifest_of(files, clock)


def write(manifest: CheckpointManifest, files: CheckpointFiles, *seqs: int, chain: Chain = CHAIN) -> list[Chain]:
    """As a round of the server does."""
    place = [files.append(sign(seq, chain=chain)) for seq in seqs][-1]
    return manifest.note({chain: place})


def found_by(
    files: CheckpointFiles, clock: ManualClock, last_seq: int = 9, chain: Chain = CHAIN
) -> list[tuple[str, int]]:
    """By a verification in another process."""
    return codes(compared(files, Stored(last_seq), manifest_of(files, clock), chain=chain))


def cut_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def cut_first_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def replace_by_copies(path: Path) -> None:
    """Of the same number of bytes and lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] * len(lines))


LOSSES: list[Callable[[Path], object]] = [Path.unlink, cut_last_line, cut_first_line, replace_by_copies]


def test_a_whole_file_is_held(manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock) -> None:
    assert write(manifest, files, 3, 5, 7) == []
    files.append(sign(8))  # and a kill before the manifest was written
    assert found_by(files, clock) == []


@pytest.mark.parametrize("lose", LOSSES)
def test_a_file_that_lost_lines_is_found_and_stays_on_record(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock, lose: Callable[[Path], object]
) -> None:
    write(manifest, files, 3, 5, 7)
    lose(path_of(files))
    assert found_by(files, clock) == [("CHECKPOINTS_LOST", 7)]

    assert write(manifest, files, 8) == [CHAIN]
    assert write(manifest, files, *range(9, 30)) == [], "it is told once"
    assert found_by(files, clock, last_seq=29) == [("CHECKPOINTS_LOST", 7)]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_start_tells_which_files_lost_lines_while_nothing_served(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock, lose: Callable[[Path], object]
) -> None:
    write(manifest, files, 3, 5, 7)
    write(manifest, files, 3, 5, chain=OTHER)
    lose(path_of(files))
    assert manifest_of(files, clock).start() == [CHAIN]
    assert manifest_of(files, clock).start() == []
    assert found_by(files, clock) == [("CHECKPOINTS_LOST", 7)]
    assert found_by(files, clock, chain=OTHER) == []


def test_a_deleted_chain_of_a_deleted_file_is_known_to_the_manifest(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    write(manifest, files, 3)
    path_of(files).unlink()
    assert manifest_of(files, clock).chains() == {CHAIN}
    assert found_by(files, clock, last_seq=0)[0] == ("ORG_MISSING", 1)


def test_a_rewritten_chain_contradicts_the_manifest_though_its_file_is_gone(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    write(manifest, files, 3, 7)
    path_of(files).unlink()
    found = compared(files, Stored(9, rewritten_from=5), manifest_of(files, clock))
    assert codes(found) == [("INCONSISTENT_WITH_CHECKPOINT", 7), ("CHECKPOINTS_LOST", 7)]


def test_two_processes_that_take_turns_lose_nothing(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    """One writes its line first and the manifest last."""
    another = manifest_of(files, clock)
    early = files.append(sign(3))
    assert write(another, files, 4) == []
    assert manifest.note({CHAIN: early}) == []
    assert found_by(files, clock) == []
    record = manifest.record_of(CHAIN)
    assert record is not None
    assert record.seq == 4


def test_a_manifest_that_is_removed_or_set_back_while_it_serves_is_written_anew(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    path = files.folder / FILE_NAME
    write(manifest, files, 3)
    old = path.read_bytes()
    write(manifest, files, 5)
    for spoil in (path.unlink, lambda: path.write_bytes(old)):
        spoil()
        path_of(files).unlink(missing_ok=True)
        with capture_logs() as lines:
            write(manifest, files, 6, chain=OTHER)
        assert [line["log_level"] for line in lines] == ["critical"]
        assert found_by(files, clock) == [("CHECKPOINTS_LOST", 5)]


def test_a_folder_of_an_older_version_gets_its_manifest_from_its_files(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    files.append(sign(3))
    found = compared(files, Stored(9), manifest_of(files, clock))
    assert codes(found) == []
    assert any("no manifest" in sentence for sentence in found.unchecked)
    assert manifest.start() == []
    path_of(files).unlink()
    assert found_by(files, clock) == [("CHECKPOINTS_LOST", 3)]


def test_a_new_folder_has_no_story_of_a_missing_manifest(manifest: CheckpointManifest, files: CheckpointFiles) -> None:
    with capture_logs() as lines:
        write(manifest, files, 3)
    assert lines == []


def other_body(content: bytes) -> bytes:
    return content.replace(b"org_alpha", b"org_gamma")


def other_header(content: bytes) -> bytes:
    head, _, body = content.partition(b"\n")
    return json.dumps({**json.loads(head), "number": 10**6}).encode() + b"\n" + body


@pytest.mark.parametrize(
    "spoil", [other_body, other_header, lambda content: content[:-9], lambda content: b"", lambda content: b"[1]\n[]"]
)
def test_a_manifest_that_this_key_did_not_sign_is_refused_and_not_replaced(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock, spoil: Callable[[bytes], bytes]
) -> None:
    write(manifest, files, 3)
    path = files.folder / FILE_NAME
    spoilt = spoil(path.read_bytes())
    path.write_bytes(spoilt)
    assert found_by(files, clock) == [("CHECKPOINT_FORGED", 9)]
    for act in (manifest_of(files, clock).start, lambda: write(manifest, files, 5)):
        with pytest.raises(ManifestRefused):
            act()
    assert path.read_bytes() == spoilt


def test_a_replaced_master_key_is_told_as_such(files: CheckpointFiles, clock: ManualClock) -> None:
    theirs = manifest_of(files, clock, THEIRS)
    theirs.note({CHAIN: files.append(sign(3, THEIRS))})
    assert found_by(files, clock) == [("KEY_UNANCHORED", 3)]
    with pytest.raises(ManifestRefused, match="another key"):
        manifest_of(files, clock).start()


def test_a_pipe_in_the_manifests_place_keeps_nobody_waiting(files: CheckpointFiles, clock: ManualClock) -> None:
    files.append(sign(3))
    os.mkfifo(files.folder / FILE_NAME)
    assert found_by(files, clock) == [("CHECKPOINT_FORGED", 9)]


def test_what_a_kill_left_of_a_manifest_is_overwritten(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    write(manifest, files, 3)
    (files.folder / f".{FILE_NAME}.part").write_bytes(b"x" * 10_000)
    write(manifest, files, 5)
    assert found_by(files, clock) == []


def test_another_process_sees_whether_a_server_writes_here(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    another = manifest_of(files, clock)
    assert not another.is_serving()
    with manifest.serving(), manifest_of(files, clock).serving():
        assert another.is_serving()
    assert not another.is_serving()


STALE_S = 900.0
MINUTE_S = 60.0


class Timed(Stored):
    """An entry a minute, from the clock's start on."""

    def batches(self, chain: Chain, after_seq: int, through_seq: int, size: int) -> list[object]:
        from precipiq_contracts.clock import format_timestamp
        from precipiq_contracts.entry_store import AuditBatch
        from precipiq_testkit.clock import START_US

        time = format_timestamp(START_US + (after_seq + 1) * 60_000_000)
        statement = json.dumps({"timestamp": time}).encode()
        return [AuditBatch([after_seq + 1], ["0" * 64], [statement], [None], [None])]


def aged(
    files: CheckpointFiles, clock: ManualClock, last_seq: int, age: AnchorAge | None = None
) -> list[tuple[str, int]]:
    manifest = manifest_of(files, clock)
    return codes(compared(files, Timed(last_seq), manifest, age or AnchorAge(clock, STALE_S)))


def a_server(clock: ManualClock, rounds: int = ROUNDS_MISSED_MAX) -> AnchorAge:
    """A process that had so many rounds."""
    age = AnchorAge(clock, STALE_S)
    age.start()
    for _ in range(rounds):
        age.note_round()
    return age


def rounds_of(age: AnchorAge, clock: ManualClock, seconds: float) -> None:
    """Let the time pass with a round a minute."""
    while seconds > 0:
        clock.advance(min(seconds, MINUTE_S))
        seconds -= MINUTE_S
        age.note_round()


def test_an_old_chain_without_any_trace_of_checkpoints_is_stale(files: CheckpointFiles, clock: ManualClock) -> None:
    """Somebody removed the whole folder, or it is another one."""
    clock.advance(30 * MINUTE_S)
    assert aged(files, clock, 16) == []
    assert aged(files, clock, 17) == [("ANCHOR_STALE", 1)]
    stale = compared(files, Timed(17), manifest_of(files, clock), AnchorAge(clock, STALE_S)).comparison
    assert (stale.broken, stale.newest_seq) == (None, None), "no fault of the chain"


def test_entries_that_nobody_signs_while_the_server_runs_are_stale(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    manifest.start()
    age = a_server(clock)
    rounds_of(age, clock, 5 * MINUTE_S)
    write(manifest, files, 5)
    with manifest.serving():
        rounds_of(age, clock, 16 * MINUTE_S)  # entry 6 is a minute younger than the checkpoint
        assert aged(files, clock, 6, age) == aged(files, clock, 6) == []
        rounds_of(age, clock, MINUTE_S)
        assert aged(files, clock, 6, age) == aged(files, clock, 6) == [("ANCHOR_STALE", 6)]
        assert aged(files, clock, 5, age) == [], "a chain that rests needs no newer one"


def test_a_machine_that_was_off_is_not_stale(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    """Killed with entries that have no checkpoint; verified while it is off, and right after it starts again."""
    clock.advance(5 * MINUTE_S)
    write(manifest, files, 5)
    clock.advance(7 * 24 * 3600.0)
    assert aged(files, clock, 6) == aged(files, clock, 9_000) == []
    manifest_of(files, clock).start()
    age = a_server(clock, 0)
    with manifest.serving():
        assert aged(files, clock, 9_000, age) == aged(files, clock, 9_000) == []
        rounds_of(age, clock, STALE_S + 1)
        assert aged(files, clock, 9_000, age) == [("ANCHOR_STALE", 6)]


def test_a_node_that_joined_has_until_the_others_checkpoints_come(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    clock.advance(30 * 24 * 3600.0)
    manifest.start()
    age = a_server(clock, 0)
    with manifest.serving():
        assert aged(files, clock, 40_000, age) == aged(files, clock, 40_000) == []
        write(manifest, files, 39_999)
        assert aged(files, clock, 40_000, age) == []


@pytest.mark.parametrize("happens", ["forward", "back", "asleep"])
def test_a_step_of_the_clock_or_sleep_makes_nothing_stale_in_the_server(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock, happens: str
) -> None:
    age = a_server(clock)
    rounds_of(age, clock, 64 * MINUTE_S)
    write(manifest, files, 64)
    clock.advance(MINUTE_S)
    if happens == "asleep":
        clock.advance(3600.0)
    else:
        clock.step(3600.0 if happens == "forward" else -3600.0)
    assert aged(files, clock, 65, age) == []


def test_rounds_that_leave_a_chain_out_make_it_stale_for_a_command_too(
    manifest: CheckpointManifest, files: CheckpointFiles, clock: ManualClock
) -> None:
    manifest.start()
    clock.advance(40 * MINUTE_S)
    write(manifest, files, 1, chain=OTHER)
    assert aged(files, clock, 3) == [("ANCHOR_STALE", 1)]


def test_a_signature_of_another_key_does_not_make_a_chain_fresh(files: CheckpointFiles, clock: ManualClock) -> None:
    files.append(sign(60, THEIRS))
    clock.advance(3600.0)
    assert aged(files, clock, 60) == [("KEY_UNANCHORED", 60)]


def test_the_newest_own_checkpoint_under_a_heap_of_foreign_lines_is_on_record(
    manifest: CheckpointManifest, files: CheckpointFiles
) -> None:
    write(manifest, files, 5)
    with path_of(files).open("ab") as stream:
        stream.write(sign(9, THEIRS).line() * 1000)
    assert files.newest(CHAIN, OURS) is None
    record = manifest.record_of(CHAIN)
    assert record is not None
    assert record.seq == 5
