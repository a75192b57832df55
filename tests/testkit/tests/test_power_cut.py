"""Cutting the power: what was flushed is left, what was only written is not, whichever call or thread did it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from precipiq_testkit.power_cut import Disk, NotFollowed, follow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "old").write_text("old")
    (tmp_path / "inside").mkdir()
    try:
        with follow(tmp_path) as disk:
            yield disk
    except NotFollowed as error:
        pytest.skip(f"this machine does not let system calls be followed: {error}")


def flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def cut_power(disk: Disk, folder: Path) -> dict[str, str]:
    """The files that a power cut leaves now, and what is in them."""
    disk.cut()
    disk.restore()
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_was_there_before_is_left(disk: Disk, tmp_path: Path) -> None:
    assert cut_power(disk, tmp_path) == {"old": "old"}
    assert (tmp_path / "inside").is_dir()


def test_what_was_only_written_is_lost(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("changed")
    (tmp_path / "new").write_text("new")
    assert cut_power(disk, tmp_path) == {"old": "old"}


def test_a_new_file_needs_its_folder_flushed_too(disk: Disk, tmp_path: Path) -> None:
    for name in ("new", "inside/new"):
        (tmp_path / name).write_text("new")
        flush(tmp_path / name)
    flush(tmp_path)
    assert cut_power(disk, tmp_path) == {"old": "old", "new": "new"}


def test_a_name_that_was_flushed_has_no_content_yet(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    flush(tmp_path)
    assert cut_power(disk, tmp_path) == {"old": "old", "new": ""}


def test_a_rename_or_removal_is_undone_until_the_folder_is_flushed(disk: Disk, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "new").write_text(f"new {number}")
        flush(tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / "old")
    assert cut_power(disk, tmp_path) == {"old": "old"}


def test_a_rename_with_its_folder_flushed_is_kept(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    flush(tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "old")
    flush(tmp_path)
    assert cut_power(disk, tmp_path) == {"old": "new"}


def by_fdatasync(path: Path) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, b"new")
    os.fdatasync(file)
    os.close(file)


def by_fsync_after_it_was_renamed(path: Path) -> None:
    file = os.open(path, os.O_WRONLY)
    path.rename(path.with_suffix(".moved"))
    os.pwrite(file, b"new", 0)
    os.fsync(file)
    os.close(file)


def by_opening_it_for_that(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_DSYNC)
    os.write(file, b"new")
    os.close(file)


def by_asking_one_write_for_that(path: Path) -> None:
    file = os.open(path, os.O_WRONLY)
    os.pwritev(file, [b"new"], 0, os.RWF_DSYNC)
    os.close(file)


def by_msync(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = b"new"
        mapped.flush()


def by_sync(path: Path) -> None:
    path.write_text("new")
    os.sync()


def in_another_thread(path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(by_fdatasync, path).result()


WAYS = [
    by_fdatasync,
    by_fsync_after_it_was_renamed,
    by_opening_it_for_that,
    by_asking_one_write_for_that,
    by_msync,
    by_sync,
    in_another_thread,
]


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__)
def test_every_way_to_flush_a_file_is_seen(disk: Disk, tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "old")
    assert cut_power(disk, tmp_path) == {"old": "new"}


def test_the_process_goes_on_after_the_cut_and_can_be_followed_again(disk: Disk, tmp_path: Path) -> None:
    disk.cut()
    by_fdatasync(tmp_path / "old")
    with follow(tmp_path) as again:
        (tmp_path / "old").write_text("changed")
        assert cut_power(again, tmp_path) == {"old": "new"}


def test_a_machine_that_forbids_it_is_told_from_a_fault(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(NotFollowed, match="not permitted"), follow(tmp_path):
        raise AssertionError("a process has one tracer at a time")
