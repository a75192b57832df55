"""The first start: one organisation and one key, shown once or in one private file, and never again."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from precipiq_auth_keys.first_start import first_start
from precipiq_auth_keys.store import Organisation
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.system.stored import places_with

KEY = re.compile(r"pq_(?:live|test)_[0-9A-Za-z]{49}")


def test_the_first_start_makes_a_key_that_can_do_everything(shared_server: ServerProcess) -> None:
    listed = Client(shared_server).data("GET", "/api-keys")["items"]

    assert [(item["environment"], item["scopes"]) for item in listed] == [
        ("test", ["write", "read", "export", "admin"])
    ]
    assert shared_server.org_id in shared_server.log_text()
    assert str(shared_server.data_dir) in shared_server.log_text()


def test_where_nobody_reads_the_key_lies_in_a_private_file_whose_path_is_said(shared_server: ServerProcess) -> None:
    file = shared_server.data_dir / "first.key"

    assert file.read_text() == f"{shared_server.key}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"  key   in {file}\n" in shared_server.log_text()
    assert not KEY.search(shared_server.log_text())


def test_a_terminal_gets_the_key_itself_and_no_file_has_it(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    terminal, other_end = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "precipiq_core.cli", "serve"],
        stdout=other_end,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PRECIPIQ_CONFIG": str(server.config)},
        cwd=tmp_path,
    ) as process:
        os.close(other_end)
        shown = ""
        with suppress(OSError):  # the terminal's end
            while "print(receipt" not in shown:
                shown += os.read(terminal, 65536).decode()
        process.terminate()
        assert process.wait(30) == 0
    os.close(terminal)

    [key] = set(KEY.findall(shown))
    assert "shown this once and stored nowhere" in shown
    assert f"X-Precipiq-Key: {key}'" in shown
    assert places_with(server, key) == []


@pytest.mark.anyio
async def test_an_older_file_with_a_first_key_is_kept(tmp_path: Path) -> None:
    (tmp_path / "first.key").write_text("of another database\n")
    service, said = _FirstService(), _Screen()
    await first_start(service, DeploymentInfo("test", tmp_path, "http://x", True), said, "x")  # type: ignore[arg-type]

    assert (tmp_path / "first.key").read_text() == "of another database\n"
    assert (tmp_path / "first.org_1.key").read_text() == f"{_FirstService.SECRET}\n"
    assert _FirstService.SECRET not in said.text


@pytest.mark.anyio
async def test_a_key_that_no_file_takes_is_said_to_be_lost_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    service, said = _FirstService(), _Screen()
    info = DeploymentInfo("test", tmp_path / "data", "http://x", True)
    with capture_logs() as lines:
        await first_start(service, info, said, "x")  # type: ignore[arg-type]

    assert said.text == ""
    assert [line["advice"] for line in lines] == ["make another: precipiq keys create --org org_1 --env test"]
    assert _FirstService.SECRET not in str(lines)


class _Screen:
    is_terminal = False
    text = ""

    def say(self, text: str) -> None:
        self.text += text


class _FirstService:
    SECRET = "pq_test_" + "x" * 49

    async def create_first_organisation(self, name: str) -> Organisation:
        return Organisation("org_1", name, 0)

    async def create_key(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(secret=self.SECRET)


def test_a_second_start_makes_and_shows_nothing(server: ServerProcess) -> None:
    orgs = server.run_warm("orgs", "list", "--json").stdout
    keys = server.run_warm("keys", "list", "--org", server.org_id, "--env", "test", "--json").stdout
    server.stop()
    server.start()

    assert not KEY.search(server.log_text())
    assert server.run_warm("orgs", "list", "--json").stdout == orgs
    after = json.loads(server.run_warm("keys", "list", "--org", server.org_id, "--env", "test", "--json").stdout)
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
        assert json.loads(server.run_warm("orgs", "list", "--json").stdout) == []
        assert not KEY.search(server.log_text())


def test_a_command_before_the_first_start_makes_no_key(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    unstarted = ServerProcess(tmp_path, postgres=server_database)
    done = unstarted.run("orgs", "list", "--json", check=False)

    if server_database is None:
        assert (done.returncode, done.stdout) == (2, "")
        assert "there is no database" in done.stderr
    else:
        assert json.loads(done.stdout) == []
    assert not unstarted.data_dir.exists()
