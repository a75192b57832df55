"""The real SDK in an environment of its own: it wants httpx 0.27, which the project does not have."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LOCK = PROJECT / "tests" / "sdk.lock"
FOLDER = PROJECT / f".venv-sdk-{sys.version_info.major}.{sys.version_info.minor}"


def sdk_python() -> Path:
    """The interpreter of an environment that holds precipiq==0.1.0; made when it is not there, safely by several."""
    python = FOLDER / "bin" / "python"
    stamp = FOLDER / ".ready"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER.parent / f"{FOLDER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(FOLDER, with_pip=True, clear=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
            subprocess.run([*install, "-r", LOCK], check=True)
            stamp.write_text(wanted)
    return python
