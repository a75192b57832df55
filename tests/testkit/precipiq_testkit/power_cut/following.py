"""Cutting the power of a test: what of a folder was on disk at that moment, though the process goes on."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_PR_SET_PTRACER = 0x59616D61


class NotFollowed(Exception):
    """This machine does not let one process follow another's system calls. The text says why."""


class Disk:
    """A folder whose flushes are followed. :meth:`cut` once, then :meth:`restore`."""

    def __init__(self, folder: Path, target: Path, follower: subprocess.Popen[str], patience_s: float) -> None:
        self._folder = folder
        self._target = target
        self._follower = follower
        self._patience_s = patience_s

    def start(self) -> None:
        """Begin to follow. Raises ``NotFollowed``."""
        self._tell("following")

    def cut(self) -> None:
        """Cut the power now: unflushed writes are lost. The process itself goes on."""
        self._tell("cut")

    def _tell(self, expected: str) -> None:
        assert self._follower.stdin is not None
        assert self._follower.stdout is not None
        os.write(self._follower.stdin.fileno(), b"\n")
        heard, _, _ = select.select([self._follower.stdout], [], [], self._patience_s)
        said = self._follower.stdout.readline().strip() if heard else f"nothing for {self._patience_s} s"
        if said.startswith("refused: "):
            raise NotFollowed(said.removeprefix("refused: "))
        if said != expected:
            raise RuntimeError(f"the follower of system calls failed: it said {said or 'nothing, and ended'}")

    def restore(self) -> None:
        """Put into the folder the files that the power cut left of it. Only while nothing of it is open."""
        for path in self._folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(self._target, self._folder, dirs_exist_ok=True)


@contextmanager
def follow(folder: Path, patience_s: float = 30.0) -> Iterator[Disk]:
    """Follow what this process, with all its threads, flushes in that folder. Its present files count as flushed.

    A process of its own does it by ptrace(2), until the power is cut. Raises ``NotFollowed`` where that is not
    possible: not on Linux, or forbidden, or under a debugger. Not seen: what other processes write, and ``io_uring``.
    """
    if sys.platform != "linux":
        raise NotFollowed(f"system calls are not followed on {sys.platform}")
    with TemporaryDirectory() as place:
        target = Path(place, "left")
        command = [
            sys.executable,
            "-m",
            "precipiq_testkit.power_cut.follower",
            str(os.getpid()),
            str(folder),
            str(target),
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as follower:
            try:
                _allow_tracer(follower.pid)
                disk = Disk(folder, target, follower, patience_s)
                disk.start()
                yield disk
            finally:
                follower.kill()  # the kernel lets go of every thread
                _allow_tracer(0)


def _allow_tracer(process_id: int) -> None:
    """Where Yama is on, a process may be traced by others than its parent only when it says so."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, process_id, 0, 0, 0)
