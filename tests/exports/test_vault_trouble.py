"""A master key that is missing or another one: exports fail closed and say why, decisions keep flowing in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client

from .evidence import ended, exported

SETTINGS = {
    "PRECIPIQ__PLUGINS__VAULT_LOCAL__CREATE_MASTER_KEY": "false",
    "PRECIPIQ__PLUGINS__EXPORTS__FAILURES_MAX": "2",
    "PRECIPIQ__PLUGINS__EXPORTS__RETRY_S": "0.1",
    "PRECIPIQ__PLUGINS__EXPORTS__POLL_S": "0.1",
}
ONE_KEY, ANOTHER_KEY = "1f" * 32, "2e" * 32


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its vault has no master key yet."""
    with running_server(tmp_path_factory.mktemp("server"), overrides=SETTINGS) as started:
        yield started


def put_key(server: ServerProcess, key: str) -> None:
    (server.data_dir / "vault.key").write_text(f"{key}\n")


def failed(client: Client) -> dict[str, str]:
    record = ended(client, client.data("POST", "/exports", json={})["id"])
    assert record["status"] == "failed"
    error: dict[str, str] = record["error"]
    return error


def test_without_a_master_key_exports_fail_closed_and_work_once_it_is_there(server: ServerProcess) -> None:
    client = Client(server)
    client.decide()
    error = failed(client)
    assert error["code"] == "unavailable"
    assert "vault.key" in error["message"]
    assert client.data("GET", "/exports/signing-keys")["items"] == []
    assert client.http.post("/exports/signing-keys/rotate").status_code == 503
    assert client.http.get(f"{server.url}/readyz").status_code == 200
    critical = [line for line in server.log_lines() if line["level"] == "critical"]
    assert any("vault" in line["logger"] for line in critical)
    assert client.decide()["seq"]
    status = server.run("vault", "status", check=False)
    assert (status.returncode, "vault.key" in status.stderr) == (2, True)

    put_key(server, ONE_KEY)
    assert exported(client)["status"] == "completed"
    assert server.run("vault", "status").returncode == 0


def test_under_another_master_key_exports_are_refused_and_no_new_key_takes_the_old_ones_place(
    server: ServerProcess,
) -> None:
    client = Client(server)
    put_key(server, ONE_KEY)
    record = exported(client)
    port = server.url.rpartition(":")[2]
    server.stop()
    put_key(server, ANOTHER_KEY)
    server.start_on(port)
    client = Client(server)
    assert failed(client)["code"] == "vault_refused"
    assert client.decide()["seq"]
    [key] = client.data("GET", "/exports/signing-keys")["items"]
    assert (key["fingerprint"], key["retired_at"]) == (record["signing_key"]["fingerprint"], None)
    assert client.verify()["is_valid"]


def test_after_a_change_of_master_keys_everything_is_wrapped_anew_and_the_old_one_can_go(
    server: ServerProcess,
) -> None:
    client = Client(server)
    put_key(server, ONE_KEY)
    before = exported(client)
    port = server.url.rpartition(":")[2]
    server.stop()
    (server.data_dir / "old.key").write_text(ONE_KEY)
    put_key(server, ANOTHER_KEY)
    server._environment["PRECIPIQ__PLUGINS__VAULT_LOCAL__PREVIOUS_MASTER_KEYS"] = '[{ file = "old.key" }]'
    server.start_on(port)
    client = Client(server)
    assert exported(client)["signing_key"] == before["signing_key"]
    assert server.run("vault", "rewrap").returncode == 0
    server.stop()
    (server.data_dir / "old.key").unlink()
    server._environment["PRECIPIQ__PLUGINS__VAULT_LOCAL__PREVIOUS_MASTER_KEYS"] = "[]"
    server.start_on(port)
    assert exported(Client(server))["signing_key"] == before["signing_key"]
