"""The open files of a process, as Linux reports them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_files(pid: int) -> set[str]:
    """The targets of its descriptors, such as ``socket:[123]``, without those that close meanwhile."""
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found
