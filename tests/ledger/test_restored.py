"""An old copy of the database was restored on purpose: it is declared on the chain, and raises no alarm afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.chain import Chain
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.ledger.intruders import Intruder, intruder_of
from tests.system.client import Client
from tests.system.organisations import organisations

pytestmark = [pytest.mark.slow, pytest.mark.system]

EAGER = {
    "PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.2",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "0.2",
}
REASON = "disk died, Zoë 🚀"
KEPT, LAST = 4, 7


@pytest.fixture
def server(server_database: PostgresDatabase | None, tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server", postgres=server_database, overrides=EAGER) as started:
        yield started


def act(server: ServerProcess, org_id: str, what: Callable[[Intruder], object]) -> None:
    with closing(intruder_of(server, Chain(org_id, "test"), server.folder)) as intruder:
        intruder.drop_triggers()
        what(intruder)


def declare(server: ServerProcess) -> tuple[int, dict[str, Any]]:
    done = server.run_warm("ledger", "restored", "--reason", REASON, "--json", check=False)
    chains = json.loads(done.stdout)["chains"] if done.stdout else []
    return done.returncode, {chain["org_id"]: chain for chain in chains}


def verify(server: ServerProcess) -> tuple[int, dict[str, Any]]:
    done = server.run_warm("ledger", "verify", "--all", "--json", check=False)
    return done.returncode, {chain["org_id"]: chain for chain in json.loads(done.stdout)["chains"]}


def test_a_restore_is_declared_and_raises_no_alarm_from_then_on(server: ServerProcess) -> None:
    keys = dict(organisations(server, 4))
    cut, gone, broken, _ = keys
    for key in keys.values():
        for number in range(LAST - 1):
            Client(server, key).decide(number)
    assert declare(server)[0] == 2, "a server runs"
    hashes = {org_id: Client(server, key).entries()[-1]["hash"] for org_id, key in keys.items()}
    assert server.stop() == 0
    assert declare(server) == (0, {}), "there is nothing to declare"

    act(server, cut, lambda it: it.remove(KEPT + 1))
    act(server, gone, lambda it: it.remove(1))
    act(server, broken, lambda it: (it.remove(KEPT + 1), it.set(2, payload=None)))
    if server.postgres is not None:
        server.sql("DELETE FROM ledger_checkpoints")  # an old copy has not what machines told each other since
    code, before = verify(server)
    assert (code, {org_id for org_id in keys if not before[org_id]["is_valid"]}) == (1, {cut, gone, broken})

    code, declared = declare(server)
    assert (code, declared.keys()) == (1, {cut, gone, broken})
    assert declared[broken]["refused"]["code"] == "PAYLOAD_ABSENT"
    for org_id, seq in ((cut, KEPT + 1), (gone, 1)):
        said = declared[org_id]["entry"]["statement"]
        assert declared[org_id]["lost"] == {"seq": LAST, "hash": hashes[org_id]}
        assert (said["kind"], said["seq"], said["actor"]) == ("restore", seq, "system")
        assert said["body"] == {"lost_seq": LAST, "lost_hash": hashes[org_id], "reason": REASON}
    [aside] = (server.data_dir / "checkpoints").glob("restored.*")
    assert aside.stat().st_mode & 0o077 == 0
    names = {f"{cut}.test.jsonl", f"{gone}.test.jsonl", "manifest.json", "sweep.json"}
    assert {path.name for path in aside.iterdir()} == names
    assert declare(server)[1].keys() == {broken}, "the others are declared"

    act(server, broken, lambda it: it.remove(1))
    assert declare(server)[0] == 0
    code, after = verify(server)
    assert (code, {chain["verdict"] for chain in after.values()}) == (1, {"checkpointed", "failed"})
    assert {org_id for org_id, chain in after.items() if not chain["is_valid"]} == {gone, broken}, "by their keys' rows"
    for org_id in (gone, broken):
        server.sql(f"DELETE FROM api_keys WHERE org_id = '{org_id}'")
    code, after = verify(server)
    assert (code, {chain["verdict"] for chain in after.values()}) == (0, {"checkpointed"})
    server.start()
    client = Client(server, keys[cut])
    seq = client.decide(9)["seq"]
    deadline = time.monotonic() + 30
    while (found := client.data("GET", "/ledger/integrity"))["status"] != "whole":
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert [entry["statement"]["kind"] for entry in client.entries()][-2:] == ["restore", "decision"]
    assert client.verify()["is_valid"]
    assert seq == KEPT + 2
    assert [line for line in server.log_lines() if line.get("level") == "critical" and "org_id" in line] == []


def test_a_restore_without_a_reason_is_not_declared(server: ServerProcess) -> None:
    assert server.stop() == 0
    for reason in ("", "  ", "x" * 1001):
        assert server.run_warm("ledger", "restored", "--reason", reason, check=False).returncode == 2


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["sweep/sweep.json", "checkpoints/manifest.json"])
def test_a_record_that_somebody_altered_is_no_ground_to_declare_anything(server: ServerProcess, name: str) -> None:
    assert server.stop() == 0
    path = server.data_dir / name
    path.write_bytes(path.read_bytes()[:-20])
    done = server.run("ledger", "restored", "--reason", REASON, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: what this machine saw cannot be read: ")
