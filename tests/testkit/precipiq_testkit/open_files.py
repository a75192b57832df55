"""What a process holds open, as Linux tells it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_files(pid: int) -> set[str]:
    """What its descriptors are, such as ``socket:[123]``; those that close meanwhile are left out."""
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found
