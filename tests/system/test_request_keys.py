"""An `Idempotency-Key` belongs to the request that it first came with, whatever that request did."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest

from precipiq_chain.canonical import canonical
from precipiq_ledger.models import DecisionIn
from precipiq_testkit.server import ServerProcess

from .client import Client, decision

pytestmark = pytest.mark.slow

Body = dict[str, Any]


@pytest.fixture
def client(database: str, shared_server: ServerProcess) -> Client:
    """None of these tests minds the entries of another."""
    return Client(shared_server)


def a_decision(client: Client, *, named: bool) -> Body:
    return decision(external_id=f"d-{uuid4()}" if named else None)


def a_batch(client: Client, *, named: bool) -> Body:
    return {"decisions": [a_decision(client, named=named), a_decision(client, named=False)]}


def an_event(client: Client, *, named: bool) -> Body:
    name = f"e-{uuid4()}" if named else None
    return {"source": "manual", "event_type": "payment", "amount": "5.00", "currency": "USD", "external_id": name}


def a_link(client: Client, *, named: bool) -> Body:
    """A link's pair is its name, always."""
    event = client.data("POST", "/financial-events", json=an_event(client, named=False))
    return {
        "decision_id": client.decide()["decision_id"],
        "financial_event_id": event["id"],
        "correlation_strength": 1.0,
        "link_type": "revenue",
    }


KINDS: list[tuple[str, Callable[..., Body], Body]] = [
    ("/decisions", a_decision, {"confidence": 0.1}),
    ("/decisions/batch", a_batch, {"decisions": [decision(9)]}),
    ("/financial-events", an_event, {"amount": "6.00"}),
    ("/links", a_link, {"link_type": "cost"}),
]


def post(client: Client, path: str, body: Body, key: str | None = None) -> tuple[int, str, Any]:
    """Status, the error's code or `replayed` or `new`, and the answer's data."""
    answer = client.http.post(path, json=body, headers={} if key is None else {"Idempotency-Key": key})
    if not answer.is_success:
        return answer.status_code, answer.json()["error"]["code"], None
    how = "replayed" if "idempotent-replayed" in answer.headers else "new"
    return answer.status_code, how, answer.json()["data"]


def recorded(client: Client) -> list[int]:
    """The entries that requests made: estimates come by themselves."""
    return [
        entry["statement"]["seq"]
        for entry in client.entries(500)
        if entry["statement"]["kind"] in ("decision", "financial_event", "link")
    ]


@pytest.mark.parametrize(("path", "make", "change"), KINDS, ids=[path for path, _, _ in KINDS])
def test_a_key_first_used_on_a_repeat_is_bound_to_its_body(
    client: Client, path: str, make: Callable[..., Body], change: Body
) -> None:
    body, key = make(client, named=True), f"k-{uuid4()}"
    _, _, first = post(client, path, body)
    if path == "/decisions/batch":  # the unnamed one would be recorded again
        body = {"decisions": body["decisions"][:1]}
        first = {"receipts": first["receipts"][:1], "count": 1}
    assert post(client, path, body, key)[1:] == ("replayed", first)

    for other in (make(client, named=True), make(client, named=False), body | change):
        before = recorded(client)
        assert post(client, path, other, key)[:2] == (409, "idempotency_conflict")
        assert recorded(client) == before

    assert post(client, path, body, key)[1:] == ("replayed", first)


@pytest.mark.parametrize("first_named", [True, False])
@pytest.mark.parametrize(("path", "make", "change"), KINDS[:3], ids=[path for path, _, _ in KINDS[:3]])
def test_a_key_used_with_or_without_another_name_is_one_key(
    client: Client, path: str, make: Callable[..., Body], change: Body, first_named: bool
) -> None:
    key = f"k-{uuid4()}"
    body = make(client, named=first_named)
    assert post(client, path, body, key)[1] == "new"
    for named in (True, False):
        assert post(client, path, make(client, named=named) | change, key)[:2] == (409, "idempotency_conflict")
    assert post(client, path, body, key)[1] == "replayed"


def test_a_refused_request_binds_nothing(client: Client) -> None:
    """The client mends its request and may keep its key."""
    key, recorded = f"k-{uuid4()}", decision(external_id=f"d-{uuid4()}")
    client.data("POST", "/decisions", json=recorded)
    assert post(client, "/decisions", recorded | {"confidence": 0.3}, key)[0] == 409
    assert post(client, "/decisions", decision(inputs={"x": "y" * 300_000}), key)[0] == 413
    assert post(client, "/decisions", decision(3), key)[1] == "new"


def test_another_writing_of_the_same_request_is_the_same(client: Client) -> None:
    key, name = f"k-{uuid4()}", f"d-{uuid4()}"
    full = decision(external_id=name, inputs={"b": 1.0, "a": [1]}, human_in_loop=False, metadata=None)
    assert post(client, "/decisions", full, key)[1] == "new"
    bare = {name: full[name] for name in reversed(list(decision(external_id=name)))} | {"inputs": {"a": [1], "b": 1}}
    assert post(client, "/decisions", bare, key)[1] == "replayed"


