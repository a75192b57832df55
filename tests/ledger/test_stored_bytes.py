"""The quota of stored bytes: counted as chains grow, refused before anything is stored, and each chain's own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from precipiq_chain.canonical import canonical
from precipiq_testkit.plugin import use_database
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client, decision
from tests.system.organisations import organisations

QUOTA = 30_000
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def server(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with ExitStack() as stack:
        postgres: PostgresDatabase | None = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            postgres = stack.enter_context(use_database(request.getfixturevalue("migrated_postgres").copy(), patch))
        overrides = {"PRECIPIQ__PLUGINS__LEDGER__STORED_BYTES_MAX": str(QUOTA)}
        folder = tmp_path_factory.mktemp("quota")
        yield stack.enter_context(running_server(folder, postgres=postgres, overrides=overrides))


@pytest.fixture
def tenant(server: ServerProcess) -> Client:
    return Client(server, organisations(server, 1)[0][1])


def stored(client: Client) -> int:
    """What the chain's raw entries come to."""
    entries = client.entries()
    canonical = [each["statement"] for each in entries]
    assert canonical
    return sum(len(text(each["statement"])) + payload_bytes(each) for each in entries)


def text(value: Any) -> bytes:
    return canonical(value)


def payload_bytes(entry: Any) -> int:
    return 0 if entry["payload"] is None else len(text({"payload": entry["payload"], "salt": entry["salt"]}))


def counted(client: Client, expected: int | None = None) -> Any:
    """What the server says, as soon as it says that."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        said = client.data("GET", "/ledger/usage")["stored_bytes"]
        if said == expected or (expected is None and said is not None):
            return said
        assert time.monotonic() < deadline, (said, expected)
        time.sleep(0.1)


def fill(client: Client) -> list[Any]:
    """Decisions until one is refused."""
    receipts: list[Any] = []
    for number in range(100):
        answer = client.http.post("/decisions", json=decision(number, inputs={"text": "x" * 2000}))
        if answer.status_code != 201:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "quota_exceeded")
            return receipts
        receipts.append(answer.json()["data"])
    raise AssertionError("nothing was refused")


def test_what_would_exceed_the_quota_is_refused_and_the_rest_goes_on(tenant: Client) -> None:
    first = tenant.http.post("/decisions", json=decision(0, external_id="once")).json()["data"]
    receipts = fill(tenant)
    before = tenant.data("GET", "/ledger/head")
    assert QUOTA - 3000 < counted(tenant, stored(tenant)) <= QUOTA

    batch = {"decisions": [decision(number, inputs={"text": "x" * 2000}) for number in range(3)]}
    money = {"source": "manual", "event_type": "other", "amount": "1", "currency": "USD", "metadata": {"t": "x" * 3000}}
    for path, body in (("/decisions/batch", batch), ("/financial-events", money)):
        answer = tenant.http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "quota_exceeded"), path
    assert tenant.data("GET", "/ledger/head") == before, "nothing was stored"

    again = tenant.http.post("/decisions", json=decision(0, external_id="once"))
    assert (again.status_code, again.json()["data"]) == (201, first), "a repeat stores nothing"
    assert tenant.http.post("/api-keys", json={}).status_code == 201, "what happens to keys goes on record"

    for receipt in receipts[:2]:
        erased = tenant.http.post(f"/decisions/{receipt['decision_id']}/redact", json={"reason": "asked for"})
        assert erased.status_code == 200
    tenant.decide(1, inputs={"text": "y" * 1500})
    assert tenant.verify()["is_valid"] is True


def test_a_full_environment_takes_nothing_from_another(server: ServerProcess) -> None:
    [(org_id, key), (_, other)] = organisations(server, 2)
    full = Client(server, key)
    fill(full)
    assert Client(server, other).http.post("/decisions", json=decision(inputs={"text": "x" * 3000})).status_code == 201
    live = server.run_warm("keys", "create", "--org", org_id, "--env", "live", "--json").stdout
    assert Client(server, json.loads(live)["key"]).http.post("/decisions", json=decision()).status_code == 201


def test_the_count_outlives_a_restart(server: ServerProcess, tenant: Client) -> None:
    for number in range(5):
        tenant.decide(number)
    size = counted(tenant, stored(tenant))
    server.stop()
    server.start()
    again = Client(server, str(tenant.http.headers["X-Precipiq-Key"]))
    assert counted(again) == size
    again.decide(6)
    assert counted(again) == stored(again)


def test_a_chain_from_before_the_count_is_counted_when_somebody_asks(server: ServerProcess, tenant: Client) -> None:
    for number in range(5):
        tenant.decide(number)
    server.stop()
    server.sql("DELETE FROM ledger_usage")
    server.start()
    again = Client(server, str(tenant.http.headers["X-Precipiq-Key"]))
    again.decide(5)  # nobody knows yet what is stored: it is not refused
    assert counted(again, stored(again)) > 0
    again.decide(6)
    assert counted(again) == stored(again)
