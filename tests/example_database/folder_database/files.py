"""Files that are there whole or not at all, whatever happens, with one writer at a time among all processes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precipiq_contracts.errors import Unavailable

_LOCK_STEP_S = 0.002


@contextmanager
def writing_alone(folder: Path, patience_s: float) -> Iterator[None]:
    """Nobody else writes in the folder meanwhile, in no process. Raises ``Unavailable`` when it takes too long."""
    with (folder / "lock").open("ab") as lock:
        for _ in range(max(int(patience_s / _LOCK_STEP_S), 1)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_STEP_S)
        else:
            raise Unavailable("another process writes in the folder; nothing was stored")
        yield


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or put it in the place of one; on disk, its name included, on return. For who writes alone."""
    unfinished = path.with_name("next.new")  # what a crash leaves there, the next one overwrites
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make the folder and those above it; their names are on disk on return."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Put the names in the folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
