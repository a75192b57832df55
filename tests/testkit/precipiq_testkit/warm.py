"""Commands in children of one process that has imported the server already: what a test needs before it begins.

Each has its own environment, folder, output and exit code, as a command has, and saves the half second in which an
interpreter imports everything. What a command itself does is a test of ``ServerProcess.run``: a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_TIMEOUT_S = 120.0
_COMMAND = "precipiq_core.cli"
_PLUGINS = "auth_keys billing exports hypercorn ledger operations outcomes postgres sqlite vault_local ws_stream"
_CHILDREN = multiprocessing.get_context("forkserver")
# What is not installed here is passed over, and imported by the child that needs it.
_CHILDREN.set_forkserver_preload(
    [
        __name__,
        f"{_COMMAND}.main",
        "precipiq_core.running",
        "precipiq_schema.alembic_scripts",
        *(f"precipiq_{name}.plugin" for name in _PLUGINS.split()),
    ]
)


def run_warm(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, script: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run ``precipiq`` with these arguments, or that Python code, in that folder.

    Raises ``TimeoutExpired``, and with ``check`` ``CalledProcessError`` for any exit code but 0.
    """
    with TemporaryDirectory(prefix="precipiq-warm-") as made:
        outputs = Path(made, "stdout"), Path(made, "stderr")
        child = _CHILDREN.Process(target=_be, args=(list(arguments), dict(environment), folder, outputs, script))
        child.start()
        child.join(_TIMEOUT_S)
        if child.exitcode is None:
            child.kill()
            raise subprocess.TimeoutExpired(list(arguments), _TIMEOUT_S)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in outputs)
    done = subprocess.CompletedProcess(list(arguments), child.exitcode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def _be(
    arguments: list[str], environment: dict[str, str], folder: Path, outputs: tuple[Path, Path], script: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in enumerate(outputs, 1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = [_COMMAND, *arguments]
    if script:
        exec(compile(script, "<script of a test>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(_COMMAND, run_name="__main__", alter_sys=True)
