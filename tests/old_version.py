"""Code of a version before, taken out of the history, to be run beside that of today."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def git(*arguments: str) -> str:
    """What git says; the test is left out, with its reason, where the history is not there."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"git {arguments[0]} says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def code_of(commit: str, folder: Path) -> dict[str, str]:
    """The variables under which a process runs that version, whose files are put into the folder."""
    code = folder / "old code"
    code.mkdir()
    packages = ["core", *git("ls-tree", "--name-only", commit, "plugins/").split()]
    git("archive", "--format=tar", f"--output={folder / 'old.tar'}", commit, *packages)
    shutil.unpack_archive(folder / "old.tar", code, filter="data")
    return {"PYTHONPATH": os.pathsep.join(str(code / package) for package in packages)}
