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

from precipiq_testkit.plugin import use_database
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client, decision
from tests.system.organisations import organisations

from .evidence import bundle_of, check, ended, restarted, wait_for, wait_for_ends

pytestmark = [pytest.mark.slow, pytest.mark.system]

EXPORTS = rounds(4, long=20)
KILLS = rounds(2, long=6)

HURRIED = {
    "PRECIPIQ__PLUGINS__EXPORTS__LEASE_S": "1",
    "PRECIPIQ__PLUGINS__EXPORTS__POLL_S": "0.1",
    "PRECIPIQ__PLUGINS__EXPORTS__RETRY_S": "0.1",
    "PRECIPIQ__PLUGINS__EXPORTS__UPKEEP_INTERVAL_S": "0.5",
    "PRECIPIQ__PLUGINS__EXPORTS__FAILURES_MAX": "20",
    "PRECIPIQ__PLUGINS__EXPORTS__RUNNING_MAX": "2",
    "PRECIPIQ__PLUGINS__EXPORTS__RUNNING_PER_ORGANISATION_MAX": "2",
}


def fill(client: Client, batches: int = 10) -> None:
    """Hundreds of decisions, so that an export takes a while."""
    for number in range(batches):
        inputs = [{"number": number, "of": index, "padding": "x" * 500} for index in range(100)]
        client.data("POST", "/decisions/batch", json={"decisions": [decision(number, inputs=each) for each in inputs]})


