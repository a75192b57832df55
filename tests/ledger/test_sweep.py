"""The sweep alone, without any command, is loud about what an intruder does to a database, and silent otherwise."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from typing import Any

import httpx2
import pytest

from precipiq_contracts.chain import GENESIS_HASH, Chain
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.ledger import forgers
from tests.ledger.intruders import Intruder, intruder_of
from tests.system.client import Client, decision
from tests.system.organisations import organisations
from tests.ws_stream.streams import events, stream

pytestmark = pytest.mark.slow

SWEEP = {
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "0.1",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_WITHIN_S": "600",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_CPU_SHARE": "1",
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_INLINE_ENTRIES_MAX": "4",
}
AGAIN = {**SWEEP, "PRECIPIQ__PLUGINS__LEDGER__SWEEP_WITHIN_S": "2"}
DECISIONS = 12
LAST = DECISIONS + 1  # the first entry is the key's creation
PATIENCE_S = 240.0


class Tenant:
    """An organisation with a chain of :data:`LAST` entries, one of which was redacted."""

    def __init__(self, server: ServerProcess, org_id: str, key: str) -> None:
        self.server = server
        self.chain = Chain(org_id, "test")
        self.key = key
        self.client = Client(server, key)
        made = [self.client.decide(number) for number in range(DECISIONS - 4)]
        self.client.data("POST", f"/decisions/{made[0]['decision_id']}/redact", json={"reason": "asked"})
        for number in range(3):
            self.client.decide(number)

    def integrity(self) -> Any:
        return self.client.data("GET", "/ledger/integrity")

    def wait(self, is_there: Callable[[Any], bool]) -> Any:
        """What the server says of the chain, once that holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_there(found := self.integrity()):
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {found}"
            time.sleep(0.1)  # a question more often would cost the server more than its sweep
        return found

    def wait_until_checked(self) -> None:
        self.wait(lambda found: found["status"] == "whole" and found["checked_through"]["seq"] == LAST)

    def intrude(self, act: Callable[[Intruder], object]) -> None:
        with closing(intruder_of(self.server, self.chain, self.server.folder)) as intruder:
            intruder.drop_triggers()
            act(intruder)

    def log(self, event: str) -> list[dict[str, Any]]:
        return [
            line
            for line in self.server.log_lines()
            if line.get("event") == event and line.get("org_id") == self.chain.org_id
        ]


BROKEN = "a chain is broken: nothing is signed over it"
HOLDS = "a chain that was broken holds again"


