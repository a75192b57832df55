"""Exports over the interface: asked for, made, downloaded, checked by OpenSSL; cancelled, deleted, recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from precipiq_exports.job_rows import RESULT, sealed_result
from precipiq_testkit.macs import row_macs_of
from precipiq_testkit.server import ServerProcess
from tests.system.client import Client
from tests.system.organisations import organisations

from .evidence import bundle_of, check, ended, exported, kinds, lines, members, on_sqlite, openssl_says, wait_for_ends

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strangers(shared_server: ServerProcess) -> Iterator[tuple[str, str]]:
    """Organisations that no test has used."""
    return iter(organisations(shared_server, 24))


@pytest.fixture
def client(shared_server: ServerProcess, strangers: Iterator[tuple[str, str]]) -> Client:
    """A client of an organisation of its own."""
    return Client(shared_server, next(strangers)[1])


def with_scope(server: ServerProcess, client: Client, *scopes: str) -> Client:
    return Client(server, client.data("POST", "/api-keys", json={"scopes": scopes})["key"])


def test_a_bundle_holds_the_chain_and_passes_every_check(client: Client, tmp_path: Path) -> None:
    for number in range(5):
        client.decide(number)
    asked = client.data("POST", "/exports", json={})
    assert (asked["status"], asked["progress"], asked["size"], asked["error"]) == ("pending", 0.0, None, None)
    record = ended(client, asked["id"])
    assert (record["status"], record["progress"], record["is_valid"]) == ("completed", 1.0, True)

    bundle = bundle_of(client, record)
    assert len(bundle) == record["size"]
    assert openssl_says(bundle, tmp_path) == "Verified OK"
    assert check(bundle, tmp_path)[0] == 0
    files = members(bundle)
    entries = lines(files["entries.jsonl"])
    assert entries == client.entries()[: len(entries)]
    assert len(entries) == record["entries"] == record["range"]["through_seq"]
    assert record["counts"]["decision"] == len(lines(files["decisions.jsonl"])) == 5
    decisions = client.data("GET", "/decisions")["items"]
    assert sorted(lines(files["decisions.jsonl"]), key=lambda item: -item["seq"]) == decisions


def test_everything_about_an_export_stands_in_the_chain(client: Client) -> None:
    client.decide()
    record = exported(client)
    wait_for_ends(client, [record])
    bundle_of(client, record)
    assert kinds(client)[-5:] == [
        "decision",
        "export_requested",
        "signing_key_created",
        "export_completed",
        "export_downloaded",
    ]
    _, requested, created, completed, downloaded = client.entries()[-5:]
    assert requested["statement"]["body"]["export_id"] == record["id"]
    assert requested["statement"]["actor"] == downloaded["statement"]["actor"] == record["requested_by"]
    assert created["statement"]["body"]["fingerprint"] == record["signing_key"]["fingerprint"]
    assert completed["statement"]["body"]["export"] == record
    [download] = client.data("GET", "/exports/downloads")["items"]
    body = {"export_id": record["id"], "sha256": record["sha256"], "download_id": download["id"]}
    assert downloaded["statement"]["body"] == body
    assert client.verify()["is_valid"]


def test_the_key_that_signed_is_in_the_bundle_and_published_to_everybody(
    shared_server: ServerProcess, client: Client, tmp_path: Path
) -> None:
    record = exported(client)
    manifest = json.loads(members(bundle_of(client, record))["manifest.json"])
    path = f"/.well-known/precipiq/{manifest['org_id']}/signing-keys"
    published = httpx2.get(f"{shared_server.url}{path}")
    assert published.status_code == 200
    [key] = published.json()["data"]["items"]
    assert key["fingerprint"] == manifest["signing_key"]["fingerprint"] == record["signing_key"]["fingerprint"]
    assert key == client.data("GET", "/exports/signing-keys")["items"][0]
    assert client.entries()[key["announced_seq"] - 1]["statement"]["body"]["fingerprint"] == key["fingerprint"]
    assert httpx2.get(f"{shared_server.url}/.well-known/precipiq/org_nobody/signing-keys").status_code == 404


def test_published_keys_come_page_by_page_to_who_asks_for_pages(shared_server: ServerProcess, client: Client) -> None:
    for _ in range(3):
        client.data("POST", "/exports/signing-keys/rotate")
    url = f"{shared_server.url}/.well-known/precipiq/{client.entries(1)[0]['statement']['org_id']}/signing-keys"
    whole = httpx2.get(f"{url}?utm_source=mail").json()["data"]
    assert (whole["items"], whole["next_cursor"]) == (client.data("GET", "/exports/signing-keys")["items"], None)
    first = httpx2.get(url, params={"limit": 3}).json()["data"]
    rest = httpx2.get(url, params={"limit": 3, "cursor": first["next_cursor"]}).json()["data"]
    assert first["items"] + rest["items"] == whole["items"]
    assert (len(first["items"]), rest["next_cursor"]) == (3, None)
    for name, value in (("limit", "0"), ("limit", "501"), ("limit", "x"), ("cursor", "x")):
        refused = httpx2.get(url, params={name: value})
        assert (refused.status_code, list(refused.json()["error"]["details"])) == (422, [name])


def test_a_rotated_key_signs_no_more_and_stays_published(
    client: Client, shared_server: ServerProcess, tmp_path: Path
) -> None:
    before = exported(client)
    old_bundle = bundle_of(client, before)
    new = client.data("POST", "/exports/signing-keys/rotate")
    after = exported(client)
    assert after["signing_key"]["fingerprint"] == new["fingerprint"] != before["signing_key"]["fingerprint"]
    newest, oldest = client.data("GET", "/exports/signing-keys")["items"]
    assert (newest["key_id"], newest["retired_at"]) == (new["key_id"], None)
    assert oldest["retired_at"] == newest["created_at"]
    wrapped = "SELECT count(*) FROM signing_keys WHERE wrapped_key IS NOT NULL AND key_id IN"
    both = f"{wrapped} ('{newest['key_id']}', '{oldest['key_id']}')"
    assert shared_server.sql(both)[0][0] == 1, "the private half of the old one is forgotten"
    rotated = client.entries()[new["announced_seq"] - 1]["statement"]
    assert rotated["kind"] == "signing_key_rotated"
    assert rotated["body"]["replaced_fingerprint"] == oldest["fingerprint"]
    assert openssl_says(old_bundle, tmp_path) == "Verified OK"
    code, said = check(old_bundle, tmp_path, "--fingerprint", new["fingerprint"])
    assert (code, "fingerprint" in said) == (1, True)


@on_sqlite
def test_a_slice_says_what_it_leaves_out(client: Client, tmp_path: Path) -> None:
    for number in range(14):
        client.decide(number)
    record = exported(client, agent_id="agent-3")
    bundle = bundle_of(client, record)
    assert check(bundle, tmp_path)[0] == 0
    files = members(bundle)
    assert {line["agent_id"] for line in lines(files["decisions.jsonl"])} == {"agent-3"}
    completeness = json.loads(files["manifest.json"])["completeness"]
    assert (completeness["entries_included"], completeness["is_complete"]) == (2, False)
    assert completeness["entries_left_out"] == record["range"]["through_seq"] - 2


def test_a_range_in_time_is_found(client: Client, tmp_path: Path) -> None:
    receipts = [client.decide(number) for number in range(9)]
    record = exported(client, start=receipts[2]["timestamp"], end=receipts[6]["timestamp"], formats=["jsonl"])
    assert record["range"] == {"after_seq": receipts[2]["seq"] - 1, "through_seq": receipts[5]["seq"]}
    bundle = bundle_of(client, record)
    assert check(bundle, tmp_path)[0] == 0
    assert [entry["hash"] for entry in lines(members(bundle)["entries.jsonl"])] == [
        receipt["hash"] for receipt in receipts[2:6]
    ]
    assert "decisions.csv" not in members(bundle)
    nothing = exported(client, start="2001-01-01", end="2001-12-31")
    assert (nothing["entries"], nothing["is_valid"], nothing["verdict"]) == (0, None, "could_not_check")
    assert check(bundle_of(client, nothing), tmp_path)[0] == 2
    found = json.loads(members(bundle)["chain_verification.json"])
    assert (found["verdict"], found["anchors"][0]["kind"]) == (record["verdict"], "checkpoint")
    assert {window["threat"] for window in found["forgeable"]} == {"T1", "T2", "T3"}


def test_an_erased_payload_stays_erased_and_explained(client: Client, tmp_path: Path) -> None:
    receipts = [client.decide(number) for number in range(3)]
    redaction = client.data("POST", f"/decisions/{receipts[1]['decision_id']}/redact", json={"reason": "asked to"})
    bundle = bundle_of(client, exported(client, through_seq=receipts[2]["seq"]))
    assert check(bundle, tmp_path)[0] == 0
    entries, erased = lines(members(bundle)["entries.jsonl"]), lines(members(bundle)["decisions.jsonl"])[1]
    assert (erased["redacted"], erased["redaction_id"], erased["inputs"]) == (True, redaction["redaction_id"], None)
    assert ["Zoë 🚀" in json.dumps(entry, ensure_ascii=False) for entry in entries[-3:]] == [True, False, True]
    assert redaction["seq"] in [line["statement"]["seq"] for line in lines(members(bundle)["context.jsonl"])]


@on_sqlite
def test_the_same_idempotency_key_gives_the_same_export(client: Client) -> None:
    headers = {"Idempotency-Key": "monthly"}
    first = client.http.post("/exports", json={"after_seq": 1}, headers=headers)
    again = client.http.post("/exports", json={"after_seq": 1}, headers=headers)
    other = client.http.post("/exports", json={"after_seq": 2}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["data"]["id"] == first.json()["data"]["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    client.data("DELETE", f"/exports/{first.json()['data']['id']}")


@on_sqlite
def test_exports_are_listed_newest_first_page_by_page(client: Client) -> None:
    ids = [client.data("POST", "/exports", json={})["id"] for _ in range(3)]
    first = client.data("GET", "/exports", params={"limit": 2})
    rest = client.data("GET", "/exports", params={"limit": 2, "cursor": first["next_cursor"]})
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    refused = client.http.get("/exports", params={"cursor": "c2VxOjE"})
    assert (refused.status_code, refused.json()["error"]["details"]) == (
        422,
        {"cursor": ["is not a cursor of this list"]},
    )
    for export_id in ids:
        client.data("DELETE", f"/exports/{export_id}")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-01-02", "end": "2026-01-01T00:00:00Z"}, "end"),
        ({"after_seq": 5, "through_seq": 4}, "through_seq"),
        ({"after_seq": -1}, "after_seq"),
        ({"formats": []}, "formats"),
        ({"formats": ["pdf"]}, "formats.0"),
        ({"everything": True}, "everything"),
    ],
)
@on_sqlite
def test_what_is_no_export_is_refused_and_stores_nothing(client: Client, body: dict[str, object], path: str) -> None:
    answer = client.http.post("/exports", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_error")
    assert list(answer.json()["error"]["details"]) == [path]
    assert client.data("GET", "/exports")["items"] == []


def test_exports_need_their_scope_and_are_seen_by_their_own_chain_alone(
    shared_server: ServerProcess, client: Client
) -> None:
    record = exported(client)
    reader = with_scope(shared_server, client, "read", "write", "admin")
    for method, path in [("POST", "/exports"), ("GET", "/exports"), ("GET", f"/exports/{record['id']}/download")]:
        assert reader.http.request(method, path).status_code == 403
    exporter = with_scope(shared_server, client, "export")
    assert exporter.http.post("/exports/signing-keys/rotate").status_code == 403
    org_id = client.entries()[0]["statement"]["org_id"]
    live = shared_server.create_key("live", "export", org_id=org_id)
    for stranger in (Client(shared_server), Client(shared_server, live)):
        for method, path in [("GET", ""), ("GET", "/download"), ("DELETE", "")]:
            answer = stranger.http.request(method, f"/exports/{record['id']}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert bundle_of(exporter, record)


def test_a_deleted_bundle_is_gone_and_the_chain_tells(client: Client) -> None:
    record = exported(client)
    deleted = client.data("DELETE", f"/exports/{record['id']}")
    assert deleted["status"] == "expired"
    gone = client.http.get(f"/exports/{record['id']}/download")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "export_expired")
    assert client.data("DELETE", f"/exports/{record['id']}")["status"] == "expired"
    assert kinds(client).count("export_deleted") == 1


def expire(server: ServerProcess, export_id: str) -> None:
    """As if the server had noted that time itself."""
    where = f"WHERE export_id = '{export_id}'"
    [values] = server.sql(f"SELECT {', '.join(RESULT)} FROM exports {where}")
    row = {**dict(zip(RESULT, values, strict=True)), "expires_us": 1}
    mac = row_macs_of(server.data_dir).mac(sealed_result(row))
    server.sql(f"UPDATE exports SET expires_us = 1, result_mac = '{mac}' {where}")


def test_a_bundle_is_gone_with_the_end_of_its_time(client: Client, shared_server: ServerProcess) -> None:
    """At once: the upkeep comes by later."""
    record = exported(client)
    expire(shared_server, record["id"])
    gone = client.http.get(f"/exports/{record['id']}/download")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "export_expired")


@on_sqlite
def test_a_download_goes_on_where_it_broke_off(client: Client) -> None:
    record = exported(client)
    whole = bundle_of(client, record)
    path = f"/exports/{record['id']}/download"
    rest = client.http.get(path, headers={"Range": "bytes=100-", "If-Range": f'"{record["sha256"]}"'})
    assert (rest.status_code, rest.content) == (206, whole[100:])
    head = client.http.head(path)
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == (str(len(whole)), "bytes")
    assert "attachment" in head.headers["content-disposition"]
    assert client.http.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert kinds(client).count("export_downloaded") == 1
