"""A folder as a power cut would leave it: what was flushed, and nothing else. Is told of each flush; traces nothing.

The strict reading of fsync(2): flushing a file keeps its content, flushing a folder keeps its names (new files,
renames, removals), and neither keeps the other.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


class DurableFiles:
    """``folder``: whatever it holds now counts as flushed. ``copies``: an empty folder for what was flushed.

    Each file is known by its inode, and kept open so that no other file gets the same one.
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder = folder.resolve()
        self._copies = copies
        self._names: dict[int, dict[str, int]] = {}
        self._kept: dict[int, int] = {}
        self._root = self._keep(self._folder)
        self.flush_all()

    def holds(self, path: str) -> bool:
        """Whether the path is the folder or inside it."""
        return path == str(self._folder) or path.startswith(f"{self._folder}{os.sep}")

    def flush_all(self) -> None:
        """Everything is on disk as it is now."""
        for folder, _, names in os.walk(self._folder):
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                self.flush(path)

    def flush(self, path: Path) -> None:
        """The content of that file, or the names in that folder, are on disk as they are now."""
        inode = self._keep(path)
        status = os.fstat(self._kept[inode])
        if stat.S_ISDIR(status.st_mode):
            names = os.listdir(self._kept[inode])
            self._names[inode] = {}
            for name in names:
                with suppress(OSError):  # it is gone again, or no file: a socket, a link to nowhere
                    self._names[inode][name] = self._keep(Path(f"/proc/self/fd/{self._kept[inode]}", name))
        elif stat.S_ISREG(status.st_mode):
            shutil.copyfile(f"/proc/self/fd/{self._kept[inode]}", self._copies / str(inode))

    def _keep(self, path: Path) -> int:
        """The inode of that file, which is kept open."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        inode = os.fstat(file).st_ino
        if self._kept.setdefault(inode, file) != file:
            os.close(file)
        return inode

    def write_to(self, target: Path) -> None:
        """Make that folder, with the files that a power cut would leave. A file that never was flushed is empty."""
        self._write(self._root, target)

    def _write(self, inode: int, target: Path) -> None:
        mode = os.fstat(self._kept[inode]).st_mode
        if stat.S_ISDIR(mode):
            target.mkdir()
            for name, inside in self._names.get(inode, {}).items():
                self._write(inside, target / name)
        elif stat.S_ISREG(mode):
            copy = self._copies / str(inode)
            shutil.copyfile(copy, target) if copy.exists() else target.touch()
            target.chmod(stat.S_IMODE(mode))
