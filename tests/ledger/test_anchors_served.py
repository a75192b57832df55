"""What an intruder did to the files of checkpoints, or to a chain that they know, as the operator learns it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.chain import Chain
from precipiq_testkit.server import ServerProcess
from tests.ledger.checkpoint_helpers import THEIRS
from tests.ledger.checkpoint_helpers import sign as sign_for
from tests.ledger.intruders import intruder_of
from tests.system.client import Client

pytestmark = pytest.mark.slow
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what is found in files, whatever the database."""


class Site:
    """A server that signs when it stops, and its files of checkpoints."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.chain = Chain(server.org_id, "test")
        self.folder = server.data_dir / "checkpoints"
        self.path = self.folder / f"{server.org_id}.test.jsonl"
        self._said: list[dict[str, Any]] = []
        for number in range(5):
            Client(server).decide(number)
        self.restart()

    def restart(self, kept: Path | None = None) -> None:
        """``kept``: a copy of the folder, to be put in its place meanwhile."""
        assert self.server.stop() == 0
        self._said += self.server.log_lines()
        if kept is not None:
            shutil.rmtree(self.folder)
            shutil.copytree(kept, self.folder)
        self.server.start()

    def verify(self, *arguments: str) -> tuple[int, Any]:
        """Exit code and document of the command."""
        asked = arguments or ("--org", self.server.org_id, "--env", "test")
        done = self.server.run_warm("ledger", "verify", *asked, "--json", check=False)
        return done.returncode, json.loads(done.stdout)

    def codes(self) -> list[str]:
        """Of the findings, over HTTP; the command must say the same."""
        code, document = self.verify()
        served = Client(self.server).verify()
        findings = [finding["code"] for finding in served["checkpoints"]["findings"]]
        assert [finding["code"] for finding in document["checkpoints"]["findings"]] == findings
        assert (code, document["verdict"]) == ((1, "failed") if findings else (0, served["verdict"]))
        return findings

    def cried(self, event: str) -> list[dict[str, Any]]:
        said = [*self._said, *self.server.log_lines()]
        return [line for line in said if str(line.get("event")).startswith(event)]


@pytest.fixture(scope="module")
def shared_site(shared_server: ServerProcess) -> Site:
    return Site(shared_server)


@pytest.fixture
def site(shared_site: Site, tmp_path: Path) -> Iterator[Site]:
    # A part that is being written beside its file may be gone when it is its turn.
    shutil.copytree(shared_site.folder, tmp_path / "kept", ignore=shutil.ignore_patterns(".*.part"))
    yield shared_site
    shared_site.restart(tmp_path / "kept")


def test_the_newest_anchor_is_named_with_its_age(site: Site) -> None:
    assert site.codes() == []
    served = Client(site.server).verify()
    assert served["verdict"] == "checkpointed"
    checkpoints = served["checkpoints"]
    newest = json.loads(site.path.read_text().splitlines()[-1])
    assert (checkpoints["newest_seq"], checkpoints["newest_time"]) == (newest["seq"], newest["time"])
    assert 0 <= checkpoints["newest_age_s"] < 600
    shown = site.server.run_warm("ledger", "verify", "--org", site.server.org_id, "--env", "test").stdout
    assert f"newest checkpoint: of entry {newest['seq']}, {newest['time']}" in shown


@on_sqlite
def test_a_line_of_another_key_is_found(site: Site) -> None:
    with site.path.open("ab") as stream:
        stream.write(sign_for(10**6, THEIRS, site.chain).line())
    assert site.codes() == ["KEY_UNANCHORED"]


@on_sqlite
def test_a_line_of_another_chain_is_found(site: Site) -> None:
    other = Client(site.server, site.server.create_key("live"))
    other.decide()
    site.restart()
    [live] = site.folder.glob("*.live.jsonl")
    with site.path.open("ab") as stream:
        stream.write(live.read_bytes())
    assert site.codes() == ["WRONG_ORIGIN"]


@on_sqlite
def test_a_cut_file_is_found_after_the_next_checkpoint_too(site: Site) -> None:
    Client(site.server).decide()
    site.restart()
    lines = site.path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    site.path.write_bytes(b"".join(lines[:-1]))
    assert site.codes() == ["CHECKPOINTS_LOST"]
    Client(site.server).decide()
    site.restart()
    assert site.codes() == ["CHECKPOINTS_LOST"]
    assert [line["org_id"] for line in site.cried("a chain's file of checkpoints was")] == [site.server.org_id]


def test_a_command_leaves_a_checkpoint_of_what_it_appends(site: Site) -> None:
    site.server.run_warm("keys", "create", "--org", site.server.org_id, "--env", "test")
    held = [json.loads(line)["seq"] for line in site.path.read_bytes().splitlines()]
    served = Client(site.server).verify()
    assert served["head"]["seq"] in held
    assert served["checkpoints"]["newest_seq"] == served["head"]["seq"]
    assert site.codes() == []


@pytest.fixture
def spoilt(server: ServerProcess) -> Site:
    """A server of its own, for tests that spoil its database."""
    return Site(server)


def test_a_deleted_organisation_is_known_to_the_manifest(spoilt: Site) -> None:
    with closing(intruder_of(spoilt.server, spoilt.chain, spoilt.server.folder)) as intruder:
        intruder.drop_triggers()
        intruder.remove(1)
    spoilt.path.unlink()
    code, document = spoilt.verify("--all")
    [chain] = [chain for chain in document["chains"] if chain["environment"] == "test"]
    assert (code, chain["first_broken_link"]["code"]) == (1, "ORG_MISSING")
    spoilt.restart()
    assert spoilt.cried("a chain that has checkpoints is not in the database")


@on_sqlite
def test_no_checkpoint_follows_a_rewritten_chain(spoilt: Site) -> None:
    held = spoilt.path.read_bytes()
    last = json.loads(held.splitlines()[-1])["seq"]
    with closing(intruder_of(spoilt.server, spoilt.chain, spoilt.server.folder)) as intruder:
        intruder.drop_triggers()
        intruder.set(last, hash="0" * 64)
    for number in range(2):
        Client(spoilt.server).decide(number)
        spoilt.restart()
    assert spoilt.path.read_bytes() == held
    said = [len(spoilt.cried(event)) for event in ("chain was rewritten: ", "chain has a known break")]
    assert max(said) <= 2 <= sum(said), "each once by each process: before the sweep found it, and after"


def test_odd_organisations_in_rows_lead_nowhere_and_stop_no_checkpoint(spoilt: Site) -> None:
    odd = ["../../x", "org/../y", "", "X" * 300]
    with closing(intruder_of(spoilt.server, spoilt.chain, spoilt.server.folder)) as intruder:
        intruder.drop_triggers()
        [statement] = intruder.get(1, "statement")
        entry_id = json.loads(statement)["id"]
        for number, org_id in enumerate(odd):
            other_id = entry_id[:-4] + f"000{number}"
            altered = statement.replace(entry_id.encode(), other_id.encode())
            intruder.copy(1, org_id=org_id, id=other_id, statement=altered)
    before = {path for path in spoilt.server.folder.rglob("*") if path.parent != spoilt.folder}
    seq = Client(spoilt.server).decide()["seq"]
    spoilt.restart()
    assert json.loads(spoilt.path.read_text().splitlines()[-1])["seq"] == seq
    assert {line["org_id"] for line in spoilt.cried("rows of a chain that no organisation can have")} == {"", "X" * 300}
    after = {path for path in spoilt.server.folder.rglob("*") if path.parent != spoilt.folder}
    assert {path.name for path in after - before} <= {"precipiq.db-wal", "precipiq.db-shm"}
    assert list(spoilt.folder.glob("~*.jsonl")) == [], "no server made them"
