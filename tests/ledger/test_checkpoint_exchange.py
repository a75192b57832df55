"""Checkpoints reach every node: signed by one, held in files by all, and no change of the database takes them away."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server

WITHIN_S = 5.0
NEVER = {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "3600"}
OFTEN = {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.2"}


@pytest.fixture
def nodes(postgres: PostgresDatabase, tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """One that signs often and one that does not sign by itself."""
    with (
        running_server(tmp_path / "one", postgres=postgres, overrides=OFTEN) as one,
        node_like(one, tmp_path / "two") as two,
    ):
        yield one, two


def node_like(one: ServerProcess, folder: Path, overrides: dict[str, str] = NEVER):  # type: ignore[no-untyped-def]
    (folder / "data").mkdir(parents=True)
    shutil.copy(one.data_dir / "master.key", folder / "data" / "master.key")
    return running_server(folder, postgres=one.postgres, overrides=overrides)


def decide(server: ServerProcess, key: str, number: int) -> int:
    decision = {"agent_id": "a", "action_type": "b", "inputs": {"n": number}, "outputs": {}, "confidence": 1}
    answer = httpx2.post(f"{server.url}/api/v1/decisions", json=decision, headers={"X-Precipiq-Key": key}, timeout=20)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["data"]["seq"])


def held(server: ServerProcess) -> list[dict[str, object]]:
    files = (server.data_dir / "checkpoints").glob("*.test.jsonl")
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while not check() and time.monotonic() < deadline:
        time.sleep(0.05)
    return check()


def verify(server: ServerProcess, key: str) -> dict[str, object]:
    url = f"{server.url}/api/v1/decisions/chain/verify"
    return dict(httpx2.get(url, headers={"X-Precipiq-Key": key}, timeout=60).json()["data"])


def test_a_checkpoint_is_with_the_other_node_within_5_s(nodes: tuple[ServerProcess, ServerProcess]) -> None:
    one, two = nodes
    for number in range(3):
        seq = decide(one, one.key, number)
        assert eventually(lambda seq=seq: any(line["seq"] == seq for line in held(one)))
        assert eventually(lambda seq=seq: any(line["seq"] == seq for line in held(two)))
    assert verify(two, one.key)["verdict"] == "checkpointed"
    assert one.sql("SELECT count(*) FROM ledger_checkpoints")[0][0] >= 3


def test_a_tail_cut_in_the_database_is_found_by_the_node_that_signed_nothing(
    nodes: tuple[ServerProcess, ServerProcess],
) -> None:
    one, two = nodes
    seq = decide(one, one.key, 1)
    assert eventually(lambda: any(line["seq"] == seq for line in held(two)))
    assert one.postgres is not None
    cut = f"DELETE FROM precipiq.entries WHERE seq = {seq}"
    one.postgres.sql(*one.postgres.without_triggers("entries", cut), "TRUNCATE precipiq.ledger_checkpoints")

    broken = verify(two, one.key)["first_broken_link"]
    assert isinstance(broken, dict)
    assert (broken["seq"], broken["code"]) == (seq, "TRUNCATED")


def test_a_node_that_starts_later_gets_what_was_signed_before(
    nodes: tuple[ServerProcess, ServerProcess], tmp_path: Path
) -> None:
    one, _ = nodes
    seq = decide(one, one.key, 1)
    assert eventually(lambda: one.sql(f"SELECT count(*) FROM ledger_checkpoints WHERE seq = {seq}")[0][0] == 1)
    with node_like(one, tmp_path / "three") as three:
        assert eventually(lambda: any(line["seq"] == seq for line in held(three)))


def test_a_forged_checkpoint_is_cried_out_and_not_taken(nodes: tuple[ServerProcess, ServerProcess]) -> None:
    one, two = nodes
    seq = decide(one, one.key, 1)
    assert eventually(lambda: any(line["seq"] == seq for line in held(two)))
    forged = f"replace(line, '\"seq\":{seq},', '\"seq\":{seq + 1000},')"
    one.sql(
        f"INSERT INTO ledger_checkpoints SELECT org_id, environment, {seq + 1000}, {forged}, shared_us + 1 "
        f"FROM ledger_checkpoints WHERE seq = {seq}"
    )
    assert eventually(
        lambda: any("not signed by this deployment's key" in str(line.get("event")) for line in two.log_lines())
    )
    one.sql(f"UPDATE ledger_checkpoints SET line = 'no checkpoint' WHERE seq = {seq + 1000}")
    later = decide(one, one.key, 2)
    assert eventually(lambda: any(line["seq"] == later for line in held(two))), "one bad row stops the others"
    assert all(line["seq"] != seq + 1000 for line in held(two))
    assert verify(two, one.key)["is_valid"] is True
