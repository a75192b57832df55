"""``precipiq orgs`` and ``precipiq keys``: what scripts rely on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys.secret_format import is_well_formed
from precipiq_core.key_files import write_private
from precipiq_testkit.server import ServerProcess

pytestmark = pytest.mark.system

KEY = re.compile(r"pq_(?:live|test)_[0-9A-Za-z]{49}")
UNSAFE = "the database loses acknowledged entries when it crashes: fsync or full_page_writes is off"


@pytest.fixture(scope="module")
def stopped(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A deployment whose server does not run."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "data").mkdir(mode=0o700)
    write_private(folder / "data" / "master.key", token_hex(32))  # an entry of a command is sealed at once
    if database == "sqlite":
        server = ServerProcess(folder)
        server.run_warm("migrate")
        yield server
        return
    postgres = request.getfixturevalue("postgres_server").new_database()
    server = ServerProcess(folder, postgres=postgres)
    server.run_warm("migrate")
    yield server
    postgres.drop()


def document(server: ServerProcess, *arguments: str) -> Any:
    """The one JSON document that the command prints."""
    done = server.run_warm(*arguments, "--json")
    assert [line for line in done.stderr.splitlines() if UNSAFE not in line] == [], "tests' PostgreSQL is a fast one"
    assert done.stdout.endswith("\n")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def org_id(stopped: ServerProcess) -> str:
    return str(document(stopped, "orgs", "create", "Müller & Söhne")["org_id"])


def status(server: ServerProcess, key: str) -> int:
    return httpx2.get(f"{server.url}/api/v1/ledger/head", headers={"X-Precipiq-Key": key}).status_code


def test_orgs_create_and_list_agree(stopped: ServerProcess, org_id: str) -> None:
    assert {"org_id": org_id, "name": "Müller & Söhne"} in document(stopped, "orgs", "list")
    assert f"{org_id}  Müller & Söhne" in stopped.run("orgs", "list").stdout.splitlines()


def test_keys_create_prints_exactly_id_key_and_environment(stopped: ServerProcess, org_id: str) -> None:
    made = document(stopped, "keys", "create", "--org", org_id, "--env", "live", "--scope", "read")

    assert sorted(made) == ["environment", "id", "key"]
    assert made["environment"] == "live"
    assert made["key"].startswith("pq_live_")
    assert is_well_formed(made["key"])
    [listed] = list(document(stopped, "keys", "list", "--org", org_id, "--env", "live"))
    assert (listed["id"], listed["scopes"], listed["last_four"]) == (made["id"], ["read"], made["key"][-4:])


def test_a_key_is_shown_once_and_never_by_another_command(stopped: ServerProcess, org_id: str) -> None:
    made = stopped.run("keys", "create", "--org", org_id, "--env", "test")

    assert len(KEY.findall(made.stdout)) == 1
    assert not KEY.search(made.stderr)
    for form in ([], ["--json"]):
        assert not KEY.search(stopped.run("keys", "list", "--org", org_id, "--env", "test", *form).stdout)


def test_rotate_and_revoke_end_keys_and_say_so(stopped: ServerProcess, org_id: str) -> None:
    old = document(stopped, "keys", "create", "--org", org_id, "--env", "test", "--expires-at", "2999-01-01")
    new = document(stopped, "keys", "rotate", old["id"])
    revoked = document(stopped, "keys", "revoke", new["id"])
    listed = {item["id"]: item for item in document(stopped, "keys", "list", "--org", org_id, "--env", "test")}

    assert sorted(new) == ["environment", "id", "key"]
    assert new["key"] != old["key"]
    assert listed[old["id"]]["replaced_by"] == new["id"]
    assert listed[new["id"]]["revoked_at"] == revoked["revoked_at"] is not None
    assert listed[new["id"]]["expires_at"] == "2999-01-01T00:00:00.000000Z"
    again = stopped.run("keys", "rotate", old["id"], check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert "revoked, expired or already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["keys", "create", "--org", "org_none", "--env", "test", "--json"], "there is no such organisation"),
        (["keys", "revoke", "key_none"], "there is no such key"),
        (["keys", "rotate", "key_none", "--json"], "there is no such key"),
        (["keys", "create", "--org", "o", "--env", "prod"], "'prod' is not one of"),
        (["keys", "create", "--org", "o", "--env", "test", "--scope", "root"], "'root' is not one of"),
        (["keys", "create", "--org", "o", "--env", "test", "--expires-at", "soon"], "ISO 8601"),
        (["keys", "rotate", "key_none", "--grace-seconds", "-1"], "--grace-seconds"),
    ],
)
def test_what_cannot_be_done_exits_2_with_the_reason_on_stderr(
    stopped: ServerProcess, arguments: list[str], problem: str
) -> None:
    done = stopped.run_warm(*arguments, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_an_expiry_in_the_past_names_the_option_at_fault(stopped: ServerProcess, org_id: str) -> None:
    arguments = ["keys", "create", "--org", org_id, "--env", "test", "--expires-at", "2020-01-01"]
    done = stopped.run(*arguments, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "must lie in the future" in done.stderr


def test_config_may_stand_before_or_after_the_command(stopped: ServerProcess, org_id: str, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(stopped.config.read_text().replace('data_dir = "data"', f'data_dir = "{stopped.data_dir}"'))

    forms = [
        ["--config", str(other), "orgs", "list", "--json"],
        ["orgs", "list", "--json", f"--config={other}"],
        ["orgs", "list", "--config", str(other), "--json"],
    ]
    printed = {stopped.run(*form).stdout for form in forms}
    assert len(printed) == 1
    assert org_id in printed.pop()
    absent = stopped.run("orgs", "list", "--config", str(tmp_path / "absent.toml"), check=False)
    assert absent.returncode == 2
    assert "cannot be read" in absent.stderr
    assert stopped.run("orgs", "list", "--config", check=False).returncode == 2


def test_a_key_made_while_the_server_serves_works_at_once(shared_server: ServerProcess) -> None:
    made = document(shared_server, "keys", "create", "--org", shared_server.org_id, "--env", "live", "--scope", "read")

    assert status(shared_server, made["key"]) == 200


def test_an_organisation_made_while_the_server_serves_has_an_empty_chain_of_its_own(
    shared_server: ServerProcess,
) -> None:
    org = document(shared_server, "orgs", "create", "late")["org_id"]
    made = document(shared_server, "keys", "create", "--org", org, "--env", "test")
    answer = httpx2.get(f"{shared_server.url}/api/v1/ledger/entries", headers={"X-Precipiq-Key": made["key"]})

    [entry] = answer.json()["data"]["items"]
    assert entry["statement"]["org_id"] == org
    assert (entry["statement"]["kind"], entry["statement"]["actor"]) == ("key_created", "system")
    assert entry["statement"]["body"]["key_id"] == made["id"]