@pytest.fixture(scope="module")
def hurried(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One for all tests; whoever stops it starts it again."""
    with ExitStack() as stack:
        postgres = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            postgres = stack.enter_context(use_database(request.getfixturevalue("migrated_postgres").copy(), patch))
        folder = tmp_path_factory.mktemp("server")
        yield stack.enter_context(running_server(folder, postgres=postgres, overrides=HURRIED))


@pytest.fixture(scope="module")
def keys(hurried: ServerProcess) -> list[str]:
    return [key for _, key in organisations(hurried, 3)]


@pytest.fixture
def client(hurried: ServerProcess, keys: list[str]) -> Client:
    """A client of an organisation of its own, which has a thousand decisions."""
    client = Client(hurried, keys.pop())
    fill(client)
    return client


def ask(client: Client, number: int) -> str:
    """Ask for an export, as often as it takes to be told: its id."""
    while True:
        headers = {"Idempotency-Key": f"export-{number}"}
        try:
            answer = client.http.post("/exports", json={"after_seq": number}, headers=headers)
        except httpx2.HTTPError:
            continue
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["id"])


def look_at_downloads(client: Client) -> None:
    """Whatever can be downloaded is whole."""
    for record in client.data("GET", "/exports", params={"limit": 100})["items"]:
        answer = client.http.get(f"/exports/{record['id']}/download")
        assert answer.status_code in (200, 409), answer.text
        if answer.status_code == 200:
            now = client.data("GET", f"/exports/{record['id']}")
            assert sha256(answer.content).hexdigest() == now["sha256"]


def statuses(client: Client) -> Counter[str]:
    return Counter(record["status"] for record in client.data("GET", "/exports", params={"limit": 100})["items"])


def files_of(server: ServerProcess, export_ids: list[str]) -> list[str]:
    """What lies in the folder of bundles and of what is being written, of these exports."""
    paths = (server.data_dir / "exports").rglob("*")
    return sorted(path.name for path in paths if path.is_file() and path.name.partition(".")[0] in export_ids)


def await_moment(server: ServerProcess, client: Client, number: int, chosen: random.Random) -> None:
    """In turn: some time after an export has begun; while a bundle is written; when one more is completed."""
    if number % 3 == 0:
        wait_for(lambda: statuses(client)["running"], "none begins")
        time.sleep(chosen.uniform(0.0, 0.7))
    elif number % 3 == 1:
        wait_for(lambda: any((server.data_dir / "exports" / "work").glob("*.zip")), "none is written")
    else:
        before = statuses(client)["completed"]
        wait_for(lambda: statuses(client)["completed"] > before, "none is completed")


def begun(client: Client) -> str:
    """An export that a worker has in hand: its id."""
    export_id = str(client.data("POST", "/exports", json={})["id"])
    wait_for(lambda: client.data("GET", f"/exports/{export_id}")["status"] != "pending", "it does not begin")
    return export_id


def test_every_export_ends_once_whenever_the_server_is_killed(
    hurried: ServerProcess, client: Client, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for kill in range(KILLS):
        for number in range(EXPORTS * kill // KILLS, EXPORTS * (kill + 1) // KILLS):
            ask(client, number)
        await_moment(hurried, client, kill, chosen)
        restarted(hurried)
        look_at_downloads(client)
    ids = [ask(client, number) for number in range(EXPORTS)]

    records = [ended(client, export_id) for export_id in ids]
    found = statuses(client)
    assert sum(found.values()) == EXPORTS
    assert set(found) <= {"completed", "failed"}
    assert found["completed"] >= EXPORTS - 2, records
    assert all(record["error"]["message"] for record in records if record["status"] == "failed")
    entries = wait_for_ends(client, records)
    for kind, status in (("export_completed", "completed"), ("export_failed", "failed")):
        told = [entry["body"]["export"]["id"] for entry in entries if entry["kind"] == kind]
        assert sorted(told) == sorted(record["id"] for record in records if record["status"] == status)
    requested = [entry["body"]["export_id"] for entry in entries if entry["kind"] == "export_requested"]
    assert sorted(requested) == sorted(ids)
    look_at_downloads(client)
    assert check(bundle_of(client, records[0]), tmp_path)[0] == 0
    wait_for(lambda: len(files_of(hurried, ids)) == found["completed"], "files are left behind")


def test_a_server_that_stops_leaves_its_export_to_the_next_start_at_once(
    hurried: ServerProcess, client: Client
) -> None:
    port = hurried.url.rpartition(":")[2]
    export_id = begun(client)
    assert hurried.stop() == 0
    hurried.start_on(port)
    assert ended(client, export_id)["status"] == "completed"
    sql = f"SELECT attempt, failures FROM exports WHERE export_id = '{export_id}'"
    assert [tuple(row) for row in hurried.sql(sql)] == [(2, 0)], "put back, not taken over as from a dead server"


def test_a_cancelled_export_stops_and_leaves_no_file(hurried: ServerProcess, client: Client) -> None:
    export_id = begun(client)
    assert client.data("DELETE", f"/exports/{export_id}")["status"] == "cancelled"
    refused = client.http.get(f"/exports/{export_id}/download")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "export_not_ready")
    wait_for(lambda: files_of(hurried, [export_id]) == [], "a file is left behind")
    assert client.data("GET", f"/exports/{export_id}")["status"] == "cancelled"


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_another_node_takes_over_from_one_that_is_killed(
    server_database: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    overrides = {
        **HURRIED,
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER": str(tmp_path_factory.mktemp("bundles")),
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER_IS_SHARED": "true",
    }
    with ExitStack() as stack:
        first, second = (
            ServerProcess(tmp_path_factory.mktemp("node"), postgres=server_database, overrides=overrides)
            for _ in range(2)
        )
        first.start()
        stack.callback(first.kill)
        second.data_dir.mkdir(mode=0o700)
        for secret in ("master.key", "vault.key"):
            shutil.copy(first.data_dir / secret, second.data_dir / secret)
        client = Client(first)
        fill(client, 30)
        export_id = client.data("POST", "/exports", json={})["id"]
        wait_for(lambda: client.data("GET", f"/exports/{export_id}")["progress"], "it does not begin")
        assert client.data("GET", f"/exports/{export_id}")["status"] == "running"
        first.kill()
        second.start()
        stack.callback(second.kill)
        other = Client(second, first.key)
        record = ended(other, export_id)
        assert record["status"] == "completed"
        assert sha256(bundle_of(other, record)).hexdigest() == record["sha256"]
        told = [statement["kind"] for statement in wait_for_ends(other, [record])]
        assert told.count("export_completed") == told.count("signing_key_created") == 1
