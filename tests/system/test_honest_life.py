"""Honest work under all that happens to machines raises no alarm: kills, restarts, restores, clocks, torn writes.

The opposite of ``tests/ledger/test_attacks.py``: an alarm that cries for nothing is switched off.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys.kinds import EVENT_KINDS
from precipiq_contracts.chain import Chain, Draft
from precipiq_core.master_key import MasterKeyFile
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.sealing import EntrySealer, MasterEpochKeys
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client, decision
from tests.system.open_ledger import open_ledger, serve_kinds

pytestmark = [pytest.mark.slow, pytest.mark.system]

OPERATIONS = rounds(400, long=1_000_000)
AT_ONCE = rounds(25, long=500)
EAGER = {
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "0.2",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_WITHIN_S": "3600",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_CPU_SHARE": "1",
    "PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.2",
}
BODY = {"agent_id": "a", "action_type": "b", "confidence": 1, "human_in_loop": False, "external_id": None}
TORN = b'{"v":1,"org_id":"org_x","environment":"te'


class Life:
    """A server, and what happens to it. Each alarm of each of its lives is kept."""

    def __init__(self, server: ServerProcess, chosen: random.Random) -> None:
        self.server = server
        self.chosen = chosen
        self.client = Client(server)
        self.alarms: list[dict[str, Any]] = []
        self.copies = server.folder / "copies"
        self.done = 0
        self.happened: list[str] = []
        self.refused: list[int] = []

    def work(self) -> None:
        """Some operations of every kind that changes something."""
        drafts = [decision(number) for number in range(AT_ONCE)]
        receipts = self.client.data("POST", "/decisions/batch", json={"decisions": drafts})["receipts"]
        for receipt in self.chosen.sample(receipts, 2):
            path = f"/decisions/{receipt['decision_id']}/redact"
            self.client.data("POST", path, json={"reason": "asked for"})
        new = self.client.data("POST", "/api-keys", json={"scopes": ["read"]})
        rotated = self.client.data("POST", f"/api-keys/{new['id']}/rotate", json={"grace_seconds": 60})
        self.client.data("DELETE", f"/api-keys/{self.chosen.choice([new['id'], rotated['id']])}")
        endpoint = self.client.data("POST", "/integrations/stripe/endpoints", json={})
        self.client.data("POST", f"{endpoint_path(endpoint)}/secret", json={"secret": f"whsec_{os.urandom(16).hex()}"})
        self.client.data("DELETE", endpoint_path(endpoint))
        if self.chosen.random() < 0.2:
            self.client.data("POST", "/exports/signing-keys/rotate", json={})
        self.done += len(receipts) + 8

    def stop(self) -> None:
        self.note_alarms()
        assert self.server.stop() == 0

    def note_alarms(self) -> None:
        self.alarms += [line for line in self.server.log_lines() if line.get("level") == "critical"]

    def start(self) -> None:
        self.server.start()
        self.client = Client(self.server)

    def kill(self) -> None:
        self.note_alarms()
        self.server.kill()
        self.start()

    def restart(self) -> None:
        self.stop()
        self.start()

    def tear_a_checkpoint(self) -> None:
        """What a crash leaves of a line that it writes."""
        self.note_alarms()
        self.server.kill()
        for path in (self.server.data_dir / "checkpoints").glob("*.jsonl"):
            with path.open("ab") as stream:
                stream.write(TORN)
        self.start()

    def restore(self) -> None:
        """An older copy of the database, declared."""
        self.stop()
        self.copies.mkdir(exist_ok=True)
        shutil.copy(self.server.database_file, self.copies)
        self.start()
        self.work()
        self.stop()
        for path in self.server.data_dir.glob("precipiq.db*"):
            path.unlink()
        shutil.copy(self.copies / self.server.database_file.name, self.server.database_file)
        self.server.run_warm("ledger", "restored", "--reason", "the disk died")
        self.start()

    def step_the_clock(self) -> None:
        """A process whose clock is 100 s behind, or two seconds ahead, seals entries."""
        self.stop()
        asyncio.run(self._seal(self.chosen.choice([-100, 2])))
        self.start()

    async def _seal(self, off_s: float) -> None:
        clock = ManualClock(SystemClock().now_us())
        clock.step(off_s)
        folder = self.server.data_dir
        sealer = EntrySealer(MasterEpochKeys(MasterKeyFile(folder / "master.key", False, SystemRandomness())))
        async with open_ledger(None, folder, [], clock=clock, sealer=sealer) as (_, ledger):
            serve_kinds(ledger, EVENT_KINDS)
            chain = Chain(self.server.org_id, "test")
            await ledger.append(chain, [Draft("decision", "key", BODY, {"inputs": {}}) for _ in range(3)])

    def fill_the_disk(self) -> None:
        """No file of the server can grow for a moment: what it writes meanwhile is refused, and nothing half done."""
        assert self.server._process is not None
        pid = self.server._process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
        try:
            for _ in range(5):
                answer = self.client.http.post("/decisions", json=decision(1), timeout=20)
                self.refused.append(answer.status_code)
                time.sleep(0.1)
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        self.restart()


def endpoint_path(endpoint: dict[str, Any]) -> str:
    return f"/integrations/stripe/endpoints/{endpoint['id']}"


HAPPENINGS: tuple[Callable[[Life], None], ...] = (
    Life.kill,
    Life.restart,
    Life.tear_a_checkpoint,
    Life.restore,
    Life.step_the_clock,
    Life.fill_the_disk,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server", overrides=EAGER) as started:
        yield started


def test_honest_work_raises_no_alarm_whatever_happens_to_the_machine(server: ServerProcess) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    life = Life(server, random.Random(seed))
    turn = 0
    while life.done < OPERATIONS:
        life.work()
        if turn % 2 == 0:
            happening = HAPPENINGS[turn // 2 % len(HAPPENINGS)]
            life.happened.append(happening.__name__)
            happening(life)
        turn += 1
    assert {happening.__name__ for happening in HAPPENINGS} <= set(life.happened)
    assert 503 in life.refused
    client = life.client
    newest = client.entries(500)[-1]["statement"]["seq"]
    deadline = time.monotonic() + 120
    while (found := client.data("GET", "/ledger/integrity"))["checked_through"]["seq"] < newest:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert (found["first_broken_link"], found["unannounced_rows"]) == (None, [])
    verdict = client.verify()
    assert (verdict["is_valid"], verdict["verdict"]) == (True, "checkpointed"), verdict
    life.note_alarms()
    assert life.alarms == []
    assert httpx2.get(f"{server.url}/readyz").json()["parts"]["ledger.integrity"] == "ok"
