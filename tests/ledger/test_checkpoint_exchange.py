"""Checkpoints reach every node: signed by one, held in files by all, and no change of the database takes them away."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_ledger.checkpoint_exchange import EXCHANGE_INTERVAL_S
from precipiq_testkit.plugin import use_database
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.ledger.intruders import PostgresIntruder
from tests.system.client import Client
from tests.system.organisations import organisations

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
NEVER = {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "3600"}
OFTEN = {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.2"}


@dataclass(frozen=True)
class Nodes:
    """One that signs often and one that does not sign by itself, over one database."""

    one: ServerProcess
    two: ServerProcess
    postgres: PostgresDatabase
    organisations: list[tuple[str, str]]


@dataclass(frozen=True)
class Writing:
    """Writes to a chain of its own, and sees which of its checkpoints a node holds."""

    nodes: Nodes
    chain: Chain
    key: str

    def decide(self, number: int) -> int:
        return int(Client(self.nodes.one, self.key).decide(number)["seq"])

    def verify(self) -> dict[str, object]:
        """By the node that signed nothing."""
        return dict(Client(self.nodes.two, self.key).verify())

    def held(self, server: ServerProcess) -> list[int]:
        path = server.data_dir / "checkpoints" / f"{self.chain.org_id}.{self.chain.environment}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["seq"] for line in lines if line.endswith("\n")]

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """``{mine}`` stands for the condition that rows are of this chain."""
        mine = f"org_id = '{self.chain.org_id}' AND environment = '{self.chain.environment}'"
        return [tuple(row) for row in self.nodes.one.sql(statement.format(mine=mine))]


@pytest.fixture(scope="module")
def nodes(migrated_postgres: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with (
        pytest.MonkeyPatch.context() as patch,
        use_database(migrated_postgres.copy(), patch) as postgres,
        running_server(tmp_path_factory.mktemp("one"), postgres=postgres, overrides=OFTEN) as one,
        node_like(one, tmp_path_factory.mktemp("two")) as two,
    ):
        yield Nodes(one, two, postgres, organisations(one, 4))


@pytest.fixture
def writing(nodes: Nodes) -> Writing:
    org_id, key = nodes.organisations.pop()
    return Writing(nodes, Chain(org_id, "test"), key)


def node_like(one: ServerProcess, folder: Path):  # type: ignore[no-untyped-def]
    (folder / "data").mkdir()
    shutil.copy(one.data_dir / "master.key", folder / "data" / "master.key")
    return running_server(folder, postgres=one.postgres, overrides=NEVER)


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not check() and time.monotonic() < deadline:
        time.sleep(0.05)
    return check()


def test_a_checkpoint_comes_to_the_other_node(writing: Writing) -> None:
    for number in range(3):
        seq = writing.decide(number)
        assert eventually(lambda seq=seq: seq in writing.held(writing.nodes.one))
        assert eventually(lambda seq=seq: seq in writing.held(writing.nodes.two))
    assert writing.verify()["verdict"] == "checkpointed"
    [(count,)] = writing.sql("SELECT count(*) FROM ledger_checkpoints WHERE {mine}")
    assert isinstance(count, int)
    assert count >= 3


def test_twice_the_interval_of_the_exchange_is_within_the_5_s_of_the_contract() -> None:
    assert 2 * EXCHANGE_INTERVAL_S < 5


def test_a_tail_cut_in_the_database_is_found_by_the_node_that_signed_nothing(writing: Writing, tmp_path: Path) -> None:
    seq = writing.decide(1)
    assert eventually(lambda: seq in writing.held(writing.nodes.two))
    with closing(PostgresIntruder(writing.nodes.postgres, writing.chain, tmp_path)) as intruder:
        intruder.drop_triggers()
        intruder.remove(seq)
    writing.sql("DELETE FROM ledger_checkpoints WHERE {mine}")

    broken = writing.verify()["first_broken_link"]
    assert isinstance(broken, dict)
    assert (broken["seq"], broken["code"]) == (seq, "TRUNCATED")


def test_a_node_that_starts_later_gets_what_was_signed_before(writing: Writing, tmp_path: Path) -> None:
    seq = writing.decide(1)
    shared = "SELECT 1 FROM ledger_checkpoints WHERE {mine} AND seq = " + str(seq)
    assert eventually(lambda: writing.sql(shared) != [])
    with node_like(writing.nodes.one, tmp_path) as three:
        assert eventually(lambda: seq in writing.held(three))


def test_a_forged_checkpoint_is_cried_out_and_not_taken(writing: Writing) -> None:
    nodes = writing.nodes
    seq = writing.decide(1)
    forged_seq = seq + 1000
    assert eventually(lambda: seq in writing.held(nodes.two))
    forged = f"replace(line, '\"seq\":{seq},', '\"seq\":{forged_seq},')"
    writing.sql(
        f"INSERT INTO ledger_checkpoints SELECT org_id, environment, {forged_seq}, {forged}, shared_us + 1 "
        f"FROM ledger_checkpoints WHERE {{mine}} AND seq = {seq}"
    )
    said = "not signed by this deployment's key"
    assert eventually(lambda: any(said in str(line.get("event")) for line in nodes.two.log_lines()))
    writing.sql(f"UPDATE ledger_checkpoints SET line = 'no checkpoint' WHERE {{mine}} AND seq = {forged_seq}")
    later = writing.decide(2)
    assert eventually(lambda: later in writing.held(nodes.two)), "one bad row stops the others"
    assert forged_seq not in writing.held(nodes.two)
    assert writing.verify()["is_valid"] is True
