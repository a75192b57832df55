"""The first start: one organisation and one key, shown once, and never again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client

KEY = re.compile(r"pq_(?:live|test)_[0-9A-Za-z]{49}")


def test_the_first_start_shows_a_key_that_can_do_everything(shared_server: ServerProcess) -> None:
    listed = Client(shared_server).data("GET", "/api-keys")["items"]

    assert set(KEY.findall(shared_server.log_text())) == {shared_server.key}
    assert [(item["environment"], item["scopes"]) for item in listed] == [
        ("test", ["write", "read", "export", "admin"])
    ]
    assert shared_server.org_id in shared_server.log_text()
    assert str(shared_server.data_dir) in shared_server.log_text()


def test_the_key_is_said_to_the_operator_and_not_to_the_log(shared_server: ServerProcess) -> None:
    assert shared_server.key in shared_server.log_text()
    assert shared_server.key not in json.dumps(shared_server.log_lines())


def test_a_second_start_makes_and_shows_nothing(server: ServerProcess) -> None:
    orgs = server.run("orgs", "list", "--json").stdout
    keys = server.run("keys", "list", "--org", server.org_id, "--env", "test", "--json").stdout
    server.stop()
    server.start()

    assert not KEY.search(server.log_text())
    assert server.run("orgs", "list", "--json").stdout == orgs
    after = json.loads(server.run("keys", "list", "--org", server.org_id, "--env", "test", "--json").stdout)
    assert [item["id"] for item in after] == [item["id"] for item in json.loads(keys)]


@pytest.mark.parametrize("environment", ["test", "live"])
def test_its_key_event_is_the_first_entry_of_the_test_chain_only(
    shared_server: ServerProcess, environment: str
) -> None:
    key = shared_server.key if environment == "test" else shared_server.create_key("live")
    first = Client(shared_server, key).data("GET", "/ledger/entries")["items"][0]["statement"]

    assert (first["seq"], first["kind"], first["actor"], first["environment"]) == (
        1,
        "key_created",
        "system",
        environment,
    )


def test_a_deployment_that_does_not_ask_for_it_starts_empty(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    deployment = ServerProcess(tmp_path / "asking", postgres=server_database).config.read_text()
    silent = deployment.replace('first_start_organisation = "test organisation"\n', "")
    assert silent != deployment
    with running_server(tmp_path / "silent", deployment=silent, postgres=server_database) as server:
        assert json.loads(server.run("orgs", "list", "--json").stdout) == []
        assert not KEY.search(server.log_text())


def test_a_command_before_the_first_start_makes_no_key(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    unstarted = ServerProcess(tmp_path, postgres=server_database)

    assert json.loads(unstarted.run("orgs", "list", "--json").stdout) == []
