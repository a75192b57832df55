"""The catalogue of attacks on one running server: the sweep alone is loud about each, and nothing forgets it later.

Each chain is attacked in its own way, all at once; a chain beside them stays whole. Verdicts are asked for at once,
after the next checkpoints, and after a restart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from precipiq_contracts.chain import Chain
from precipiq_testkit.plugin import use_database
from precipiq_testkit.server import ServerProcess, running_server
from tests.ledger.attacks import ALL, DECISIONS, ERASED, FILES, LAST, NO_ENTRY, ROWS, Attack, attack
from tests.ledger.intruders import intruder_of
from tests.system.client import Client, decision
from tests.system.organisations import organisations

pytestmark = [pytest.mark.slow, pytest.mark.system]

PATIENCE_S = 300.0
EAGER = {
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "0.2",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_WITHIN_S": "6",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_CPU_SHARE": "1",
    "PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.3",
}
BROKEN = "a chain is broken: nothing is signed over it"
UNANNOUNCED = "a row grants what its chain does not say: it does not count"


@dataclass(frozen=True)
class Campaign:
    """What was found of each attack, by its name: (seq, code), in three ways; and of the chain that nobody attacked.

    ``signed``: of each, the seqs of its checkpoints before and after.
    """

    swept: dict[str, tuple[int, str]]
    verified: dict[str, tuple[int, str] | None]
    restarted: dict[str, tuple[int, str] | None]
    signed: dict[str, tuple[list[int], list[int]]]
    honest: list[Any]
    unready: list[str]


def eventually(is_so: Callable[[], Any], what: Callable[[], object]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
    return found


def place(broken: dict[str, Any] | None) -> tuple[int, str] | None:
    return None if broken is None else (broken["seq"], broken["code"])


class Site:
    """A server with a chain for each attack, and one more."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        names = [*(each.name for each in ALL), "honest"]
        self.ids: dict[str, str] = {}
        self.clients: dict[str, Client] = {}
        for name, (org_id, key) in zip(names, organisations(server, len(names)), strict=True):
            self.ids[name] = org_id
            self.clients[name] = client = Client(server, key)
            drafts = [decision(number) for number in range(DECISIONS)]
            client.data("POST", "/decisions/batch", json={"decisions": drafts})
            target = client.entries()[ERASED - 1]["statement"]["id"]
            client.data("POST", f"/decisions/{target}/redact", json={"reason": "asked for"})
            client.data("POST", "/decisions/batch", json={"decisions": drafts})
        for name in names:
            eventually(lambda name=name: self.signed(name)[-1:] == [LAST], lambda name=name: self.signed(name))

    def signed(self, name: str) -> list[int]:
        path = self.server.data_dir / "checkpoints" / f"{self.ids[name]}.test.jsonl"
        return [json.loads(line)["seq"] for line in path.read_text().splitlines()] if path.exists() else []

    def wait_until_swept(self) -> None:
        """Each chain as a whole."""
        for client in self.clients.values():
            eventually(
                lambda client=client: self._whole_through(client) == LAST,
                lambda client=client: client.data("GET", "/ledger/integrity"),
            )

    def _whole_through(self, client: Client) -> int:
        found = client.data("GET", "/ledger/integrity")
        return int(found["last_pass"]["head"]["seq"]) if found["status"] == "whole" else 0

    def is_whole(self, client: Client) -> bool:
        return bool(self._whole_through(client))

    def attack(self, each: Attack) -> None:
        chain = Chain(self.ids[each.name], "test")
        with closing(intruder_of(self.server, chain, self.server.folder)) as intruder:
            # Nobody sees the half of it. What reads first and writes later is refused by SQLite when others wrote.
            intruder.execute("BEGIN" if self.server.postgres else "BEGIN IMMEDIATE")
            attack(intruder, each, self.server.data_dir / "checkpoints" / f"{chain.org_id}.test.jsonl")
            intruder.execute("COMMIT")

    def cried(self) -> dict[str, tuple[int, str]]:
        """The first place that the sweep cried out, by attack."""
        names = {org_id: name for name, org_id in self.ids.items()}
        found: dict[str, tuple[int, str]] = {}
        for line in self.server.log_lines():
            is_attacked = line.get("org_id") in names and line.get("environment") == "test"
            if line.get("event") in (BROKEN, UNANNOUNCED) and is_attacked:
                found.setdefault(names[line["org_id"]], (line.get("seq", NO_ENTRY), line["code"]))
        return found

    def verified(self) -> dict[str, tuple[int, str] | None]:
        done = self.server.run_warm("ledger", "verify", "--all", "--json", check=False)
        assert done.returncode == 1
        chains = {(each["org_id"], each["environment"]): each for each in json.loads(done.stdout)["chains"]}
        return {name: place(chains[org_id, "test"]["first_broken_link"]) for name, org_id in self.ids.items()}


@pytest.fixture(scope="module")
def campaign(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Campaign]:
    with ExitStack() as stack:
        postgres = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            postgres = stack.enter_context(use_database(request.getfixturevalue("migrated_postgres").copy(), patch))
        folder = tmp_path_factory.mktemp("campaign")
        server = stack.enter_context(running_server(folder, postgres=postgres, overrides=EAGER))
        yield carry_out(Site(server))


def carry_out(site: Site) -> Campaign:
    server, honest = site.server, site.clients["honest"]
    site.wait_until_swept()
    before = {each.name: site.signed(each.name) for each in ALL}
    with closing(intruder_of(server, Chain(server.org_id, "test"), server.folder)) as intruder:
        intruder.drop_triggers()
    for each in ALL:
        site.attack(each)

    eventually(lambda: {each.name for each in ALL} <= site.cried().keys(), lambda: site.cried().keys())
    swept = site.cried()
    unready = [name for name, part in httpx2.get(f"{server.url}/readyz").json()["parts"].items() if part != "ok"]

    newest = honest.decide()["seq"]
    eventually(lambda: site.signed("honest")[-1] == newest, lambda: site.signed("honest"))
    verified = site.verified()
    signed = {name: (seqs, site.signed(name)) for name, seqs in before.items()}
    said = [honest.verify()]

    assert server.stop() == 0
    server.start()
    for client in site.clients.values():
        client.http.base_url = server.url + "/api/v1"
    restarted = site.verified()
    eventually(lambda: site.is_whole(honest), lambda: honest.data("GET", "/ledger/integrity"))
    return Campaign(swept, verified, restarted, signed, [*said, honest.verify()], unready)


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.name}_{each.level}")
def test_an_attack_is_found_where_it_was_and_stays_found(campaign: Campaign, each: Attack) -> None:
    for found in (campaign.swept, campaign.verified, campaign.restarted):
        seq, code = found[each.name] or (None, None)
        assert (seq, code in each.codes) == (each.seq, True), (seq, code)


@pytest.mark.parametrize("each", [*ROWS, *FILES], ids=lambda each: f"{each.name}_{each.level}")
def test_nothing_is_signed_over_it(campaign: Campaign, each: Attack) -> None:
    before, after = campaign.signed[each.name]
    assert before[-1] == LAST
    assert set(after) <= set(before)


def test_the_chain_beside_them_is_whole_and_goes_on(campaign: Campaign) -> None:
    assert [verdict["is_valid"] for verdict in campaign.honest] == [True, True]


def test_the_server_says_that_it_is_not_ready(campaign: Campaign) -> None:
    assert "ledger.integrity" in campaign.unready
