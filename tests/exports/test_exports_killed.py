"""Servers killed at random moments: every export ends completed once or failed with a reason, no half file shows."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client, decision

from .evidence import bundle_of, check, ended

EXPORTS = 20
KILLS = 6
BATCHES = 10

HURRIED = {
    "PRECIPIQ__PLUGINS__EXPORTS__LEASE_S": "1",
    "PRECIPIQ__PLUGINS__EXPORTS__POLL_S": "0.1",
    "PRECIPIQ__PLUGINS__EXPORTS__RETRY_S": "0.1",
    "PRECIPIQ__PLUGINS__EXPORTS__UPKEEP_INTERVAL_S": "0.5",
    "PRECIPIQ__PLUGINS__EXPORTS__FAILURES_MAX": "20",
    "PRECIPIQ__PLUGINS__EXPORTS__RUNNING_MAX": "2",
    "PRECIPIQ__PLUGINS__EXPORTS__RUNNING_PER_ORGANISATION_MAX": "2",
}


def fill(client: Client, batches: int = BATCHES) -> None:
    """Hundreds of decisions, so that an export takes a while."""
    for number in range(batches):
        inputs = [{"number": number, "of": index, "padding": "x" * 500} for index in range(100)]
        client.data("POST", "/decisions/batch", json={"decisions": [decision(number, inputs=each) for each in inputs]})


@pytest.fixture
def hurried(
    server_database: PostgresDatabase | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, postgres=server_database, overrides=HURRIED) as server:
        yield server


def ask(server: ServerProcess, number: int) -> bool:
    """Ask for an export, as often as it takes to be told; False when the server is not there."""
    headers = {"X-Precipiq-Key": server.key, "Idempotency-Key": f"export-{number}"}
    try:
        answer = httpx2.post(f"{server.url}/api/v1/exports", json={"after_seq": number}, headers=headers, timeout=5)
    except httpx2.HTTPError:
        return False
    return answer.status_code == 202


def look_at_downloads(client: Client) -> None:
    """Whatever can be downloaded is whole."""
    for record in client.data("GET", "/exports", params={"limit": 100})["items"]:
        answer = client.http.get(f"/exports/{record['id']}/download")
        assert answer.status_code in (200, 409), answer.text
        if answer.status_code == 200:
            now = client.data("GET", f"/exports/{record['id']}")
            assert sha256(answer.content).hexdigest() == now["sha256"]


def stored_files(server: ServerProcess) -> list[str]:
    return sorted(path.name for path in (server.data_dir / "exports").rglob("*") if path.is_file())


def test_every_export_ends_once_whenever_the_server_is_killed(hurried: ServerProcess, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    server, port = hurried, hurried.url.rpartition(":")[2]
    fill(Client(server))
    asked: set[int] = set()
    for _ in range(KILLS):
        for number in range(EXPORTS):
            if number not in asked and len(asked) < EXPORTS and chosen.random() < 0.5 and ask(server, number):
                asked.add(number)
        time.sleep(chosen.uniform(0.0, 1.0))
        server.kill()
        server.start_on(port)
        look_at_downloads(Client(server))
    for number in range(EXPORTS):
        assert ask(server, number)

    client = Client(server)
    newest_first = client.data("GET", "/exports", params={"limit": 100})["items"]
    records = [ended(client, item["id"]) for item in reversed(newest_first)]
    assert len(records) == EXPORTS
    statuses = Counter(record["status"] for record in records)
    assert set(statuses) <= {"completed", "failed"}
    assert statuses["completed"] >= EXPORTS - 2, records
    assert all(record["error"]["message"] for record in records if record["status"] == "failed")
    entries = [entry["statement"] for entry in client.entries(500)]
    for kind, status in (("export_completed", "completed"), ("export_failed", "failed")):
        told = [entry["body"]["export"]["id"] for entry in entries if entry["kind"] == kind]
        assert sorted(told) == sorted(record["id"] for record in records if record["status"] == status)
    requested = [entry["body"]["export_id"] for entry in entries if entry["kind"] == "export_requested"]
    assert sorted(requested) == sorted(record["id"] for record in records)
    look_at_downloads(client)
    assert check(bundle_of(client, records[0]), tmp_path)[0] == 0
    deadline = time.monotonic() + 20
    while len(stored_files(server)) != statuses["completed"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(stored_files(server)) == statuses["completed"], stored_files(server)


def test_a_server_that_stops_leaves_its_export_to_the_next_start_at_once(hurried: ServerProcess) -> None:
    client = Client(hurried)
    fill(client)
    port = hurried.url.rpartition(":")[2]
    export_id = client.data("POST", "/exports", json={})["id"]
    while client.data("GET", f"/exports/{export_id}")["status"] == "pending":
        time.sleep(0.01)
    assert hurried.stop() == 0
    assert hurried.sql("SELECT status FROM exports")[0][0] in ("pending", "completed")
    hurried.start_on(port)
    record = ended(Client(hurried), export_id)
    assert record["status"] == "completed"
    assert "interrupted" not in hurried.log_text()


def test_a_cancelled_export_stops_and_leaves_no_file(hurried: ServerProcess) -> None:
    client = Client(hurried)
    fill(client)
    export_id = client.data("POST", "/exports", json={})["id"]
    while client.data("GET", f"/exports/{export_id}")["status"] == "pending":
        time.sleep(0.01)
    assert client.data("DELETE", f"/exports/{export_id}")["status"] == "cancelled"
    refused = client.http.get(f"/exports/{export_id}/download")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "export_not_ready")
    deadline = time.monotonic() + 20
    while stored_files(hurried) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stored_files(hurried) == []
    assert client.data("GET", f"/exports/{export_id}")["status"] == "cancelled"


def test_another_node_takes_over_from_one_that_is_killed(
    postgres: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("bundles")
    overrides = {
        **HURRIED,
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER": str(shared),
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER_IS_SHARED": "true",
    }
    with ExitStack() as stack:
        first, second = (
            ServerProcess(tmp_path_factory.mktemp("node"), postgres=postgres, overrides=overrides) for _ in range(2)
        )
        first.start()
        stack.callback(first.kill)
        second.data_dir.mkdir(mode=0o700)
        for secret in ("master.key", "vault.key"):
            shutil.copy(first.data_dir / secret, second.data_dir / secret)
        client = Client(first)
        fill(client, 60)
        export_id = client.data("POST", "/exports", json={})["id"]
        while client.data("GET", f"/exports/{export_id}")["progress"] < 0.1:
            time.sleep(0.01)
        first.kill()
        second.start()
        stack.callback(second.kill)
        other = Client(second, first.key)
        record = ended(other, export_id)
        assert record["status"] == "completed"
        assert sha256(bundle_of(other, record)).hexdigest() == record["sha256"]
        told = [entry["statement"]["kind"] for entry in other.entries(500)]
        assert told.count("export_completed") == told.count("signing_key_created") == 1
