"""The raw entries are enough to verify a chain with no help from the server, and both verdicts agree."""

from __future__ import annotations

import json
from pathlib import Path

from precipiq_testkit.server import ServerProcess

from .client import Client, decision
from .independent_verifier import verify

DECISIONS = Path(__file__).parents[1] / "data" / "real-decisions.jsonl"


def test_a_chain_of_every_kind_verifies_without_the_server(server: ServerProcess) -> None:
    client = Client(server)
    for line in DECISIONS.read_text().splitlines():
        client.data("POST", "/decisions", content=line, headers={"Content-Type": "application/json"})
    batch = {"decisions": [decision(number, inputs={"big": 10**30, "tiny": 1e-7}) for number in range(100)]}
    receipts = client.data("POST", "/decisions/batch", json=batch)["receipts"]
    client.data("POST", f"/decisions/{receipts[3]['decision_id']}/redact", json={"reason": "asked for"})
    new = client.data("POST", "/api-keys", json={"scopes": ["read"]})
    rotated = client.data("POST", f"/api-keys/{new['id']}/rotate", json={"grace_seconds": 60})
    client.data("DELETE", f"/api-keys/{rotated['id']}")

    entries = client.entries()

    kinds = {entry["statement"]["kind"] for entry in entries}
    assert kinds == {"decision", "redaction", "key_created", "key_rotated", "key_revoked"}
    assert verify(entries) is None
    verdict = client.verify()
    assert verdict["is_valid"]
    assert verdict["head"] == {"seq": len(entries), "hash": entries[-1]["hash"]}
    assert verdict["records_checked"] == len(entries)


def test_the_independent_verifier_finds_what_was_changed(server: ServerProcess) -> None:
    client = Client(server)
    for number in range(10):
        client.decide(number, metadata={"n": number})
    entries = client.entries()
    assert verify(entries) is None

    for change in (
        lambda copy: copy[4]["statement"]["body"].__setitem__("human_in_loop", True),
        lambda copy: copy[4]["payload"]["metadata"].__setitem__("n", 99),
        lambda copy: copy[4].__setitem__("payload", None),
        lambda copy: copy.pop(4),
        lambda copy: copy.__setitem__(slice(4, 6), [copy[5], copy[4]]),
    ):
        copy = json.loads(json.dumps(entries))
        change(copy)
        assert verify(copy) is not None
