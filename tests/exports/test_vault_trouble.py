"""A master key that is missing, another one or changed: exports fail closed and say why, decisions keep flowing in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client

from .evidence import ended, exported

pytestmark = [pytest.mark.slow, pytest.mark.system]

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


def restarted_with(server: ServerProcess, previous_keys: str) -> Client:
    port = server.url.rpartition(":")[2]
    server.stop()
    server._environment["PRECIPIQ__PLUGINS__VAULT_LOCAL__PREVIOUS_MASTER_KEYS"] = previous_keys
    server.start_on(port)
    return Client(server)


def failed(client: Client) -> dict[str, str]:
    record = ended(client, client.data("POST", "/exports", json={})["id"])
    assert record["status"] == "failed"
    error: dict[str, str] = record["error"]
    return error


def test_exports_fail_closed_without_the_right_master_key_and_keys_can_be_changed(server: ServerProcess) -> None:
    client = Client(server)
    client.decide()
    without_a_key(server, client)
    put_key(server, ONE_KEY)
    before = exported(client)["signing_key"]
    assert server.run_warm("vault", "status").returncode == 0
    put_key(server, ANOTHER_KEY)
    under_another_key(restarted_with(server, "[]"), before)

    (server.data_dir / "old.key").write_text(ONE_KEY)
    client = restarted_with(server, '[{ file = "old.key" }]')
    assert exported(client)["signing_key"] == before
    assert server.run_warm("vault", "rewrap").returncode == 0
    (server.data_dir / "old.key").unlink()
    client = restarted_with(server, "[]")
    assert exported(client)["signing_key"] == before
    assert client.verify()["is_valid"]


def without_a_key(server: ServerProcess, client: Client) -> None:
    """Exports fail and say why, everything else goes on."""
    error = failed(client)
    assert error["code"] == "unavailable"
    assert "vault.key" in error["message"]
    assert client.data("GET", "/exports/signing-keys")["items"] == []
    assert client.http.post("/exports/signing-keys/rotate").status_code == 503
    assert client.http.get(f"{server.url}/readyz").status_code == 200
    critical = [line for line in server.log_lines() if line["level"] == "critical"]
    assert any("vault" in line["logger"] for line in critical)
    assert client.decide()["seq"]
    status = server.run_warm("vault", "status", check=False)
    assert (status.returncode, "vault.key" in status.stderr) == (2, True)


def under_another_key(client: Client, before: dict[str, str]) -> None:
    """Exports are refused, and no new signing key takes the old one's place."""
    assert failed(client)["code"] == "vault_refused"
    assert client.decide()["seq"]
    [key] = client.data("GET", "/exports/signing-keys")["items"]
    assert (key["fingerprint"], key["retired_at"]) == (before["fingerprint"], None)
    assert client.verify()["is_valid"]
