"""What a start costs: CPU and wall seconds of commands, of a server until it answers, and of the child processes.

Medians of BENCH_STARTS (9), each beside a bare ``python -c "import starlette, hypercorn"``, taken in turns with it so that
other load weighs on both. The processes of a server are counted apart from it.
"""

from __future__ import annotations

import os
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from precipiq_chain.verify import GENESIS
from precipiq_contracts.chain import Chain
from precipiq_contracts.secret_location import SecretLocation
from precipiq_core.master_key import MasterKeyFile
from precipiq_core.system import SystemRandomness
from precipiq_exports.bundle.spec import BundleSpec, BundleTask
from precipiq_exports.bundle_worker import BundleServant
from precipiq_exports.signing_servant import SigningServant
from precipiq_ledger.verify_worker import Task
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_testkit.server import ServerProcess, running_server
from precipiq_vault_local.keys import LocalVaultAccess
from precipiq_work.child_process_main import LENGTH_BYTES, frame

STARTS = int(os.environ.get("BENCH_STARTS", "9"))
EMBEDDED = Path(__file__).parents[2] / "deployments/embedded/precipiq.toml"
BARE = ("-c", "import starlette, hypercorn")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ADDRESS = re.compile(rb'"addresses":\s*\["([^"]+)"')


@dataclass(frozen=True)
class Cost:
    """CPU of the process alone, user and system; and time on the wall."""

    cpu_s: float
    wall_s: float


class Starts:
    """Starts processes over the data folder of a server that was stopped."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._environment = {
            **os.environ,
            "PRECIPIQ_CONFIG": str(EMBEDDED),
            "PRECIPIQ_DATA_DIR": str(server.data_dir),
            "PRECIPIQ__SERVER__BIND": "127.0.0.1:0",
        }

    def python(self, *arguments: str, sends: Sequence[object] = ()) -> Cost:
        """A process that gets and answers these messages, each when the one before is answered, until it ends."""
        started_s = time.perf_counter()
        process = self._popen(*arguments)
        assert process.stdin is not None
        for message in sends:
            process.stdin.write(frame(pickle.dumps(message)))
            process.stdin.flush()
            process.stdout.read(int.from_bytes(process.stdout.read(LENGTH_BYTES)))
        process.stdin.close()
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        assert process.returncode == 0, said.decode()
        return Cost(usage.ru_utime + usage.ru_stime, took_s)

    def precipiq(self, *arguments: str) -> Cost:
        """A command."""
        return self.python("-m", "precipiq_core.cli", *arguments)

    def serve(self) -> Cost:
        """A server until it answers ``/healthz``."""
        started_s = time.perf_counter()
        process = self._popen("-m", "precipiq_core.cli", "serve")
        try:
            address = next(found[1].decode() for line in process.stdout if (found := _ADDRESS.search(line)))
            urllib.request.urlopen(f"{address}/healthz").read()
            took_s = time.perf_counter() - started_s
            user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            return Cost((int(user) + int(system)) / TICKS_PER_S, took_s)
        finally:
            process.terminate()
            process.communicate()

    def _popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._server.folder,
        )


def children(starts: Starts, server: ServerProcess) -> dict[str, Callable[[], Cost]]:
    """What the server starts beside itself, each with what it is sent."""
    randomness = SystemRandomness()
    master_key = MasterKeyFile(server.data_dir / "master.key", False, randomness)
    signing = SigningServant(LocalVaultAccess(SecretLocation(file=server.data_dir / "vault.key"), (), randomness))
    auditor = SqliteAuditor(server.database_file, 5.0)
    task = Task(auditor, Chain(server.org_id, "live"), GENESIS, None, 1000)
    bundle = BundleServant(BundleTask(auditor, cast("BundleSpec", None), server.data_dir))
    child = ("-P", "-m", "precipiq_work.child_process_main")
    return {
        "child: master key": lambda: starts.python(*child, sends=[master_key, ("derive", ("bench",), {})]),
        "child: signing": lambda: starts.python(*child, sends=[signing]),
        "child: verifying": lambda: starts.python(*child, sends=[task, ("verify", (), {"progress": False})]),
        "child: bundle": lambda: starts.python(*child, sends=[bundle]),
    }


def show(name: str, costs: list[Cost], bare: list[Cost]) -> None:
    cpu_s, bare_s = (statistics.median(cost.cpu_s for cost in each) for each in (costs, bare))
    wall_s = statistics.median(cost.wall_s for cost in costs)
    print(
        f"{name:20} {cpu_s:6.3f} s CPU {wall_s:6.3f} s wall  {cpu_s / bare_s:5.1f} x bare ({bare_s:.3f} s)", flush=True
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        server.stop()
        starts = Starts(server)
        measured: dict[str, Callable[[], Cost]] = {
            "precipiq --help": lambda: starts.precipiq("--help"),
            "precipiq check": lambda: starts.precipiq("check"),
            "precipiq orgs list": lambda: starts.precipiq("orgs", "list"),
            "precipiq keys create": lambda: starts.precipiq("keys", "create", "--org", server.org_id, "--env", "test"),
            "serve to /healthz": starts.serve,
            **children(starts, server),
        }
        print(f"{'':20} medians of {STARTS}")
        for what, start in measured.items():
            start()
            bare, costs = [], []
            for _ in range(STARTS):
                bare.append(starts.python(*BARE))
                costs.append(start())
            show(what, costs, bare)


if __name__ == "__main__":
    main()
