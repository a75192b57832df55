"""What a deployment of many chains costs the sweep: until each was checked, and from then on.

``BENCH_CHAINS`` (10000): each is an organisation with one key. ``BENCH_SECONDS`` (60): how long the rest is watched.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

from sweep import metric

from precipiq_testkit.server import ServerProcess, running_server

MAKE_KEYS = """
import asyncio, os, sys
from pathlib import Path
from precipiq_auth_keys.service import KeyService
from precipiq_contracts.auth import SCOPES
from precipiq_core.cli.context import assemble_for_command
from precipiq_core.deployment import load_deployment
from precipiq_core.running import run_lifespans

async def main():
    assembly = assemble_for_command(load_deployment(Path(os.environ["PRECIPIQ_CONFIG"]), os.environ))
    async with run_lifespans(assembly):
        keys = assembly.services.get(KeyService)
        for number in range(int(sys.argv[1])):
            organisation = await keys.create_organisation(f"organisation {number}")
            await keys.create_key(organisation.org_id, "test", SCOPES, None, "system")

asyncio.run(main())
"""

CHAINS = int(os.environ.get("BENCH_CHAINS", "10000"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(server: ServerProcess) -> float:
    """Of the server's process and of those of its children that ended."""
    assert server._process is not None
    fields = Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def resident_mb(server: ServerProcess) -> float:
    assert server._process is not None
    lines = Path(f"/proc/{server._process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        server.stop()
        server.python(MAKE_KEYS, str(CHAINS))
        began_s = time.perf_counter()
        server.start()
        started_s = time.perf_counter() - began_s
        while metric(server, "precipiq_ledger_sweep_passes_total") < CHAINS:
            time.sleep(1)
        whole_s, cost_s = time.perf_counter() - began_s, cpu_s(server)
        print(f"{CHAINS:,} chains: serving after {started_s:.1f} s; each checked whole after {whole_s:.0f} s, "
              f"{cost_s:.0f} s of a core; {resident_mb(server):.0f} MB resident")  # fmt: skip
        before = cpu_s(server)
        time.sleep(SECONDS)
        ready = json.loads(urllib.request.urlopen(f"{server.url}/readyz").read())["parts"]["ledger.integrity"]
        print(f"then idle, with one look at each head and its rows in turns: {(cpu_s(server) - before) / SECONDS:.2f} of a core; "
              f"{resident_mb(server):.0f} MB; ledger.integrity is {ready}")  # fmt: skip


if __name__ == "__main__":
    main()