@pytest.fixture(scope="module")
def sweeping(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that looks ten times a second."""
    yield from _serving(database, request, tmp_path_factory, SWEEP)


@pytest.fixture(scope="module")
def checking_again(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One that checks everything again each second."""
    yield from _serving(database, request, tmp_path_factory, AGAIN)


def _serving(
    database: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    overrides: dict[str, str],
) -> Iterator[ServerProcess]:
    with ExitStack() as stack:
        postgres: PostgresDatabase | None = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            postgres = request.getfixturevalue("migrated_postgres").copy()
            stack.callback(postgres.drop)
            for name, value in postgres.environment.items():
                patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("sweeping")
        yield stack.enter_context(running_server(folder, postgres=postgres, overrides=overrides))


_SPARE: dict[int, list[tuple[str, str]]] = {}


def tenant(server: ServerProcess) -> Tenant:
    spare = _SPARE.setdefault(id(server), [])
    if not spare:
        spare += organisations(server, 14)
    made = Tenant(server, *spare.pop())
    made.wait_until_checked()
    return made


_BYSTANDERS: dict[int, Tenant] = {}


def bystander(server: ServerProcess) -> Tenant:
    """Another organisation, whose chain nobody touches: one for all tests of a server."""
    if id(server) not in _BYSTANDERS:
        _BYSTANDERS[id(server)] = tenant(server)
    return _BYSTANDERS[id(server)]


def rewrite(intruder: Intruder, first: int = LAST - 2) -> None:
    """Everything from there on anew, each hash and link right."""
    [prev_hash] = intruder.get(first - 1, "hash")
    for seq in range(first, LAST + 1):
        [statement] = intruder.get(seq, "statement")
        fields = json.loads(statement) | {"prev_hash": prev_hash}
        if seq == first:
            fields["body"] |= {"confidence": 0.123}
        text = _text(fields)
        prev_hash = sha256(text).hexdigest()
        intruder.set(seq, statement=text, hash=prev_hash)


def _text(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


ATTACKS: dict[str, tuple[Callable[[Intruder], object], int, set[str]]] = {
    "a decision appended with right hashes": (forgers.append, LAST + 1, {"UNAUTHENTIC_ENTRY"}),
    "the tail cut": (lambda intruder: intruder.remove(LAST), LAST, {"TRUNCATED"}),
    "all but the first gone": (lambda intruder: intruder.remove(2), 2, {"TRUNCATED"}),
    "everything gone": (lambda intruder: intruder.remove(1), 1, {"ORG_MISSING"}),
    "the last entry made unreadable": (
        lambda intruder: intruder.set(LAST, statement=b'"no statement"'),
        LAST,
        {"CONTENT_MISMATCH", "COLUMN_MISMATCH", "MALFORMED"},
    ),
    "everything from there rewritten": (rewrite, LAST - 2, {"UNAUTHENTIC_ENTRY"}),
}
"""What the look at new entries finds: the act, the first bad seq, and the codes."""

HIDDEN: dict[str, tuple[Callable[[Intruder], object], int, set[str]]] = {
    "a hash changed": (lambda intruder: intruder.set(4, hash="f" * 64), 4, {"CONTENT_MISMATCH"}),
    "one in the middle gone": (lambda intruder: intruder.remove(7, 7), 7, {"SEQ_GAP"}),
    "a payload gone": (lambda intruder: intruder.set(8, payload=None), 8, {"PAYLOAD_ABSENT"}),
    "the link cut": (
        lambda intruder: intruder.set(2, statement=_relinked(intruder), hash=sha256(_relinked(intruder)).hexdigest()),
        2,
        {"LINK_BROKEN"},
    ),
}
"""What only another check of everything finds."""


def _relinked(intruder: Intruder) -> bytes:
    return _text(json.loads(intruder.get(2, "statement")[0]) | {"prev_hash": GENESIS_HASH})


def see_it_broken(tenant: Tenant, seq: int, codes: set[str]) -> None:
    found = tenant.wait(lambda found: found["status"] == "broken")
    broken = found["first_broken_link"]
    assert (broken["seq"], broken["code"]) in {(seq, code) for code in codes}
    [line] = tenant.log(BROKEN)
    assert (line["level"], line["seq"], line["code"]) == ("critical", seq, broken["code"])
    ready = httpx2.get(f"{tenant.server.url}/readyz")
    assert ready.status_code == 503
    assert "ledger.integrity" in ready.text
    assert tenant.chain.org_id not in ready.text
    metrics = httpx2.get(f"{tenant.server.url}/metrics").text
    [count] = [line.split()[-1] for line in metrics.splitlines() if line.startswith("precipiq_ledger_broken_chains")]
    assert float(count) >= 1


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_new_is_looked_at(sweeping: ServerProcess, name: str) -> None:
    act, seq, codes = ATTACKS[name]
    victim, other = tenant(sweeping), bystander(sweeping)
    victim.intrude(act)
    see_it_broken(victim, seq, codes)
    assert other.integrity()["status"] == "whole"


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_old_is_checked_again(checking_again: ServerProcess, name: str) -> None:
    act, seq, codes = HIDDEN[name]
    victim, other = tenant(checking_again), bystander(checking_again)
    victim.intrude(act)
    see_it_broken(victim, seq, codes)
    assert other.integrity()["first_broken_link"] is None


def test_a_fault_is_known_after_a_restart_and_gone_when_it_is_repaired(checking_again: ServerProcess) -> None:
    victim = tenant(checking_again)
    kept: list[Any] = []
    victim.intrude(lambda intruder: kept.extend(intruder.get(LAST, "hash")))
    victim.intrude(lambda intruder: intruder.set(LAST, hash="e" * 64))
    victim.wait(lambda found: found["status"] == "broken")
    assert checking_again.stop() == 0
    checking_again.start_on(checking_again.url.rpartition(":")[2])
    [line] = _first(lambda: victim.log(BROKEN))
    assert line["code"] == "CONTENT_MISMATCH"
    assert victim.integrity()["status"] == "broken"

    victim.intrude(lambda intruder: intruder.set(LAST, hash=kept[0]))
    victim.wait_until_checked()
    assert len(victim.log(HOLDS)) == 1


def test_a_record_of_sweeps_that_somebody_changed_counts_for_nothing(sweeping: ServerProcess) -> None:
    """Who set back what was checked could hide what he cuts; then all is checked from the start, and told."""
    victim = tenant(sweeping)
    assert sweeping.stop() == 0
    file = sweeping.data_dir / "sweep" / "sweep.json"
    assert file.stat().st_mode & 0o777 == 0o600
    content = json.loads(file.read_bytes())
    content["chains"] = []
    file.write_text(json.dumps(content))
    sweeping.start_on(sweeping.url.rpartition(":")[2])
    [line] = _first(lambda: [each for each in sweeping.log_lines() if "record of sweeps" in str(each.get("event"))])
    assert (line["level"], line["reason"]) == ("critical", "the record of sweeps has a wrong signature")
    victim.wait_until_checked()


def test_honest_work_raises_no_alarm(checking_again: ServerProcess) -> None:
    """Appends, batches, redactions and kills while everything is checked again all the time."""
    honest = tenant(checking_again)
    for round_number in range(4):
        made = [honest.client.decide(number) for number in range(10)]
        batch = {"decisions": [decision(number) for number in range(50)]}
        honest.client.data("POST", "/decisions/batch", json=batch)
        for one in made[::2]:
            honest.client.data("POST", f"/decisions/{one['decision_id']}/redact", json={"reason": "asked"})
        if round_number == 2:
            checking_again.kill()
            checking_again.start_on(checking_again.url.rpartition(":")[2])
    seq = honest.client.data("GET", "/ledger/head")["seq"]
    found = honest.wait(lambda found: (found["last_pass"] or {}).get("records_checked") == seq)
    assert found["status"] == "whole"
    assert honest.log(BROKEN) == []


def _first(look: Callable[[], list[Any]]) -> list[Any]:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


@pytest.mark.anyio
async def test_streams_of_the_chain_are_told_and_no_others(checking_again: ServerProcess) -> None:
    """The open ones, over both transports, and those that open later; then that it is whole again."""
    victim, other = tenant(checking_again), tenant(checking_again)
    kept: list[Any] = []
    async with (
        stream(checking_again, victim.key) as open_stream,
        events(checking_again, victim.key) as open_events,
        stream(checking_again, other.key) as foreign,
    ):
        await open_stream.ready()
        assert (await anext(open_events))["type"] == "connection.ready"
        await foreign.ready()
        await asyncio.to_thread(victim.intrude, lambda intruder: kept.extend(intruder.get(8, "payload")))
        await asyncio.to_thread(victim.intrude, lambda intruder: intruder.set(8, payload=None))
        told = [await open_stream.next(), await anext(open_events)]
        assert {frame["type"] for frame in told} == {"integrity.broken"}
        assert {(frame["data"]["seq"], frame["data"]["code"]) for frame in told} == {(8, "PAYLOAD_ABSENT")}
        assert told[0]["id"] is None
        async with stream(checking_again, victim.key) as late:
            await late.ready()
            assert (await late.next())["type"] == "integrity.broken"

        other.client.decide(99)
        assert (await foreign.next())["type"] == "decision.created"
        await asyncio.to_thread(victim.intrude, lambda intruder: intruder.set(8, payload=kept[0]))
        assert (await open_stream.next())["type"] == "integrity.restored"
        assert (await anext(open_events))["data"] == {"seq": 8}