def redactable(client: Client, kind: str) -> str:
    """The path at which something new is redacted."""
    if kind == "decisions":
        return f"/decisions/{client.decide()['decision_id']}/redact"
    body = an_event(client, named=False) if kind == "financial-events" else a_link(client, named=True)
    extra: Body = {"metadata": {"name": "x"}} if kind == "financial-events" else {"notes": "x"}
    return f"/{kind}/{client.data('POST', f'/{kind}', json=body | extra)['id']}/redact"


@pytest.mark.parametrize("kind", ["decisions", "financial-events", "links"])
def test_a_redaction_that_is_asked_for_again_gets_the_first_answer(
    fresh_client: Client, shared_server: ServerProcess, kind: str
) -> None:
    client = fresh_client  # links cause entries later
    path, key, body = redactable(client, kind), f"k-{uuid4()}", {"reason": "asked"}
    status, how, first = post(client, path, body, key)
    assert (status, how) == (200, "new")
    assert post(client, path, body, key) == (200, "replayed", first)
    assert post(client, path, body, f"k-{uuid4()}") == (200, "replayed", first)
    assert post(client, path, {"reason": "other"}, key)[:2] == (409, "idempotency_conflict")

    free = f"k-{uuid4()}"
    assert post(client, path, {"reason": "other"}, free)[:2] == (409, "already_redacted")
    assert post(client, path, body)[:2] == (409, "already_redacted")
    other = Client(shared_server, client.data("POST", "/api-keys", json={"scopes": ["admin"]})["key"])
    assert post(other, path, body, f"k-{uuid4()}")[:2] == (409, "already_redacted")
    redactions = [entry for entry in client.entries(500) if entry["statement"]["kind"] == "redaction"]
    assert [entry["statement"]["seq"] for entry in redactions] == [first["seq"]]
    assert post(client, redactable(client, kind), {"reason": "another"}, free)[1] == "new", "a refusal binds nothing"


def test_of_two_reasons_at_once_one_is_recorded_and_the_other_refused(
    client: Client, shared_server: ServerProcess
) -> None:
    path = redactable(client, "decisions")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: post(Client(shared_server), path, {"reason": f"reason {n}"})[1], range(8)))
    assert sorted(done) == ["already_redacted"] * 7 + ["new"]


def test_one_key_for_two_subjects_of_one_path_is_refused(client: Client) -> None:
    key = f"k-{uuid4()}"
    paths = [f"/decisions/{client.decide()['decision_id']}/redact" for _ in range(2)]
    done = [post(client, path, {"reason": "asked"}, key)[1] for path in paths]
    assert done == ["new", "idempotency_conflict"]
    assert client.data("GET", paths[1].removesuffix("/redact"))["inputs"] is not None


def test_of_two_requests_at_once_with_one_key_one_is_recorded(
    fresh_client: Client, shared_server: ServerProcess
) -> None:
    client, key = fresh_client, f"k-{uuid4()}"
    as_client = client.http.headers["X-Precipiq-Key"]
    bodies = [decision(number, external_id=f"d-{uuid4()}") for number in range(8)]
    before = client.data("GET", "/ledger/head")["seq"]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda body: post(Client(shared_server, as_client), "/decisions", body, key)[1], bodies))
    assert sorted(done) == ["idempotency_conflict"] * 7 + ["new"]
    assert client.data("GET", "/ledger/head")["seq"] == before + 1


def test_the_keys_of_paths_and_organisations_are_their_own(
    client: Client, shared_server: ServerProcess, spare_keys: list[str]
) -> None:
    key = f"k-{uuid4()}"
    assert post(client, "/decisions", decision(1), key)[1] == "new"
    assert post(client, "/financial-events", an_event(client, named=True), key)[1] == "new"
    other = Client(shared_server, spare_keys.pop())
    assert post(other, "/decisions", decision(2), key)[1] == "new"


def test_nothing_can_be_guessed_from_what_is_stored(client: Client, shared_server: ServerProcess) -> None:
    """A redaction erases the payload; its plain hash would let anybody try values until one fits."""
    key, body = f"k-{uuid4()}", decision(inputs={"pin": 1234})
    post(client, "/decisions", body, key)
    stored = [str(value) for row in shared_server.sql("SELECT name, content FROM request_keys") for value in row]
    assert stored
    name = f"POST /api/v1/decisions {key}".encode()
    full = canonical({"path": {}, "body": DecisionIn.model_validate(body).model_dump()})
    guesses = {sha256(text).hexdigest() for text in (key.encode(), name, full)}
    assert not guesses & set(stored)
    assert not any(key in value for value in stored)
