"""The key endpoints over a real socket: what they change, what they record, and what a refusal gives away."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys.secret_format import is_well_formed, key_hash, make_key
from precipiq_testkit.server import ServerProcess
from tests.system.stored import places_with

UNAUTHORIZED = b'{"error":{"code":"unauthorized","message":"invalid or missing api key"}}'
DECISION = {"agent_id": "a", "action_type": "b", "inputs": {}, "outputs": {}, "confidence": 1}


def ask(server: ServerProcess, method: str, path: str, key: str | None = None, **options: Any) -> httpx2.Response:
    headers = {"X-Precipiq-Key": key or server.key, **options.pop("headers", {})}
    return httpx2.request(method, f"{server.url}/api/v1{path}", headers=headers, timeout=30, **options)


def data(server: ServerProcess, method: str, path: str, key: str | None = None, **options: Any) -> Any:
    answer = ask(server, method, path, key, **options)
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    return answer.json()["data"]


def new_key(server: ServerProcess, *scopes: str, **fields: Any) -> Any:
    return data(server, "POST", "/api-keys", json={"scopes": list(scopes) or ["read"], **fields})


def works(server: ServerProcess, key: str) -> bool:
    status = ask(server, "GET", "/ledger/head", key).status_code
    assert status in (200, 401), status
    return status == 200


def events(server: ServerProcess, kind: str, key: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    while after is not None:
        page = data(server, "GET", "/ledger/entries", key, params={"kind": kind, "after_seq": after, "limit": 500})
        found += [item["statement"] for item in page["items"]]
        after = page["next_after_seq"]
    return found


@pytest.fixture(scope="module")
def admin_id(shared_server: ServerProcess) -> str:
    """The id of the key that the tests act with."""
    listed = data(shared_server, "GET", "/api-keys")["items"]
    return str(next(item["id"] for item in listed if item["last_four"] == shared_server.key[-4:]))


@pytest.fixture(scope="module")
def live_key(shared_server: ServerProcess) -> str:
    return shared_server.create_key("live")


@pytest.fixture(scope="module")
def stranger_key(shared_server: ServerProcess) -> str:
    other = json.loads(shared_server.run_warm("orgs", "create", "another", "--json").stdout)["org_id"]
    return shared_server.create_key("test", org_id=other)


def test_a_new_key_works_at_once_and_only_for_its_scopes(shared_server: ServerProcess) -> None:
    made = new_key(shared_server, "read")

    assert is_well_formed(made["key"])
    assert made["key"].startswith("pq_test_")
    assert made["environment"] == "test"
    assert works(shared_server, made["key"])
    for method, path, body in (("POST", "/decisions", DECISION), ("GET", "/api-keys", None), ("POST", "/api-keys", {})):
        answer = ask(shared_server, method, path, made["key"], json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path


def test_each_scope_allows_its_own_and_no_more(shared_server: ServerProcess) -> None:
    writer = new_key(shared_server, "write")["key"]
    exporter = new_key(shared_server, "export")["key"]
    admin = new_key(shared_server, "admin")["key"]

    def statuses(key: str) -> list[int]:
        wrote = ask(shared_server, "POST", "/decisions", key, json=DECISION).status_code
        read = ask(shared_server, "GET", "/ledger/head", key).status_code
        return [wrote, read, ask(shared_server, "GET", "/api-keys", key).status_code]

    assert statuses(writer) == [201, 403, 403]
    assert statuses(exporter) == [403, 403, 403]
    assert statuses(admin) == [403, 403, 200]


def test_a_listing_shows_neither_secret_nor_hash(shared_server: ServerProcess) -> None:
    made = new_key(shared_server, "read", "write")
    answer = ask(shared_server, "GET", "/api-keys")
    listed = next(item for item in answer.json()["data"]["items"] if item["id"] == made["id"])

    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert set(listed) == {
        "id", "prefix", "last_four", "environment", "scopes", "created_at",
        "expires_at", "last_used_at", "revoked_at", "replaced_by",
    }  # fmt: skip
    assert (listed["prefix"], listed["last_four"]) == ("pq_test_", made["key"][-4:])
    assert made["key"] not in answer.text
    assert sha256(made["key"].encode()).hexdigest() not in answer.text


def test_no_key_is_stored_or_logged(shared_server: ServerProcess) -> None:
    made = new_key(shared_server)
    assert works(shared_server, made["key"])

    assert places_with(shared_server, made["id"]), "the control: what is stored is found"
    assert places_with(shared_server, made["key"]) == []
    assert made["key"] not in shared_server.log_text()


def test_a_new_key_is_an_entry_of_its_chain_by_the_key_that_made_it(
    shared_server: ServerProcess, admin_id: str, live_key: str, stranger_key: str
) -> None:
    made = new_key(shared_server, "write", "read")

    [entry] = [item for item in events(shared_server, "key_created") if item["body"]["key_id"] == made["id"]]

    assert entry["actor"] == admin_id
    assert (entry["org_id"], entry["environment"]) == (shared_server.org_id, "test")
    assert entry["body"] == {
        "key_id": made["id"], "environment": "test", "prefix": "pq_test_", "scopes": ["write", "read"],
        "expires_at": None, "fingerprint": sha256(f"precipiq key\n{key_hash(made['key'])}".encode()).hexdigest(),
    }  # fmt: skip
    for key in (live_key, stranger_key):
        assert made["id"] not in {item["body"]["key_id"] for item in events(shared_server, "key_created", key)}


def test_a_rotation_without_grace_ends_the_old_key_at_once(shared_server: ServerProcess, admin_id: str) -> None:
    old = new_key(shared_server, "read", "write")
    assert works(shared_server, old["key"])

    new = data(shared_server, "POST", f"/api-keys/{old['id']}/rotate", json={})

    assert new["id"] != old["id"]
    assert new["scopes"] == old["scopes"]
    assert works(shared_server, new["key"])
    assert not works(shared_server, old["key"])
    [entry] = [item for item in events(shared_server, "key_rotated") if item["body"]["key_id"] == old["id"]]
    assert entry["actor"] == admin_id
    assert (entry["body"]["new_key_id"], entry["body"]["grace_seconds"]) == (new["id"], 0)


def test_a_rotation_with_grace_lets_both_work_until_it_ends(shared_server: ServerProcess) -> None:
    old = new_key(shared_server)
    new = data(shared_server, "POST", f"/api-keys/{old['id']}/rotate", json={"grace_seconds": 2})
    both = works(shared_server, old["key"]), works(shared_server, new["key"])
    deadline = time.monotonic() + 20
    while works(shared_server, old["key"]) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert both == (True, True)
    assert not works(shared_server, old["key"])
    assert works(shared_server, new["key"])


def test_a_key_is_rotated_once(shared_server: ServerProcess) -> None:
    old = new_key(shared_server)
    data(shared_server, "POST", f"/api-keys/{old['id']}/rotate", json={"grace_seconds": 1000})

    again = ask(shared_server, "POST", f"/api-keys/{old['id']}/rotate", json={})

    assert (again.status_code, again.json()["error"]["code"]) == (409, "key_not_active")


def test_a_key_in_its_grace_can_still_be_revoked(shared_server: ServerProcess) -> None:
    old = new_key(shared_server)
    data(shared_server, "POST", f"/api-keys/{old['id']}/rotate", json={"grace_seconds": 1000})

    data(shared_server, "DELETE", f"/api-keys/{old['id']}")

    assert not works(shared_server, old["key"])


def test_revoking_again_changes_and_records_nothing_more(shared_server: ServerProcess, admin_id: str) -> None:
    made = new_key(shared_server)
    assert works(shared_server, made["key"])

    first = data(shared_server, "DELETE", f"/api-keys/{made['id']}")
    again = data(shared_server, "DELETE", f"/api-keys/{made['id']}")

    assert first["revoked_at"] is not None
    assert again["revoked_at"] == first["revoked_at"]
    assert not works(shared_server, made["key"])
    recorded = [item for item in events(shared_server, "key_revoked") if item["body"] == {"key_id": made["id"]}]
    assert [item["actor"] for item in recorded] == [admin_id]


def test_a_key_ends_when_it_expires(shared_server: ServerProcess) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)
    made = new_key(shared_server, expires_at=moment.isoformat())
    before = works(shared_server, made["key"])
    deadline = time.monotonic() + 20
    while works(shared_server, made["key"]) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert before or datetime.now(UTC) > moment
    assert not works(shared_server, made["key"])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": 5}, "expires_at"),
        ({"environment": "live"}, "environment"),
        ({"org_id": "org_other"}, "org_id"),
    ],
)
def test_a_wrong_request_for_a_key_names_the_field_and_makes_none(
    shared_server: ServerProcess, body: dict[str, object], path: str
) -> None:
    before = data(shared_server, "GET", "/api-keys")["items"]

    answer = ask(shared_server, "POST", "/api-keys", json=body)

    assert (answer.status_code, list(answer.json()["error"]["details"])) == (422, [path])
    assert data(shared_server, "GET", "/api-keys")["items"] == before


def test_another_organisations_and_environments_key_ids_are_unknown(
    shared_server: ServerProcess, live_key: str, stranger_key: str
) -> None:
    made = new_key(shared_server)
    unknown = [
        (method, ask(shared_server, method, path.format("key_unknown"), key, json=body))
        for key in (live_key, stranger_key)
        for method, path, body in (("DELETE", "/api-keys/{}", None), ("POST", "/api-keys/{}/rotate", {}))
    ]
    for (method, nothing), key in zip(unknown, (live_key, live_key, stranger_key, stranger_key), strict=True):
        path = f"/api-keys/{made['id']}" + ("/rotate" if method == "POST" else "")
        answer = ask(shared_server, method, path, key, json={} if method == "POST" else None)
        assert (answer.status_code, answer.content) == (404, nothing.content)
    for key in (live_key, stranger_key):
        assert made["id"] not in ask(shared_server, "GET", "/api-keys", key).text
    assert works(shared_server, made["key"])


def test_live_and_test_are_two_chains(shared_server: ServerProcess, live_key: str) -> None:
    decision = data(shared_server, "POST", "/decisions", json=DECISION)

    assert ask(shared_server, "GET", f"/decisions/{decision['decision_id']}", live_key).status_code == 404
    kinds = {item["environment"] for item in events(shared_server, "key_created", live_key)}
    assert kinds == {"live"}


def test_every_refused_key_is_answered_with_the_same_bytes_and_headers(shared_server: ServerProcess) -> None:
    revoked = new_key(shared_server)
    data(shared_server, "DELETE", f"/api-keys/{revoked['id']}")
    expired = new_key(shared_server)
    shared_server.sql(f"UPDATE api_keys SET expires_us = 1 WHERE key_id = '{expired['id']}'")
    keys = {
        "empty": "",
        "placeholder": "pq_test_demo_key_REPLACE_ME",
        "bad checksum": shared_server.key[:-1] + ("0" if shared_server.key[-1] != "0" else "1"),
        "unknown": make_key("test", bytes(range(32))),
        "unknown live": make_key("live", bytes(range(32))),
        "revoked": revoked["key"],
        "expired": expired["key"],
        "long": "k" * 3000,
    }
    url = f"{shared_server.url}/api/v1/decisions"
    answers = {"missing": httpx2.get(url)}
    for name, key in keys.items():
        answers[name] = httpx2.get(url, headers={"X-Precipiq-Key": key})
        answers[f"{name} posts"] = httpx2.post(url, headers={"X-Precipiq-Key": key}, content=b"{not json")

    varying = ("x-request-id", "date")
    headers = {
        name: [item for item in a.headers.multi_items() if item[0] not in varying] for name, a in answers.items()
    }
    for name, answer in answers.items():
        assert (answer.status_code, answer.content) == (401, UNAUTHORIZED), name
        assert headers[name] == headers["missing"], name
        assert answer.headers["x-request-id"]


def test_a_key_may_come_as_a_bearer_token_in_any_case_of_the_scheme(shared_server: ServerProcess) -> None:
    url = f"{shared_server.url}/api/v1/ledger/head"
    statuses = {
        scheme: httpx2.get(url, headers={"Authorization": f"{scheme} {shared_server.key}"}).status_code
        for scheme in ("Bearer", "bearer", "BEARER", "Basic", "Token")
    }

    assert statuses == {"Bearer": 200, "bearer": 200, "BEARER": 200, "Basic": 401, "Token": 401}


def test_two_different_keys_in_one_request_are_refused(shared_server: ServerProcess) -> None:
    other = new_key(shared_server)["key"]
    url = f"{shared_server.url}/api/v1/ledger/head"
    key = shared_server.key
    same = httpx2.get(url, headers={"X-Precipiq-Key": key, "Authorization": f"Bearer {key}"})
    requests: list[dict[str, Any]] = [
        {"headers": [("X-Precipiq-Key", key), ("Authorization", f"Bearer {other}")]},
        {"headers": [("X-Precipiq-Key", key), ("X-Precipiq-Key", other)]},
        {"headers": [("X-Precipiq-Key", key)], "params": {"api_key": other}},
    ]

    assert same.status_code == 200
    for request in requests:
        answer = httpx2.get(url, **request)
        assert (answer.status_code, answer.content) == (401, UNAUTHORIZED)


def test_rest_takes_no_key_from_the_url(shared_server: ServerProcess) -> None:
    for name in ("api_key", "api-key", "X-Precipiq-Key"):
        answer = httpx2.get(f"{shared_server.url}/api/v1/ledger/head", params={name: shared_server.key})
        assert (answer.status_code, answer.content) == (401, UNAUTHORIZED), name
    assert shared_server.key not in "".join(line for line in map(json.dumps, shared_server.log_lines()))


def test_a_rotation_longer_than_the_deployment_allows_is_refused(shared_server: ServerProcess) -> None:
    made = new_key(shared_server)
    for grace in (10**8, -1, 1.5, True, "1"):
        answer = ask(shared_server, "POST", f"/api-keys/{made['id']}/rotate", json={"grace_seconds": grace})
        assert (answer.status_code, list(answer.json()["error"]["details"])) == (422, ["grace_seconds"]), grace
    assert works(shared_server, made["key"])
