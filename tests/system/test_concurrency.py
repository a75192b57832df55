"""Many clients at once: one dense chain, true receipts, and no key of idempotency used twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from precipiq_testkit.server import ServerProcess

from .client import Client, decision

CLIENTS = 64
EACH = 25


def test_64_clients_write_one_dense_chain_with_true_receipts(
    shared_server: ServerProcess, spare_keys: list[str]
) -> None:
    key = spare_keys.pop()

    def write(number: int) -> list[dict[str, object]]:
        client = Client(shared_server, key)
        return [client.decide(number, external_id=f"{number}-{index}") for index in range(EACH)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        receipts = [receipt for written in pool.map(write, range(CLIENTS)) for receipt in written]

    entries = {entry["statement"]["id"]: entry for entry in Client(shared_server, key).entries(500)}
    assert len(receipts) == CLIENTS * EACH
    seqs = sorted(entry["statement"]["seq"] for entry in entries.values())
    assert seqs == list(range(1, len(entries) + 1))
    for receipt in receipts:
        entry = entries[receipt["decision_id"]]
        statement = entry["statement"]
        assert (receipt["seq"], receipt["hash"], receipt["prev_hash"], receipt["timestamp"]) == (
            statement["seq"],
            entry["hash"],
            statement["prev_hash"],
            statement["timestamp"],
        )
    assert Client(shared_server, key).verify()["is_valid"]


def test_one_idempotency_key_from_many_clients_is_one_entry(shared_server: ServerProcess) -> None:
    before = Client(shared_server).data("GET", "/ledger/head")["seq"]

    def write(_: int) -> dict[str, object]:
        return Client(shared_server).data("POST", "/decisions", json=decision(1), headers={"Idempotency-Key": "once"})

    with ThreadPoolExecutor(20) as pool:
        receipts = list(pool.map(write, range(20)))

    assert all(receipt == receipts[0] for receipt in receipts)
    assert Client(shared_server).data("GET", "/ledger/head")["seq"] == before + 1


@pytest.mark.parametrize("other", [{"confidence": 0.5}, {"inputs": {"customer": 2}}, {"metadata": {}}])
def test_the_same_key_with_another_body_is_refused(shared_server: ServerProcess, other: dict[str, object]) -> None:
    client = Client(shared_server)
    headers = {"Idempotency-Key": f"body-{other}"}
    client.data("POST", "/decisions", json=decision(1), headers=headers)
    head = client.data("GET", "/ledger/head")

    answer = client.http.post("/decisions", json=decision(1, **other), headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert client.data("GET", "/ledger/head") == head


def test_a_batch_is_replayed_whole_and_never_in_part(shared_server: ServerProcess) -> None:
    client = Client(shared_server)
    headers = {"Idempotency-Key": "a batch"}
    batch = [decision(number) for number in range(5)]
    first = client.data("POST", "/decisions/batch", json={"decisions": batch}, headers=headers)
    head = client.data("GET", "/ledger/head")

    again = client.http.post("/decisions/batch", json={"decisions": batch}, headers=headers)
    assert again.json()["data"] == first
    assert again.headers["idempotent-replayed"] == "true"
    for other in (batch[:3], [*batch, decision(9)], batch[::-1]):
        answer = client.http.post("/decisions/batch", json={"decisions": other}, headers=headers)
        assert answer.json()["error"]["code"] == "idempotency_conflict", len(other)
    assert client.data("GET", "/ledger/head") == head


def test_an_external_id_returns_the_first_decision(shared_server: ServerProcess) -> None:
    client = Client(shared_server)
    first = client.decide(1, external_id="ticket-7")

    assert client.decide(1, external_id="ticket-7") == first
    batch = [decision(2), decision(1, external_id="ticket-7")]
    receipts = client.data("POST", "/decisions/batch", json={"decisions": batch})["receipts"]
    assert receipts[1] == first
    answer = client.http.post("/decisions", json=decision(3, external_id="ticket-7"))
    assert answer.status_code == 409
