"""Evidence from the command line, beside a running server and without one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client

from .evidence import bundle_of, check, exported, on_sqlite

pytestmark = pytest.mark.slow


def test_a_bundle_is_written_beside_a_running_server_and_its_own_check_passes(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    client = Client(shared_server)
    for number in range(3):
        client.decide(number)
    output = tmp_path / "evidence.zip"
    chain = ("--org", shared_server.org_id, "--env", "test")
    done = shared_server.run("ledger", "export", *chain, "--output", str(output), "--json")
    record = json.loads(done.stdout)
    assert (record["status"], record["requested_by"], record["size"]) == (
        "completed",
        "system",
        output.stat().st_size,
    )
    assert check(output.read_bytes(), tmp_path)[0] == 0
    assert client.data("GET", f"/exports/{record['id']}")["sha256"] == record["sha256"]
    assert client.http.get(f"/exports/{record['id']}/download").content == output.read_bytes()


@on_sqlite
def test_a_bundle_is_verified_an_altered_one_fails_and_what_is_none_could_not_be_checked(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    record = exported(Client(shared_server))
    bundle, altered = tmp_path / "evidence.zip", tmp_path / "altered.zip"
    bundle.write_bytes(bundle_of(Client(shared_server), record))
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(altered, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(
                name, content.replace(b"key_created", b"key_crEated") if name == "entries.jsonl" else content
            )
    fingerprint = record["signing_key"]["fingerprint"]
    verified = shared_server.run("bundle", "verify", str(bundle), "--fingerprint", fingerprint)
    assert "VERIFIED" in verified.stdout
    failed = shared_server.run("bundle", "verify", str(altered), check=False)
    assert (failed.returncode, "FAILED: entries.jsonl" in failed.stdout) == (1, True)
    assert shared_server.run("bundle", "verify", str(tmp_path / "none.zip"), check=False).returncode == 2


@on_sqlite
def test_a_misspelt_organisation_is_told_and_nothing_is_made(shared_server: ServerProcess, tmp_path: Path) -> None:
    output = tmp_path / "evidence.zip"
    done = shared_server.run(
        "ledger", "export", "--org", "org_nobody", "--env", "test", "--output", str(output), check=False
    )
    assert (done.returncode, done.stdout, output.exists()) == (2, "", False)
    assert "there is no entry of org_nobody" in done.stderr
    wrong = ("ledger", "export", "--org", shared_server.org_id, "--env", "test", "--output", str(output))
    refused = shared_server.run(*wrong, "--start", "2026-02-01", "--end", "2026-01-01", check=False)
    assert (refused.returncode, "end: must be after start" in refused.stderr) == (2, True)


@on_sqlite
def test_signing_keys_are_made_listed_and_rotated(shared_server: ServerProcess) -> None:
    chain = ("--org", shared_server.org_id, "--env", "test", "--json")
    made = json.loads(shared_server.run("signing-keys", "create", *chain).stdout)
    assert json.loads(shared_server.run("signing-keys", "create", *chain).stdout) == made
    rotated = json.loads(shared_server.run("signing-keys", "rotate", *chain).stdout)
    listed = json.loads(shared_server.run("signing-keys", "list", *chain).stdout)
    assert [key["key_id"] for key in listed] == [rotated["key_id"], made["key_id"]]
    assert [key["retired_at"] is None for key in listed] == [True, False]
    assert Client(shared_server).data("GET", "/exports/signing-keys")["items"] == listed
