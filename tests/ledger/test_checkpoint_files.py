"""Files of checkpoints on the disk: whole lines or none, mended after a crash, a name of its own for each chain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.chain import Chain
from precipiq_ledger import checkpoint_files
from precipiq_ledger.checkpoint_files import CheckpointFiles, UnnameableChain, chain_of, file_name
from tests.ledger.checkpoint_helpers import CHAIN, OTHER, OURS, THEIRS, path_of, sign


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def seqs(files: CheckpointFiles, chain: Chain = CHAIN) -> list[int | None]:
    return [None if line.checkpoint is None else line.checkpoint.seq for line in files.read(chain)]


@pytest.mark.parametrize("torn", [b'{"org_id":"org_al', b"\0" * 700, b"nonsense\n", b"\n"])
def test_the_next_write_cuts_a_torn_line_off(files: CheckpointFiles, torn: bytes) -> None:
    files.append(sign(3))
    with path_of(files).open("ab") as stream:
        stream.write(torn)
    with capture_logs() as lines:
        files.append(sign(4))
    assert path_of(files).read_bytes() == sign(3).line() + sign(4).line()
    [told] = [line for line in lines if "torn last line" in line["event"]]
    assert (told["log_level"], told["bytes"]) == ("warning", len(torn))


def test_the_next_write_closes_a_line_that_lacks_its_end_alone(files: CheckpointFiles) -> None:
    files.append(sign(3))
    path_of(files).write_bytes(sign(3).line()[:-1])
    files.append(sign(4))
    assert path_of(files).read_bytes() == sign(3).line() + sign(4).line()


def test_a_first_line_that_is_torn_is_cut_off(files: CheckpointFiles) -> None:
    files.append(sign(3))
    path_of(files).write_bytes(sign(3).line()[:40])
    files.append(sign(4))
    assert path_of(files).read_bytes() == sign(4).line()


@pytest.mark.parametrize("whole", [b"{}", b'{"v":2,"seq":9}', b"[1]\n"])
def test_a_whole_last_line_of_somebody_elses_is_kept_as_evidence(files: CheckpointFiles, whole: bytes) -> None:
    files.append(sign(3))
    with path_of(files).open("ab") as stream:
        stream.write(whole)
    assert [line.is_torn for line in files.read(CHAIN)] == [False, False]
    files.append(sign(4))
    assert path_of(files).read_bytes() == sign(3).line() + whole.rstrip() + b"\n" + sign(4).line()


def test_what_is_too_long_for_a_torn_line_stays_and_later_lines_are_whole(files: CheckpointFiles) -> None:
    files.append(sign(3))
    with path_of(files).open("ab") as stream:
        stream.write(b"x" * 200_000)
    files.append(sign(4))
    assert seqs(files) == [3, None, 4]
    newest = files.newest(CHAIN, OURS)
    assert newest is not None
    assert newest.checkpoint.seq == 4


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_a_system_that_takes_little_at_a_time_gets_the_whole_line(
    files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: pwrite(fd, content[:at_once], offset))
    files.append(sign(3))
    files.append(sign(4))
    assert path_of(files).read_bytes() == sign(3).line() + sign(4).line()


def test_what_a_failed_write_left_is_taken_back(files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.append(sign(3))
    pwrite = os.pwrite

    def short(descriptor: int, content: bytes, offset: int) -> int:
        if len(content) < 200:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, content[: len(content) - 150], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError, match="No space"):
        files.append(sign(4))
    monkeypatch.undo()
    assert path_of(files).read_bytes() == sign(3).line()


def test_the_newest_is_the_newest_valid_one_of_this_chain(files: CheckpointFiles) -> None:
    for checkpoint in (sign(5), sign(4)):
        files.append(checkpoint)
    with path_of(files).open("ab") as stream:
        for line in (sign(10**6, THEIRS), sign(10**6, chain=OTHER)):
            stream.write(line.line())
        stream.write(sign(6).line().replace(b'"seq":6', b'"seq":9223372036854775807'))
    newest = files.newest(CHAIN, OURS)
    assert newest is not None
    assert newest.checkpoint == sign(5)
    assert files.line_at(CHAIN, newest.end) == sign(5).line()


def test_a_heap_of_foreign_lines_costs_a_bounded_look(files: CheckpointFiles) -> None:
    files.append(sign(5))
    with path_of(files).open("ab") as stream:
        stream.write(sign(9, THEIRS).line() * 1000)
    assert files.newest(CHAIN, OURS) is None, "it is out of sight: the manifest knows it"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_keeps_nobody_waiting(files: CheckpointFiles, tmp_path: Path, kind: str) -> None:
    files.append(sign(5, chain=OTHER))
    path = path_of(files)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path_of(files, OTHER))
    else:
        path.mkdir()
    for act in (lambda: files.append(sign(6)), lambda: files.newest(CHAIN, OURS), lambda: seqs(files)):
        with pytest.raises(OSError):
            act()
    assert seqs(files, OTHER) == [5]


def test_a_file_that_another_process_keeps_locked_ends_in_an_error(
    files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "LOCK_WAIT_S", 0.02)
    files.append(sign(5))
    with checkpoint_files.locked(path_of(files)), pytest.raises(OSError, match="keeps it locked"):
        files.append(sign(6))
    files.append(sign(6))
    assert seqs(files) == [5, 6]


ODD = ["../../etc/x", ".", "..", "a.live", "a/b", "a\\b", "ä", "~61", "x" * 64, "a\nb", "con", "-", " "]


@pytest.mark.parametrize("ignores_case", [False, True])
def test_an_odd_organisation_id_has_a_file_of_its_own_in_the_folder(tmp_path: Path, ignores_case: bool) -> None:
    chains = [Chain(org_id, "live") for org_id in [*ODD, "Org_A", "org_a", "ORG_A", "a"]]
    chains += [Chain("a", "test"), Chain("a.live", "test")]
    names = [file_name(chain, ignores_case=ignores_case) for chain in chains]
    assert len({name.lower() if ignores_case else name for name in names}) == len(chains)
    for name, chain in zip(names, chains, strict=True):
        assert (tmp_path / name).resolve().parent == tmp_path
        assert len(name.encode()) < 255
        assert chain_of(name) == chain


def test_names_of_ordinary_organisations_are_their_ids() -> None:
    assert file_name(Chain("org_Ab1", "live")) == "org_Ab1.live.jsonl"


@pytest.mark.parametrize(
    "chain",
    [Chain("", "live"), Chain("x" * 65, "live"), Chain("\ud800", "live"), Chain(b"x", "live"), Chain("x", "..")],
)  # type: ignore[arg-type, list-item]
def test_what_no_chain_can_be_called_has_no_file(files: CheckpointFiles, chain: Chain) -> None:
    with pytest.raises(UnnameableChain):
        files.newest(chain, OURS)
    assert list(files.read(chain)) == []


def test_all_files_are_listed_by_their_chains_and_others_are_not(files: CheckpointFiles) -> None:
    odd = Chain("../x", "live")
    for chain in (CHAIN, OTHER, odd):
        files.append(sign(1, chain=chain))
    for name in ("notes.txt", "x.staging.jsonl", "~zz.live.jsonl", ".live.jsonl", "a.b.live.jsonl"):
        (files.folder / name).touch()
    assert files.chains() == {CHAIN, OTHER, odd}
