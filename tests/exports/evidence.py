"""Asking for bundles over the interface, as a client does."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client

TIMEOUT_S = 90.0

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For a test of what does not depend on the database."""


def ended(client: Client, export_id: str) -> dict[str, Any]:
    """That export once it has ended, one way or another."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        record: dict[str, Any] = client.data("GET", f"/exports/{export_id}")
        if record["status"] not in ("pending", "running"):
            return record
        time.sleep(0.05)
    raise AssertionError(f"the export did not end: {record}")


def wait_for_ends(client: Client, records: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The statements of the chain, once it tells the end of each: an export's entry follows its record's change."""
    ends = {(record["id"], f"export_{record['status']}") for record in records}
    statements: list[Any] = []

    def are_told() -> bool:
        statements[:] = [entry["statement"] for entry in client.entries(500)]
        return ends <= {(each["body"]["export"]["id"], each["kind"]) for each in statements if is_end(each)}

    def is_end(statement: Mapping[str, Any]) -> bool:
        return statement["kind"] in ("export_completed", "export_failed")

    wait_for(are_told, "an end is not told")
    return statements


def exported(client: Client, **request: Any) -> dict[str, Any]:
    """An export that was asked for and is completed."""
    record = ended(client, client.data("POST", "/exports", json=request)["id"])
    assert record["status"] == "completed", record
    return record


def bundle_of(client: Client, record: dict[str, Any]) -> bytes:
    """Its bundle."""
    answer = client.http.get(f"/exports/{record['id']}/download")
    assert answer.status_code == 200, answer.text
    return answer.content


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def members(bundle: bytes) -> dict[str, bytes]:
    """The files in it."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def lines(text: bytes) -> list[Any]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def check(bundle: bytes, folder: Path, *arguments: str) -> tuple[int, str]:
    """What the bundle's own verify.py says of it: exit code and text."""
    path = folder / "bundle.zip"
    path.write_bytes(bundle)
    script = folder / "verify.py"
    script.write_bytes(members(bundle)["verify.py"])
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(path), *arguments], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def openssl_says(bundle: bytes, folder: Path) -> str:
    """What OpenSSL says of its signature."""
    for name in ("manifest.json", "manifest.json.sig", "public_key.pem"):
        (folder / name).write_bytes(members(bundle)[name])
    command = ["openssl", "dgst", "-sha256", "-verify", "public_key.pem", "-signature", "manifest.json.sig"]
    done = subprocess.run([*command, "manifest.json"], cwd=folder, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def kinds(client: Client) -> list[str]:
    """The kinds of all entries of the chain, in order."""
    return [entry["statement"]["kind"] for entry in client.entries(500)]


def restarted(server: ServerProcess) -> ServerProcess:
    """The same server, killed and started again on its port."""
    port = server.url.rpartition(":")[2]
    server.kill()
    return server.start_on(port)
