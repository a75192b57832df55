"""What an older version wrote, today's serves, on both databases: chain, keys, money, links, exports, repeats."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess
from tests.old_version import code_of

from .client import Client, decision

pytestmark = [pytest.mark.slow, pytest.mark.system]

BEFORE_PLUGINS = "eee202547c2d7506f3b6343f0852d423c522537d"
"""The last commit in which core brought its own databases and server."""

OFTEN = {"PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S": "0.5"}
"""How often a server looks whether it can adopt, too."""

PAYMENT = {
    "source": "manual",
    "event_type": "payment",
    "amount": "12.50",
    "currency": "EUR",
    "external_id": "invoice-1",
}


def write(client: Client) -> dict[str, Any]:
    """One of everything; what was answered."""
    decisions = [client.decide(number, external_id=f"d{number}", metadata={"n": number}) for number in range(12)]
    client.data("POST", f"/decisions/{decisions[3]['decision_id']}/redact", json={"reason": "asked for"})
    money = client.data("POST", "/financial-events", json=PAYMENT)
    link = {"decision_id": decisions[5]["decision_id"], "financial_event_id": money["id"]}
    client.data("POST", "/links", json={**link, "correlation_strength": 0.9, "link_type": "revenue"})
    export = client.data("POST", "/exports", json={})
    return {"decisions": decisions, "export": finished(client, export["id"]), "entries": client.entries()}


def finished(client: Client, export_id: str) -> Any:
    deadline = time.monotonic() + 60
    while (export := client.data("GET", f"/exports/{export_id}"))["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, export
        time.sleep(0.1)
    assert export["status"] == "completed", export
    return export


def adoption_of(client: Client) -> int:
    """The seq of the chain's one adoption, waiting for it."""
    deadline = time.monotonic() + 60
    kind = {"kind": "adoption"}
    while not (found := client.data("GET", "/ledger/entries", params=kind)["items"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(found) == 1
    return int(found[0]["statement"]["seq"])


def test_what_an_older_version_wrote_is_served(tmp_path: Path, empty_database: PostgresDatabase | None) -> None:
    old = ServerProcess(tmp_path / "site", postgres=empty_database, overrides=code_of(BEFORE_PLUGINS, tmp_path)).start()
    try:
        assert b"old code" in Path(f"/proc/{old.process.pid}/environ").read_bytes()
        written = write(Client(old))
        profit = Client(old).data("GET", "/analytics/ai-pnl")
        assert old.stop() == 0
    finally:
        if old.process.poll() is None:
            old.kill()

    new = ServerProcess(tmp_path / "site", postgres=empty_database, overrides=OFTEN).start()
    try:
        client = Client(new, old.key)
        if empty_database is not None:  # servers of the version before may still run
            assert any("the upgrade is not over" in sentence for sentence in client.verify()["unchecked"])
            assert "adoption" not in [entry["statement"]["kind"] for entry in client.entries()]
            new.run("migrate", "--post")
        adopted = adoption_of(client)
        verdict = client.verify()
        assert (verdict["is_valid"], verdict["verdict"]) == (True, "checkpointed"), verdict
        assert any(f"made the entries 1 to {adopted - 1}" in sentence for sentence in verdict["unchecked"])
        entries = client.entries()
        assert entries[: len(written["entries"])] == written["entries"]
        assert client.data("GET", "/analytics/ai-pnl") == profit
        again = client.http.post("/decisions", json=decision(0, external_id="d0", metadata={"n": 0}))
        assert again.json()["data"]["decision_id"] == written["decisions"][0]["decision_id"], "the same external id"
        redacted = client.data("GET", f"/decisions/{written['decisions'][3]['decision_id']}")
        assert (redacted["redacted"], redacted["inputs"]) == (True, None)
        bundle = client.http.get(f"/exports/{written['export']['id']}/download")
        assert (bundle.status_code, bundle.content[:2]) == (200, b"PK")
        client.decide(99)
        finished(client, client.data("POST", "/exports", json={})["id"])
        assert client.verify()["records_checked"] > verdict["records_checked"]
        client.data("POST", f"/decisions/{written['decisions'][4]['decision_id']}/redact", json={"reason": "asked for"})
        assert client.verify()["is_valid"], "what was adopted can be erased"
        assert new.run("ledger", "verify", "--org", old.org_id, "--env", "test").returncode == 0
        assert new.stop() == 0
    finally:
        if new.process.poll() is None:
            new.kill()
    shutil.rmtree(tmp_path / "old code")
