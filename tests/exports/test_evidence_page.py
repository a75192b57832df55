"""The page for users of bundles: its commands run as printed, and it names every field, status and error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from precipiq_exports.jobs import Status
from precipiq_exports.models import ExportIn
from precipiq_testkit.server import ServerProcess
from tests.system.client import Client

from .chains import MadeChain, longer, unpacked
from .chains import bundle_of as bundle_in_memory
from .evidence import ended

PAGE = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def database() -> str:
    """One is enough for a page."""
    return "sqlite"


def run(server: ServerProcess, line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("http://127.0.0.1:8000", server.url).replace("ORG ", f"{server.org_id} ")
    line = re.sub(r"^precipiq ", f"{sys.executable} -m precipiq_core.cli ", line.replace("--env live", "--env test"))
    environment = {**server._environment, "KEY": server.key, "ORG": server.org_id, **variables}
    return subprocess.run(
        ["bash", "-ec", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_commands_of_the_page_run_as_printed(server: ServerProcess, tmp_path: Path) -> None:
    ask, look, download, from_command_line, taken, verify, keys = COMMANDS
    export_id = json.loads(run(server, ask, tmp_path).stdout)["data"]["id"]
    record = ended(Client(server), export_id)
    shown = json.loads(run(server, look, tmp_path, ID=export_id).stdout)["data"]
    assert shown == record
    assert run(server, download, tmp_path, ID=export_id).returncode == 0
    assert (tmp_path / "evidence.zip").stat().st_size == record["size"]
    [listed] = json.loads(run(server, taken, tmp_path, ID=export_id).stdout)["data"]["items"]
    assert (listed["requests"], listed["asked_bytes"]) == (1, record["size"])
    fingerprint = record["signing_key"]["fingerprint"]
    assert "VERIFIED" in run(server, verify.replace("HEX", fingerprint), tmp_path).stdout
    assert json.loads(run(server, keys, tmp_path).stdout)["data"]["items"][0]["fingerprint"] == fingerprint
    assert run(server, from_command_line, tmp_path).returncode == 0
    assert "VERIFIED" in run(server, verify.replace("HEX", fingerprint), tmp_path).stdout


def test_the_page_names_every_field_and_status() -> None:
    assert [name for name in ExportIn.model_fields if f"`{name}`" not in PAGE] == []
    assert [status for status in get_args(Status) if f"`{status}`" not in PAGE] == []
    manifest: dict[str, Any] = json.loads(unpacked(bundle_in_memory(longer(MadeChain(), 1)))["manifest.json"])
    assert [name for name in manifest if name != "software" and f"`{name}`" not in PAGE] == []
    assert [name for name in unpacked(bundle_in_memory(MadeChain())) if name not in PAGE and "sig" not in name] == []
