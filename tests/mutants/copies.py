"""A copy of the tree that runs its own code: files that git knows, and the environment by hard links.

The environment's scripts and editable installs name the folder that they were made in; here they are written anew, so
that commands and child processes of tests run the copy too, whatever they do with their environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tests.mutants.breaks import ROOT, Break

# As imported by the copy's Python: every member of the workspace, and the file it comes from.
_WHERE = """
import importlib.metadata, importlib.util
for name in {d.name.replace("-", "_") for d in importlib.metadata.distributions() if d.name.startswith("precipiq")}:
    print(importlib.util.find_spec(name).origin)
"""
_INTERRUPT_WAIT_S = 20.0
# Compiled modules are matched to their source by size and whole seconds: no two states of a file may share a second.
_seconds = count(int(time.time()), 2)


class Copy:
    """One copy. Runs one ``pytest`` at a time; what the tests leave behind is inside ``root`` too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "mutants.log"
        self._temporary = root / "tmp"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in names:
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        shutil.copytree(ROOT / ".venv", root / ".venv", symlinks=True, copy_function=_link)
        for pattern in ("pyvenv.cfg", "bin/*", "lib/python*/site-packages/*.pth", "lib/python*/site-packages/*/*.json"):
            for path in (root / ".venv").glob(pattern):
                self._move(path)
        self._check()

    def _move(self, path: Path) -> None:
        old, new = str(ROOT).encode(), str(self.root).encode()
        if path.is_symlink() or not path.is_file() or old not in (content := path.read_bytes()):
            return
        mode = path.stat().st_mode
        path.unlink()  # it is a link: writing through it would change the original
        path.write_bytes(content.replace(old, new))
        path.chmod(mode)

    def _check(self) -> None:
        python = self.root / ".venv/bin/python"
        done = subprocess.run([python, "-I", "-c", _WHERE], check=True, capture_output=True, text=True, cwd="/")
        strangers = [line for line in done.stdout.split() if not line.startswith(f"{self.root}/")]
        shebang = (self.root / ".venv/bin/precipiq").read_text().partition("\n")[0]
        if strangers or not done.stdout or not shebang.startswith(f"#!{self.root}/"):
            raise RuntimeError(f"the copy does not run its own code: {strangers or shebang}")

    @contextmanager
    def broken(self, each: Break) -> Iterator[None]:
        """Have the break in the copy while this is entered."""
        path = self.root / each.file
        whole = path.read_text(encoding="utf-8")
        _write(path, each.broken(whole))
        try:
            yield
        finally:
            _write(path, whole)

    def run(self, tests: tuple[str, ...], timeout_s: float) -> int | None:
        """Run these tests until one fails: pytest's exit code, None when time was up. Its output is in ``log``."""
        self._temporary.mkdir(exist_ok=True)
        self._temporary.chmod(0o755)
        command = [str(self.root / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:randomly", *tests]
        # Other Pythons would have environments made for them; a break is one on each Python.
        own = {"TMPDIR": str(self._temporary), "PYENV_ROOT": str(self._temporary)}
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env={**kept, **own}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # says where it hung
            with suppress(subprocess.TimeoutExpired):
                process.wait(_INTERRUPT_WAIT_S)
            return None
        finally:
            self.end()
            process.wait()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def end(self) -> None:
        """Kill every process of this copy: tests, and servers that they started in sessions of their own."""
        while left := list(self._processes()):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> Iterator[int]:
        mark = str(self.root).encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                if mark in told + os.readlink(os.fsencode(folder / "cwd")):
                    yield int(folder.name)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    moment = next(_seconds)
    os.utime(path, (moment, moment))
