"""Three nodes on one PostgreSQL while nodes, connections and the database die: nothing acknowledged is ever lost.

With ``--long`` 50 rounds; fewer are enough for every day.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_testkit.postgres import OwnPostgres, PostgresDatabase, own_postgres
from precipiq_testkit.server import ServerProcess
from tests.effort import rounds

from .client import Client, decision

pytestmark = pytest.mark.system

ROUNDS = rounds(6, long=50)
NODES = 3
WRITERS = 6
RECOVERY_MAX_S = 10.0
KNOWN_ELSEWHERE_MAX_S = 5.0
LOOKED_S = 2.5
"""Each node has seen by then that the key was made, and has it in memory."""
CHECKPOINT_INTERVALS_S = ["1", "1.5", "3600"]  # the last node signs none
REQUEST_TIMEOUT_S = 3.0
END_TIMEOUT_S = 60.0


class Cluster:
    """The nodes, started, and their database."""

    def __init__(self, folder: Path, own: OwnPostgres) -> None:
        self.own = own
        self.starts_s: list[float] = []
        self.database: PostgresDatabase = own.server.new_database()
        self.nodes = [
            ServerProcess(folder / f"node-{number}", postgres=self.database, overrides=self._overrides(number))
            for number in range(NODES)
        ]

    @staticmethod
    def _overrides(number: int) -> dict[str, str]:
        return {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": CHECKPOINT_INTERVALS_S[number]}

    def start(self) -> None:
        first, *others = self.nodes
        first.start()
        for node in others:
            node.data_dir.mkdir(mode=0o700)
            shutil.copy(first.data_dir / "master.key", node.data_dir / "master.key")
            node.start()
            assert not node.key, "the first start happens once"
            node.key, node.org_id = first.key, first.org_id

    def stop(self) -> None:
        for node in self.nodes:
            if node._process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        own = stack.enter_context(own_postgres(durable=True))
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), own)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


class Writer(threading.Thread):
    """Writes until told to stop; what was not acknowledged it sends again, with the same key, to another node."""

    def __init__(self, nodes: list[ServerProcess], number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.nodes = nodes
        self.number = number
        self.stopped = threading.Event()
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.statuses = Counter[object]()
        self._chosen = random.Random(seed)
        self._http = [httpx2.Client(base_url=node.url, timeout=REQUEST_TIMEOUT_S) for node in nodes]

    def run(self) -> None:
        count = 0
        while not self.stopped.is_set():
            key = f"writer-{self.number}-{count}"
            self.acknowledged[key] = self._write(key)
            count += 1
        for http in self._http:
            http.close()

    def _write(self, key: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + END_TIMEOUT_S
        while time.monotonic() < deadline_s:
            receipt = self.try_node(self._chosen.randrange(len(self.nodes)), key)
            if receipt is not None:
                return receipt
            time.sleep(0.02)
        raise AssertionError(f"{key} was never acknowledged")

    def try_node(self, place: int, key: str) -> dict[str, Any] | None:
        try:
            receipt, status = post(self._http[place], self.nodes[place].key, key, self.number)
        except httpx2.HTTPError as error:
            receipt, status = None, type(error).__name__
        self.statuses[status] += 1
        return receipt


def post(http: httpx2.Client, api_key: str, key: str, number: int = 0) -> tuple[dict[str, Any] | None, object]:
    """The receipt, if there is one, and what was answered."""
    headers = {"X-Precipiq-Key": api_key, "Idempotency-Key": key}
    answer = http.post("/api/v1/decisions", json=decision(number, metadata={"key": key}), headers=headers)
    if answer.status_code == 201:
        return json.loads(answer.text)["data"], 201
    return None, f"{answer.status_code} {answer.text}"


class Recovery:
    """Measures, from the moment when nothing hinders a node any more, how long it takes to acknowledge a write."""

    def __init__(self, cluster: Cluster, round_: int, pool: ThreadPoolExecutor) -> None:
        self._cluster = cluster
        self._round = round_
        self._pool = pool
        self._probes: list[Future[float]] = []

    def expect(self, *nodes: ServerProcess) -> None:
        """From now on these nodes have no excuse."""
        since_s = time.monotonic()
        self._probes += [self._pool.submit(self._probe, node, since_s) for node in nodes]

    def durations_s(self) -> list[float]:
        """Of all that was expected."""
        return [probe.result() for probe in self._probes]

    def _probe(self, node: ServerProcess, since_s: float) -> float:
        number = 0
        while True:
            assert time.monotonic() < since_s + END_TIMEOUT_S, f"{node.url} does not recover"
            try:
                with httpx2.Client(base_url=node.url, timeout=REQUEST_TIMEOUT_S) as http:
                    if post(http, node.key, f"probe-{self._round}-{node.folder.name}-{number}")[0] is not None:
                        return time.monotonic() - since_s
            except httpx2.HTTPError:
                pass
            number += 1
            time.sleep(0.02)


Fault = Callable[[Cluster, random.Random, Recovery], None]
"""Does its harm, ends it, and says what is to recover from when on: a node that was killed, once it serves again."""


def kill_a_node(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
    _kill_and_start(cluster, chosen.choice(cluster.nodes), chosen.uniform(0, 0.5), recovery)


def _kill_and_start(cluster: Cluster, node: ServerProcess, pause_s: float, recovery: Recovery) -> None:
    port = node.url.rpartition(":")[2]
    node.kill()
    recovery.expect(*(other for other in cluster.nodes if other is not node))
    time.sleep(pause_s)
    started_s = time.monotonic()
    node.start_on(port)
    cluster.starts_s.append(time.monotonic() - started_s)
    recovery.expect(node)


def restart_database(how: signal.Signals) -> Fault:
    def fault(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
        if how == signal.SIGKILL:
            cluster.own.kill()
        else:
            cluster.own.stop(how)
        time.sleep(chosen.uniform(0, 1.5))
        recovery.expect(*cluster.nodes)
        cluster.own.start()

    fault.__name__ = f"database {how.name}"
    return fault


def cut_connections(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
    for _ in range(chosen.randrange(1, 4)):
        cluster.database.disconnect_all()
        time.sleep(chosen.uniform(0, 0.1))
    recovery.expect(*cluster.nodes)


def freeze_a_node(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
    node = chosen.choice(cluster.nodes)
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(chosen.uniform(0.5, 2.5))
    node.process.send_signal(signal.SIGCONT)
    recovery.expect(*cluster.nodes)


def freeze_then_kill_a_node(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
    node = chosen.choice(cluster.nodes)
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(chosen.uniform(0.2, 1.0))
    _kill_and_start(cluster, node, 0.0, recovery)


def kill_a_node_and_the_database(cluster: Cluster, chosen: random.Random, recovery: Recovery) -> None:
    node = chosen.choice(cluster.nodes)
    others = [other for other in cluster.nodes if other is not node]
    port = node.url.rpartition(":")[2]
    cluster.own.stop(signal.SIGQUIT)
    node.kill()
    time.sleep(chosen.uniform(0, 0.5))
    recovery.expect(*others)
    cluster.own.start()
    node.start_on(port)
    recovery.expect(node)


FAULTS: list[Fault] = [
    kill_a_node,
    restart_database(signal.SIGINT),
    restart_database(signal.SIGQUIT),
    restart_database(signal.SIGKILL),
    cut_connections,
    freeze_a_node,
    freeze_then_kill_a_node,
    kill_a_node_and_the_database,
]


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_every_node_recovers(cluster: Cluster) -> None:
    seed = int(os.environ.get("PRECIPIQ_TEST_SEED", int.from_bytes(os.urandom(4))))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    writers = [Writer(cluster.nodes, number, seed + number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()

    slowest: list[tuple[float, str]] = []
    faults = [fault for _ in range(1 + ROUNDS // len(FAULTS)) for fault in chosen.sample(FAULTS, len(FAULTS))]
    with ThreadPoolExecutor(NODES) as pool:
        for round_, fault in enumerate(faults[:ROUNDS]):
            time.sleep(chosen.uniform(0.1, 0.6))
            recovery = Recovery(cluster, round_, pool)
            fault(cluster, chosen, recovery)
            durations_s = recovery.durations_s()
            slowest.append((max(durations_s), fault.__name__))
            print(f"{round_}: {fault.__name__}: {', '.join(f'{duration_s:.2f}' for duration_s in durations_s)}")
    time.sleep(0.5)
    for writer in writers:
        writer.stopped.set()
    for writer in writers:
        writer.join(END_TIMEOUT_S)
        assert not writer.is_alive()
    statuses = sum((writer.statuses for writer in writers), Counter[object]())
    print(f"answers: {dict(statuses)}; slowest recoveries: {sorted(slowest)[-5:]}")
    print(f"starts of a node: {', '.join(f'{start_s:.1f}' for start_s in sorted(cluster.starts_s))} s")

    assert_nothing_is_lost(
        cluster, {key: receipt for writer in writers for key, receipt in writer.acknowledged.items()}
    )
    assert max(slowest)[0] < RECOVERY_MAX_S, max(slowest)
    assert_logs_are_calm(cluster)
    refused = [status for status in statuses if isinstance(status, str) and status[0] in "1234567890"]
    assert [status for status in refused if not status.startswith("503 ")] == []


def assert_nothing_is_lost(cluster: Cluster, acknowledged: dict[str, dict[str, Any]]) -> None:
    assert len(acknowledged) > 10 * ROUNDS, "the writers must have written between the faults"
    entries = Client(cluster.nodes[0]).entries(500)
    written = [entry for entry in entries if _is_of_a_writer(entry)]
    by_key = {entry["payload"]["metadata"]["key"]: entry for entry in written}
    print(f"{len(acknowledged)} acknowledged, {len(entries)} stored")
    assert [entry["statement"]["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert len(by_key) == len(written), "a key is stored twice"
    for key, receipt in acknowledged.items():
        entry = by_key[key]
        statement = entry["statement"]
        assert (receipt["decision_id"], receipt["seq"], receipt["hash"]) == (
            statement["id"],
            statement["seq"],
            entry["hash"],
        )
    for node in cluster.nodes:
        verdict = Client(node).verify()
        assert verdict["is_valid"], verdict
        assert verdict["records_checked"] == len(entries)


def assert_logs_are_calm(cluster: Cluster) -> None:
    """A database that is away is told in few words: no traceback, no alarm about the chain."""
    events = Counter[tuple[str, str]]()
    for node in cluster.nodes:
        lines = [json.loads(line) for line in node.log_file.read_text().splitlines() if line.startswith("{")]
        lines = [line for line in lines if line["event"] != "request" or line["status"] not in (201, 503)]
        events.update((line["level"], line["event"]) for line in lines if line["level"] != "info")
        assert [line for line in lines if "exception" in line or "exc_info" in line] == []
    print(f"logged: {dict(events)}")
    assert {event for level, event in events if level in ("error", "critical")} <= {"checkpoints not written"}


def _is_of_a_writer(entry: dict[str, Any]) -> bool:
    """Other tests over the same nodes record decisions without a key."""
    return entry["statement"]["kind"] == "decision" and "key" in (entry["payload"]["metadata"] or {})


def until(is_so: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    started_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < started_s + END_TIMEOUT_S, "it never is"
        time.sleep(0.05)
    return time.monotonic() - started_s


def test_a_key_that_one_node_revokes_is_refused_by_the_others_in_time(cluster: Cluster) -> None:
    one, two, three = (Client(node) for node in cluster.nodes)
    made = one.data("POST", "/api-keys", json={"scopes": ["read"]})

    def status(client: Client) -> int:
        return client.http.get("/ledger/head", headers={"X-Precipiq-Key": made["key"]}).status_code

    known_s = time.monotonic() + LOOKED_S
    until(lambda: [status(client) for client in (one, two, three)] == [200, 200, 200] and time.monotonic() > known_s)
    assert one.http.delete(f"/api-keys/{made['id']}").is_success
    assert status(one) == 401
    for client in (two, three):
        assert until(lambda client=client: status(client) == 401) < KNOWN_ELSEWHERE_MAX_S  # type: ignore[misc]


def test_a_checkpoint_of_one_node_is_in_the_verification_of_the_others_in_time(cluster: Cluster) -> None:
    seq = Client(cluster.nodes[0]).decide()["seq"]
    signed_at_s = until(lambda: min(newest_checkpoint(node) for node in cluster.nodes[:2]) >= seq)
    known_at_s = until(lambda: newest_checkpoint(cluster.nodes[2]) >= seq)
    print(f"signed after {signed_at_s:.2f} s, known to the third node {known_at_s:.2f} s later")
    assert known_at_s < KNOWN_ELSEWHERE_MAX_S
    assert Client(cluster.nodes[2]).verify()["verdict"] == "checkpointed"


def newest_checkpoint(node: ServerProcess) -> int:
    return int(Client(node).verify()["checkpoints"]["newest_seq"] or 0)
