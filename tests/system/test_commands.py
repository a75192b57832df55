"""The command line and the ways a start can fail."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from precipiq_testkit.server import DEPLOYMENT, ServerProcess


@pytest.fixture
def idle(tmp_path: Path) -> ServerProcess:
    """A deployment that was never started."""
    return ServerProcess(tmp_path / "idle")


def changed(idle: ServerProcess, old: str, new: str) -> None:
    assert old in DEPLOYMENT
    idle.config.write_text(DEPLOYMENT.replace(old, new))


def test_check_says_what_each_plugin_contributes_and_opens_nothing(idle: ServerProcess) -> None:
    report = json.loads(idle.run("check", "--json").stdout)
    assert report["ok"]
    assert "POST /decisions" in report["plugins"]["ledger"]["routes"]
    assert "KeyAuthenticator" in report["plugins"]["auth_keys"]["authenticators"]
    assert not idle.data_dir.exists()


def test_check_lists_every_problem(idle: ServerProcess) -> None:
    idle.config.write_text("[servre]\n[deployment]\nnmae = 'x'\n[plugins.ledgre]\n")
    done = idle.run("check", check=False)
    assert done.returncode != 0
    assert "[servre]" in done.stderr
    assert "deployment.nmae" in done.stderr


def test_plugins_lists_what_is_installed_and_enabled(idle: ServerProcess) -> None:
    rows = {row["name"]: row for row in json.loads(idle.run("plugins", "--json").stdout)}
    assert rows["ledger"]["enabled"]
    assert rows["ledger"]["distribution"] == "precipiq-ledger"


def test_a_server_does_not_start_on_a_schema_it_does_not_know(idle: ServerProcess) -> None:
    changed(idle, "migrate_at_start = true", "migrate_at_start = false")
    with pytest.raises(RuntimeError, match="run `precipiq migrate`"):
        idle.start()
    assert idle.process.returncode == 2

    assert "applied ledger_0001" in idle.run("migrate").stdout
    assert "up to date" in idle.run("migrate").stdout
    idle.start()
    assert idle.stop() == 0


def test_a_port_in_use_is_one_clear_line(idle: ServerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        changed(idle, "127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RuntimeError, match="cannot listen on"):
            idle.start()
    assert idle.process.returncode == 2


def test_a_missing_certificate_and_key_are_both_named(idle: ServerProcess) -> None:
    changed(
        idle,
        'bind = "127.0.0.1:0"',
        'bind = "127.0.0.1:0"\n[server.tls]\ncertificate_file = "no.crt"\nkey_file = "no.key"\n',
    )
    with pytest.raises(RuntimeError, match=r"certificate_file(.|\n)*key_file"):
        idle.start()
    assert idle.process.returncode == 2


def test_an_unknown_driver_names_the_known_ones(idle: ServerProcess) -> None:
    changed(idle, "[plugins.ledger]", '[plugins.ledger]\ndriver = "sqlight"')
    with pytest.raises(RuntimeError, match="did you mean 'sqlite'"):
        idle.start()


def test_verify_exits_0_1_or_2(server: ServerProcess) -> None:
    import sqlite3

    command = ("ledger", "verify", "--org", server.org_id, "--env", "test")
    assert "intact: 1 entries" in server.run(*command).stdout
    assert server.stop() == 0
    with sqlite3.connect(server.database_file) as connection:
        connection.execute("DROP TRIGGER entries_are_never_changed")
        connection.execute("UPDATE entries SET hash = replace(hash, substr(hash, 1, 1), 'x')")
    broken = server.run(*command, "--json", check=False)
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["first_broken_link"]["seq"] == 1
    server.database_file.write_bytes(b"no database" * 1000)
    assert server.run(*command, check=False).returncode == 2


def test_export_writes_every_raw_entry(server: ServerProcess) -> None:
    done = server.run("ledger", "export", "--org", server.org_id, "--env", "test")
    assert [json.loads(line)["statement"]["seq"] for line in done.stdout.splitlines()] == [1]
