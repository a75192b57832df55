"""A served chain that a wrong clock pinned: told by readiness, refusals, verdicts, log, until the limit is raised."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2
import pytest

from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import ClockedDatabase
from precipiq_core.master_key import MasterKeyFile
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.sealing import EntrySealer, MasterEpochKeys
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client, decision
from tests.system.open_ledger import open_ledger, serve_kinds

AHEAD_S = 3600
BODY = {"agent_id": "a", "action_type": "b", "confidence": 1, "human_in_loop": False, "external_id": None}
RAISED = {"PRECIPIQ__PLUGINS__LEDGER__CLOCK_AHEAD_MAX_S": "7200"}


def readiness(server: ServerProcess) -> tuple[int, str]:
    answer = httpx2.get(f"{server.url}/readyz")
    return answer.status_code, answer.json()["parts"]["ledger.clock"]


async def seal_ahead(folder: Path, chain: Chain) -> None:
    """An entry by a clock that is an hour ahead, as a process on a wrong machine would seal it."""
    clock = ManualClock(SystemClock().now_us())
    clock.step(AHEAD_S)
    sealer = EntrySealer(MasterEpochKeys(MasterKeyFile(folder / "master.key", False, SystemRandomness())))
    async with open_ledger(None, folder, [], clock=clock, sealer=sealer) as (_, ledger):
        serve_kinds(ledger, [])
        await ledger.append(chain, [Draft("decision", "key", BODY, {"inputs": {}})])


@pytest.mark.system
def test_a_chain_that_was_pinned_is_told_everywhere_and_goes_on_when_the_operator_says_so(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert readiness(server) == (200, "ok")
        server.stop()
        asyncio.run(seal_ahead(server.data_dir, Chain(server.org_id, "test")))
        server.start()
        assert readiness(server) == (503, "failed")
        client = Client(server)
        refused = client.http.post("/decisions", json=decision())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "clock_untrusted")
        assert 3000 < int(refused.headers["retry-after"]) <= AHEAD_S
        verdict = client.verify()
        assert verdict["is_valid"]
        assert [each for each in verdict["unchecked"] if "ahead of this server's clock" in each]
        assert (
            "ahead of this server's clock"
            in server.run("ledger", "verify", "--org", server.org_id, "--env", "test").stdout
        )
        told = [line for line in server.log_lines() if line["event"].startswith("a chain is ahead of the clock")]
        assert {line["level"] for line in told} == {"critical"}
        metrics = httpx2.get(f"{server.url}/metrics").text
        assert "precipiq_clock_refused_seals_total 1.0" in metrics
        server.stop()
    with running_server(tmp_path, overrides=RAISED) as server:
        assert readiness(server) == (200, "ok")
        assert httpx2.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.anyio
async def test_a_database_on_another_machine_tells_its_time(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    async with open_ledger(server_database, tmp_path, []) as (database, _):
        assert isinstance(database, ClockedDatabase) == (server_database is not None)
        if isinstance(database, ClockedDatabase):
            before = time.time()
            now_s = await database.now_us() / 1_000_000
            assert before - 2 <= now_s <= time.time() + 2


def test_the_monotonic_clock_goes_on() -> None:
    clock = SystemClock()
    readings = [clock.monotonic_s() for _ in range(1000)]
    assert readings == sorted(readings)
