"""Erasing a payload over HTTP: gone from every answer and every file, while the chain stays proven."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_contracts.chain import Chain
from precipiq_testkit.postgres import SERVER_VARIABLE
from precipiq_testkit.server import ServerProcess
from tests.ledger.intruders import intruder_of
from tests.system.client import Client, decision
from tests.system.independent_verifier import verify
from tests.system.stored import files_of, rows_of

PAYLOAD_FIELDS = ("inputs", "outputs", "alternatives", "metadata")


@pytest.fixture(scope="module")
def target(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture(scope="module")
def client(target: ServerProcess) -> Client:
    return Client(target)


def decide(client: Client, secret: str) -> Any:
    """A decision that holds the secret wherever a payload can."""
    return client.decide(
        0,
        inputs={"text": f"in-{secret}"},
        outputs={f"out-{secret}": 1},
        alternatives=[{"text": f"alt-{secret}"}],
        metadata={"note": f"meta-{secret}"},
    )


def with_key_for(client: Client, server: ServerProcess, *scopes: str) -> Client:
    """A client of the same chain."""
    return Client(server, client.data("POST", "/api-keys", json={"scopes": scopes})["key"])


def redact(client: Client, decision_id: str, reason: str = "asked for") -> httpx2.Response:
    return client.http.post(f"/decisions/{decision_id}/redact", json={"reason": reason})


def places_with(server: ServerProcess, *texts: str) -> list[str]:
    """Where the server's files, or its PostgreSQL's rows, hold one of these texts."""
    stored = list(files_of(server.data_dir))
    if server.postgres is not None:
        stored += rows_of(server.postgres)
    return [
        f"{place}: {text}"
        for place, content in stored
        for text in texts
        if text.encode() in content or text.encode().hex().encode() in content
    ]


def files_of_the_table(server: ServerProcess) -> list[bytes]:
    """What PostgreSQL keeps of the entries, once the table was written anew: it overwrites nothing before."""
    assert server.postgres is not None
    [(folder, *paths)] = server.postgres.sql(
        "VACUUM (FULL) precipiq.entries",
        "CHECKPOINT",
        "SELECT current_setting('data_directory'), pg_relation_filepath(oid), pg_relation_filepath(reltoastrelid) "
        "FROM pg_class WHERE oid = 'precipiq.entries'::regclass",
    )
    return [Path(folder, path).read_bytes() for path in paths]


def assert_error(answer: httpx2.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_erased_payload_is_null_in_every_answer(client: Client) -> None:
    secret = secrets.token_hex(12)
    receipt = decide(client, secret)
    before = client.data("GET", f"/decisions/{receipt['decision_id']}")

    done = redact(client, receipt["decision_id"]).json()["data"]

    got = client.data("GET", f"/decisions/{receipt['decision_id']}")
    newest = client.data("GET", "/decisions", params={"limit": 1})
    [entry] = client.data("GET", "/ledger/entries", params={"after_seq": receipt["seq"] - 1, "limit": 1})["items"]
    assert newest["items"] == [got]
    assert {field: got[field] for field in (*PAYLOAD_FIELDS, "salt")} == dict.fromkeys((*PAYLOAD_FIELDS, "salt"))
    assert got["redacted"] is True
    assert got["redaction_id"] == done["redaction_id"]
    assert (entry["payload"], entry["salt"]) == (None, None)
    erased = {*PAYLOAD_FIELDS, "salt", "redacted", "redaction_id"}
    assert [got[key] for key in before if key not in erased] == [before[key] for key in before if key not in erased]
    found = client.data("GET", "/decisions", params={"metadata.note": f"meta-{secret}"})
    assert found["items"] == []


def test_the_redaction_is_an_entry_that_names_its_target_and_reason(client: Client) -> None:
    receipt = decide(client, "x")
    done = redact(client, receipt["decision_id"], "the person asked, Art. 17").json()["data"]
    [entry] = client.data("GET", "/ledger/entries", params={"after_seq": done["seq"] - 1, "kind": "redaction"})["items"]
    statement = entry["statement"]
    assert (statement["id"], entry["hash"], statement["seq"]) == (done["redaction_id"], done["hash"], done["seq"])
    assert statement["payload_hash"] is None
    assert statement["body"] == {
        "target_seq": receipt["seq"],
        "target_id": receipt["decision_id"],
        "target_hash": receipt["hash"],
        "reason": "the person asked, Art. 17",
    }
    assert_error(client.http.get(f"/decisions/{done['redaction_id']}"), 404, "not_found")


def test_the_chain_holds_after_redactions_for_the_server_and_for_anybody(client: Client) -> None:
    ids = [decide(client, str(number))["decision_id"] for number in range(5)]
    for number in (0, 3):
        assert redact(client, ids[number]).status_code == 200
    entries = client.entries()
    verdict = client.verify()
    assert verdict["is_valid"], verdict
    assert verdict["head"] == {"seq": len(entries), "hash": entries[-1]["hash"]}
    assert verify(entries) is None
    without_statement = [entry for entry in entries if entry["statement"]["kind"] != "redaction"]
    assert verify(without_statement) is not None, "the control: the redaction entries are what explains the absence"


def test_erased_bytes_are_in_no_file_and_no_row(client: Client, target: ServerProcess) -> None:
    secret, kept = secrets.token_hex(12), secrets.token_hex(12)
    receipt, other = decide(client, secret), decide(client, kept)
    salt = client.data("GET", f"/decisions/{receipt['decision_id']}")["salt"]
    assert places_with(target, secret), "the control: before, the bytes are found"
    assert places_with(target, salt)

    assert redact(client, receipt["decision_id"]).status_code == 200

    assert places_with(target, secret, salt) == []
    assert places_with(target, kept)
    assert client.data("GET", f"/decisions/{other['decision_id']}")["metadata"] == {"note": f"meta-{kept}"}


def test_a_payload_of_many_pages_leaves_none_of_them(client: Client, target: ServerProcess) -> None:
    marks = [secrets.token_hex(12) for _ in range(40)]
    receipt = client.decide(0, inputs={mark: mark * 200 for mark in marks})
    assert places_with(target, marks[0], marks[-1])
    assert redact(client, receipt["decision_id"]).status_code == 200
    assert places_with(target, *marks) == []


def test_postgresqls_files_hold_nothing_erased_once_the_table_was_written_anew(
    client: Client, target: ServerProcess
) -> None:
    if target.postgres is None or SERVER_VARIABLE in os.environ:
        return  # SQLite's files are looked into above; another server's cannot be
    noise = {f"noise-{number}": secrets.token_hex(64) for number in range(40)}
    small, large, kept = (secrets.token_hex(12) for _ in range(3))
    receipts = [decide(client, small), client.decide(0, inputs={large: noise}), client.decide(0, inputs={kept: noise})]
    assert any(large.encode() in content for content in files_of_the_table(target))
    for receipt in receipts[:2]:
        assert redact(client, receipt["decision_id"]).status_code == 200
    contents = files_of_the_table(target)
    for text, is_there in ((small, False), (large, False), (kept, True)):
        assert any(text.encode() in content for content in contents) == is_there


def test_a_second_redaction_is_a_conflict_and_changes_nothing(client: Client) -> None:
    receipt = decide(client, "x")
    assert redact(client, receipt["decision_id"]).status_code == 200
    head = client.data("GET", "/ledger/head")
    assert_error(redact(client, receipt["decision_id"], "again"), 409, "already_redacted")
    assert client.data("GET", "/ledger/head") == head


def test_redactions_at_the_same_time_are_one_entry(client: Client) -> None:
    receipt = decide(client, "x")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: redact(client, receipt["decision_id"], f"reason {number}"), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.json()["data"]["redaction_id"] for answer in answers if answer.status_code == 200}) == 1
    assert client.data("GET", "/ledger/head")["seq"] == receipt["seq"] + 1


def test_equal_payloads_of_one_batch_are_told_neither_by_their_hashes_nor_by_a_salt(client: Client) -> None:
    """What is erased of one of them cannot be guessed with what the other keeps."""
    client.data("POST", "/decisions/batch", json={"decisions": [decision(0), decision(0)]})
    seq = client.data("GET", "/ledger/head")["seq"]
    entries = client.data("GET", "/ledger/entries", params={"after_seq": seq - 2})["items"]
    assert len({entry["salt"] for entry in entries}) == 2
    assert len({entry["statement"]["payload_hash"] for entry in entries}) == 2


@pytest.mark.parametrize("scopes", [("read",), ("write",), ("export",), ("read", "write", "export")])
def test_only_an_admin_key_erases(client: Client, target: ServerProcess, scopes: tuple[str, ...]) -> None:
    receipt = decide(client, "kept")
    other = with_key_for(client, target, *scopes)
    assert_error(redact(other, receipt["decision_id"]), 403, "forbidden")
    assert client.data("GET", f"/decisions/{receipt['decision_id']}")["metadata"] == {"note": "meta-kept"}


def test_an_admin_key_needs_no_other_scope(client: Client, target: ServerProcess) -> None:
    receipt = decide(client, "x")
    assert redact(with_key_for(client, target, "admin"), receipt["decision_id"]).status_code == 200


def test_other_chains_decisions_are_unknown(client: Client, target: ServerProcess, fresh_client: Client) -> None:
    """Another organisation's and the other environment's ids answer byte for byte like one that never was."""
    receipt = decide(client, "kept")
    live = Client(target, target.create_key("live"))
    unknown = redact(client, "00000000-0000-7000-8000-000000000000")
    assert_error(unknown, 404, "not_found")
    for intruder in (fresh_client, live):
        assert (redact(intruder, receipt["decision_id"]).status_code) == 404
        assert redact(intruder, receipt["decision_id"]).content == unknown.content
    assert client.data("GET", f"/decisions/{receipt['decision_id']}")["metadata"] == {"note": "meta-kept"}


def test_only_decisions_are_redacted(client: Client) -> None:
    """The id of another kind of entry, a key's creation or a redaction, is not a decision's."""
    done = redact(client, decide(client, "x")["decision_id"]).json()["data"]
    created = client.data("GET", "/ledger/entries", params={"kind": "key_created"})["items"][0]["statement"]["id"]
    for entry_id in (done["redaction_id"], created):
        assert_error(redact(client, entry_id), 404, "not_found")


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 1001}, {"reason": None}, {"reason": "a\0"}, []])
def test_a_redaction_needs_a_reason(client: Client, body: Any) -> None:
    receipt = decide(client, "kept")
    answer = client.http.post(f"/decisions/{receipt['decision_id']}/redact", json=body)
    assert_error(answer, 422, "validation_error")
    assert client.data("GET", f"/decisions/{receipt['decision_id']}")["metadata"] == {"note": "meta-kept"}


def test_a_retry_of_an_erased_decision_returns_its_receipt(client: Client) -> None:
    """Nobody can erase a decision and then write another one under its key."""
    external_id = secrets.token_hex(8)
    first = client.decide(1, external_id=external_id)
    assert redact(client, first["decision_id"]).status_code == 200
    again = client.decide(1, external_id=external_id)
    assert again == first
    assert client.data("GET", f"/decisions/{first['decision_id']}")["inputs"] is None


def test_a_payload_that_went_without_a_redaction_entry_is_a_break(
    fresh_client: Client, target: ServerProcess, tmp_path: Path
) -> None:
    receipts = [decide(fresh_client, str(number)) for number in range(4)]
    assert redact(fresh_client, receipts[0]["decision_id"]).status_code == 200
    [first] = fresh_client.data("GET", "/ledger/entries", params={"limit": 1})["items"]
    assert fresh_client.verify()["is_valid"]
    with closing(intruder_of(target, Chain(first["statement"]["org_id"], "test"), tmp_path)) as intruder:
        intruder.drop_triggers()
        intruder.set(receipts[2]["seq"], payload=None)

    verdict = fresh_client.verify()

    broken = verdict["first_broken_link"]
    assert verdict["is_valid"] is False
    assert (broken["seq"], broken["code"], broken["id"]) == (
        receipts[2]["seq"],
        "PAYLOAD_ABSENT",
        receipts[2]["decision_id"],
    )
    assert verify(fresh_client.entries()) == f"entry {receipts[2]['seq']}: payload is gone"
