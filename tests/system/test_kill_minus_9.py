"""SIGKILL at random moments under load: what was acknowledged is there, and nothing is doubled."""

from __future__ import annotations

import json
import os
import random
import threading
import time

import httpx2

from precipiq_testkit.server import ServerProcess
from tests.effort import rounds

from .client import Client, decision

ROUNDS = rounds(3, long=50)
WRITERS = 4


class Writer(threading.Thread):
    """Writes until told to stop; retries what was not acknowledged with the same key, as a careful client does."""

    def __init__(self, server: ServerProcess, number: int) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.number = number
        self.stopped = threading.Event()
        self.acknowledged: dict[str, dict[str, object]] = {}

    def run(self) -> None:
        count = 0
        while not self.stopped.is_set():
            key = f"writer-{self.number}-{count}"
            receipt = self._write(key)
            if receipt is not None:
                self.acknowledged[key] = receipt
                count += 1

    def _write(self, key: str) -> dict[str, object] | None:
        headers = {"X-Precipiq-Key": self.server.key, "Idempotency-Key": key}
        try:
            with httpx2.Client(base_url=self.server.url, headers=headers, timeout=5) as http:
                answer = http.post("/api/v1/decisions", json=decision(self.number, metadata={"key": key}))
                return json.loads(answer.text)["data"] if answer.status_code == 201 else None
        except httpx2.HTTPError:
            time.sleep(0.02)
            return None


def wait_for_one_more(writers: list[Writer]) -> None:
    """Until something was acknowledged: a kill means nothing before."""

    def count() -> int:
        return sum(len(writer.acknowledged) for writer in writers)

    goal, deadline_s = count() + 1, time.monotonic() + 60
    while count() < goal:
        assert time.monotonic() < deadline_s, "nothing is acknowledged any more"
        time.sleep(0.005)


def test_no_acknowledged_entry_is_lost_and_no_key_doubled(server: ServerProcess) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    port = server.url.rpartition(":")[2]
    writers = [Writer(server, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()

    for _ in range(ROUNDS):
        wait_for_one_more(writers)
        time.sleep(chosen.uniform(0.02, 0.3))
        server.kill()
        server.start_on(port)
    time.sleep(0.3)
    for writer in writers:
        writer.stopped.set()
    for writer in writers:
        writer.join(30)

    client = Client(server)
    entries = client.entries(500)
    by_id = {entry["statement"]["id"]: entry for entry in entries}
    keys = [entry["payload"]["metadata"]["key"] for entry in entries if entry["statement"]["kind"] == "decision"]
    acknowledged = [receipt for writer in writers for receipt in writer.acknowledged.values()]
    assert len(acknowledged) >= ROUNDS, "the writers must have written between the kills"
    for receipt in acknowledged:
        assert by_id[receipt["decision_id"]]["hash"] == receipt["hash"]
    assert len(keys) == len(set(keys))
    assert [entry["statement"]["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert client.verify()["is_valid"]
