"""What a forger did to a database by SQL, as a server meets it: nothing of it is vouched for, whatever is restarted.

And chains from before the sealer's MACs: adopted once, never again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.chain import Chain, Entry
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.ledger import forgers
from tests.ledger.intruders import Intruder, intruder_of
from tests.system.client import Client
from tests.system.organisations import organisations
from tests.ws_stream.streams import stream

pytestmark = [pytest.mark.slow, pytest.mark.system]
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what a server makes of what it read; that both databases are read alike is what ``test_forged_entries`` shows."""

DEADLINE_S = 60.0
OFTEN = {
    "PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.2",
    "PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "2",
}
UNAUTHENTIC = "UNAUTHENTIC_ENTRY"
PAYLOAD = {"inputs": {}, "outputs": {}, "alternatives": None, "metadata": None}


@pytest.fixture
def server(server_database: PostgresDatabase | None, tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server", postgres=server_database, overrides=OFTEN) as started:
        yield started


def eventually(is_so: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def intrude(server: ServerProcess, act: Callable[[Intruder], Any], org_id: str | None = None) -> Any:
    with closing(intruder_of(server, Chain(org_id or server.org_id, "test"), server.folder)) as intruder:
        intruder.drop_triggers()
        return act(intruder)


def place(verdict: dict[str, Any]) -> tuple[int, str] | None:
    broken = verdict["first_broken_link"]
    return None if broken is None else (broken["seq"], broken["code"])


def signed_seq(server: ServerProcess, org_id: str) -> int:
    """Of the newest checkpoint that the server holds; 0 without any."""
    path = server.data_dir / "checkpoints" / f"{org_id}.test.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["seq"]) if lines else 0


def cried(server: ServerProcess, part: str) -> list[dict[str, Any]]:
    return [line for line in server.log_lines() if part in str(line.get("event")) and line["level"] == "critical"]


def export(client: Client) -> Any:
    asked = client.data("POST", "/exports", json={})
    return eventually(
        lambda: found if (found := client.data("GET", f"/exports/{asked['id']}"))["status"] in ENDED else None
    )


ENDED = ("completed", "failed")


def restart(server: ServerProcess) -> Client:
    assert server.stop() == 0
    server.start()
    return Client(server)


def test_what_was_appended_by_sql_is_vouched_for_by_nothing(server: ServerProcess) -> None:
    client = Client(server)
    [(other_id, other_key)] = organisations(server, 1)
    for number in range(4):
        client.decide(number)
    before = client.entries()[-1]["statement"]["seq"]
    eventually(lambda: signed_seq(server, server.org_id) == before)

    forged: Entry = intrude(server, lambda intruder: forgers.append(intruder, payload=PAYLOAD))

    assert forged.seq == before + 1
    [line] = eventually(lambda: cried(server, "a chain is broken: nothing is signed over it"))
    assert (line["org_id"], line["seq"], line["code"]) == (server.org_id, forged.seq, UNAUTHENTIC)
    other = Client(server, other_key).decide(1)["seq"]
    eventually(lambda: signed_seq(server, other_id) == other)
    for again in range(2):
        assert place(client.verify()) == (forged.seq, UNAUTHENTIC)
        assert client.decide(9)["seq"] > forged.seq, "the chain goes on"
        failed = export(client)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "unauthentic_entry"), failed
        assert f"entry {forged.seq}" in failed["error"]["message"]
        assert asyncio.run(resume(server, before)) == (4409, f"no server of this deployment made entry {forged.seq}")
        client = Client(server) if again else restart(server)
    assert signed_seq(server, server.org_id) == before
    said = [len(cried(server, event)) for event in ("no checkpoint of the chain is signed", "chain has a known break")]
    assert max(said) <= 1, "each once in a life: before the sweep found it, and after"
    done = server.run_warm("ledger", "verify", "--org", server.org_id, "--env", "test", "--json", check=False)
    assert (done.returncode, place(json.loads(done.stdout))) == (1, (forged.seq, UNAUTHENTIC))


async def resume(server: ServerProcess, seq: int) -> tuple[int, str]:
    async with stream(server, after_seq=seq) as opened:
        return await opened.closed()


@on_sqlite
def test_a_payload_erased_by_sql_is_missed(server: ServerProcess) -> None:
    client = Client(server)
    seqs = [client.decide(number)["seq"] for number in range(3)]
    redaction: Entry = intrude(server, lambda intruder: forgers.erase(intruder, seqs[1]))
    for _ in range(2):
        verdict = client.verify()
        assert place(verdict) == (seqs[1], UNAUTHENTIC)
        assert f"entry {redaction.seq}" in verdict["reason"]
        assert export(client)["status"] == "failed"
        client = restart(server)
    assert signed_seq(server, server.org_id) < redaction.seq


@on_sqlite
def test_a_chain_made_by_sql_is_no_chain(server: ServerProcess) -> None:
    """A whole organisation of the forger's."""
    for _ in range(3):
        intrude(server, forgers.append, "org_forged")
    events = ("no checkpoint of the chain is signed", "chain has a known break")
    eventually(lambda: [line for event in events for line in cried(server, event)])
    for _ in range(2):
        done = server.run_warm("ledger", "verify", "--all", "--json", check=False)
        places = {chain["org_id"]: place(chain) for chain in json.loads(done.stdout)["chains"]}
        assert (done.returncode, places) == (1, {server.org_id: None, "org_forged": (1, UNAUTHENTIC)})
        restart(server)
    assert signed_seq(server, "org_forged") == 0


def test_a_fresh_installation_is_marked_and_never_adopted(server: ServerProcess) -> None:
    client = Client(server)
    mark = server.data_dir / "checkpoints" / "adopted"
    assert len(mark.read_text().strip()) == 64
    assert mark.stat().st_mode & 0o077 == 0
    assert [row[1] for row in marks(server)] == [mark.read_text().strip()]
    last = client.decide()["seq"]
    intrude(server, lambda intruder: intruder.set(last, mac=None))
    client = restart(server)
    assert place(client.verify()) == (last, UNAUTHENTIC)
    assert kinds(client).count("adoption") == 0


def marks(server: ServerProcess) -> list[Any]:
    return server.sql("SELECT name, mac FROM ledger_marks WHERE name = 'adopted'")


def kinds(client: Client) -> list[str]:
    return [entry["statement"]["kind"] for entry in client.entries()]


def make_old(server: ServerProcess, *organisation_ids: str) -> None:
    """As if a version from before the MACs had written everything; the server is stopped."""
    for org_id in organisation_ids:
        intrude(server, lambda intruder: intruder.execute("UPDATE entries SET mac = NULL"), org_id)
    server.sql("DELETE FROM ledger_marks WHERE name = 'adopted'")
    (server.data_dir / "checkpoints" / "adopted").unlink()


def test_chains_from_before_are_adopted_once(server: ServerProcess) -> None:
    client = Client(server)
    erased = client.decide(0)
    client.data("POST", f"/decisions/{erased['decision_id']}/redact", json={"reason": "asked for"})
    head = client.decide(1)
    assert server.stop() == 0
    make_old(server, server.org_id)
    server.start()
    client = Client(server)
    verdict = client.verify()
    assert verdict["is_valid"], verdict
    adoption = client.entries()[-1]["statement"]
    assert (adoption["kind"], adoption["seq"], adoption["actor"]) == ("adoption", head["seq"] + 1, "system")
    assert (adoption["body"]["head_seq"], adoption["body"]["head_hash"]) == (head["seq"], head["hash"])
    assert any(f"made the entries 1 to {head['seq']}" in sentence for sentence in verdict["unchecked"])
    client.decide(2)
    assert export(client)["status"] == "completed"
    assert client.data("GET", "/decisions")["items"][0]["seq"] > adoption["seq"]
    frames = asyncio.run(frames_after(server, head["seq"], adoption["seq"]))
    assert [frame["type"] for frame in frames] == ["adoption.created"]

    for taken in ("row", "file"):  # either mark is enough, and the other one comes back
        assert server.stop() == 0
        if taken == "row":
            server.sql("DELETE FROM ledger_marks WHERE name = 'adopted'")
        else:
            (server.data_dir / "checkpoints" / "adopted").unlink()
        server.start()
        client = Client(server)
        assert client.verify()["is_valid"]
        assert len(cried(server, "was gone from the database")) == (taken == "row")
        assert len(marks(server)) == 1
        assert (server.data_dir / "checkpoints" / "adopted").exists()
    assert kinds(client).count("adoption") == 1

    assert server.stop() == 0
    server.sql("DELETE FROM ledger_marks WHERE name = 'adopted'")
    forged: Entry = intrude(server, forgers.append)
    server.start()
    assert place(Client(server).verify()) == (forged.seq, UNAUTHENTIC)


@on_sqlite
def test_an_adoption_made_by_sql_adopts_nothing(server: ServerProcess) -> None:
    """A forger strips every MAC and adopts the chain himself; then he adopts one that was adopted."""
    client = Client(server)
    head = client.decide(0)
    body = {"head_seq": head["seq"], "head_hash": head["hash"], "note": ""}
    intrude(server, lambda intruder: intruder.execute("UPDATE entries SET mac = NULL"))
    intrude(server, lambda intruder: forgers.append(intruder, "adoption", body, key="ledger:adoption"))
    chain = ("--org", server.org_id, "--env", "test")  # no key of the organisation opens anything any more
    for _ in range(2):
        verdict = json.loads(server.run_warm("ledger", "verify", *chain, "--json", check=False).stdout)
        assert place(verdict) == (1, UNAUTHENTIC)
        restart(server)
    assert server.run_warm("ledger", "entries", *chain).stdout.count('"kind":"adoption"') == 1


async def frames_after(server: ServerProcess, seq: int, last: int) -> list[dict[str, Any]]:
    async with stream(server, after_seq=seq) as opened:
        return await opened.until(last)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_nodes_that_start_at_once_adopt_each_chain_once(server: ServerProcess, tmp_path: Path) -> None:
    made = organisations(server, 5)
    for _, key in made:
        Client(server, key).decide()
    assert server.stop() == 0
    make_old(server, server.org_id)
    nodes = [ServerProcess(tmp_path / f"node-{number}", postgres=server.postgres) for number in range(3)]
    for node in nodes:
        node.data_dir.mkdir(parents=True)
        shutil.copy(server.data_dir / "master.key", node.data_dir)
    with ThreadPoolExecutor() as threads:
        list(threads.map(ServerProcess.start, nodes))
    try:
        for _, key in made:
            for node in nodes:
                client = Client(node, key)
                assert client.verify()["is_valid"]
                assert kinds(client).count("adoption") == 1
            assert Client(nodes[0], key).decide()["seq"] == kinds(client).index("adoption") + 2
        assert all((node.data_dir / "checkpoints" / "adopted").exists() for node in nodes)
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_server_with_another_master_key_seals_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """Its entries would be nobody's: the chains would be broken for good."""
    other = ServerProcess(tmp_path / "other", postgres=server.postgres)
    with pytest.raises(RuntimeError, match=r"secrets\.master_key is not the key"):
        other.start()
    assert other.process.returncode == 2
    assert Client(server).verify()["is_valid"]


@on_sqlite
def test_an_altered_mark_counts(server: ServerProcess) -> None:
    assert server.stop() == 0
    server.sql("UPDATE ledger_marks SET mac = 'x' WHERE name = 'adopted'")
    forged: Entry = intrude(server, forgers.append)
    server.start()
    assert [line["where"] for line in cried(server, "has a wrong MAC")] == ["database"]
    assert place(Client(server).verify()) == (forged.seq, UNAUTHENTIC)


@on_sqlite
def test_what_cannot_be_adopted_now_is_adopted_later(server: ServerProcess) -> None:
    """A chain whose head is ahead of the clock takes no entry. The others are adopted, and nothing is settled."""
    [(other_id, other_key)] = organisations(server, 1)
    assert server.stop() == 0
    intrude(server, lambda intruder: forgers.append(intruder, after_us=400 * 1_000_000))
    make_old(server, server.org_id, other_id)
    server.start()
    assert any("not adopted yet" in str(line.get("event")) for line in server.log_lines())
    assert kinds(Client(server, other_key)).count("adoption") == 1
    assert not marks(server)
    verdict = Client(server).verify()
    assert verdict["is_valid"]
    assert any("the upgrade is not over" in sentence for sentence in verdict["unchecked"])
