"""The example plugin, installed as a stranger would install it, in a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from precipiq_testkit.server import DEPLOYMENT, ServerProcess, running_server

PLUGIN = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the plugin in it, entry point included."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--disable-pip-version-check", "--target", folder, PLUGIN], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module", params=["sqlite", "jsonl"])
def acme(
    request: pytest.FixtureRequest, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that finds the plugin there, over core's storage and over the plugin's own."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    deployment = DEPLOYMENT + "\n[plugins.acme]\ntext_characters_max = 20\n"
    deployment = deployment.replace("[plugins.ledger]", f'[plugins.ledger]\ndriver = "{request.param}"')
    options = {"deployment": deployment, "overrides": {"PYTHONPATH": path}}
    with running_server(tmp_path_factory.mktemp("acme"), **options) as server:
        yield server


def test_the_plugin_serves_its_endpoints_over_the_ledger(acme: ServerProcess) -> None:
    headers = {"X-Precipiq-Key": acme.key}
    written = httpx2.post(f"{acme.url}/api/v1/acme/notes", json={"text": "remember"}, headers=headers)
    assert written.status_code == 201, written.text
    assert written.headers["x-acme"] == "hello"
    listed = httpx2.get(f"{acme.url}/api/v1/acme/notes", headers=headers).json()["data"]["items"]
    assert written.json()["data"] in listed
    entries = httpx2.get(f"{acme.url}/api/v1/ledger/entries?kind=acme_note", headers=headers).json()["data"]["items"]
    assert {"text": "remember"} in [entry["payload"] for entry in entries]
    verdict = httpx2.get(f"{acme.url}/api/v1/decisions/chain/verify", headers=headers).json()["data"]
    assert verdict["is_valid"]


def test_its_pages_need_no_key_and_its_own_answer_sends_itself(acme: ServerProcess) -> None:
    headers = {"X-Precipiq-Key": acme.key}
    assert httpx2.get(f"{acme.url}/api/v1/acme/limits").json()["data"] == {"text_characters_max": 20}
    assert httpx2.get(f"{acme.url}/acme/hello/ada").text == "hello, ada"
    assert httpx2.post(f"{acme.url}/api/v1/acme/notes", json={"text": "a line"}, headers=headers).status_code == 201
    lines = httpx2.get(f"{acme.url}/api/v1/acme/notes/lines", headers=headers)
    assert "a line" in lines.text.splitlines()
    assert lines.headers["content-type"] == "text/plain; charset=utf-8"
    assert "ratelimit" in lines.headers
    assert httpx2.get(f"{acme.url}/api/v1/acme/notes/lines").status_code == 401
    described = httpx2.get(f"{acme.url}/openapi.json").json()["paths"]
    assert described["/api/v1/acme/limits"]["get"]["security"] == []
    assert list(described["/api/v1/acme/notes/lines"]["get"]["responses"]["200"]["content"]) == ["text/plain"]


def test_its_own_errors_have_the_envelope(acme: ServerProcess) -> None:
    answer = httpx2.post(f"{acme.url}/api/v1/acme/notes", json={"text": "x" * 21}, headers={"X-Precipiq-Key": acme.key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "acme_note_too_long")


def test_its_endpoints_are_documented_and_checked(acme: ServerProcess) -> None:
    assert "/api/v1/acme/notes" in httpx2.get(f"{acme.url}/openapi.json").json()["paths"]
    report = acme.run("check").stdout
    assert "acme_note" in report
    assert '"enabled": true' in acme.run("plugins", "--json").stdout.partition('"acme"')[2]


def test_its_command_counts_the_notes(acme: ServerProcess) -> None:
    headers = {"X-Precipiq-Key": acme.key}
    assert httpx2.post(f"{acme.url}/api/v1/acme/notes", json={"text": "one more"}, headers=headers).status_code == 201
    counted = json.loads(acme.run("acme", "count", "--org", acme.org_id, "--env", "test", "--json").stdout)
    listed = httpx2.get(f"{acme.url}/api/v1/acme/notes", headers=headers).json()["data"]["items"]
    assert counted == {"count": len(listed)}


def test_a_decision_is_found_erased_and_verified(acme: ServerProcess) -> None:
    headers = {"X-Precipiq-Key": acme.key}
    decisions = f"{acme.url}/api/v1/decisions"
    decision = {
        "agent_id": "pricing-bot",
        "action_type": "discount_offer",
        "inputs": {"name": "Ada"},
        "outputs": {"discount_pct": 15},
        "confidence": 0.82,
        "metadata": {"order": 7},
    }
    made = httpx2.post(decisions, json=decision, headers=headers).json()["data"]["decision_id"]
    found = httpx2.get(f"{decisions}?metadata.order=7", headers=headers).json()["data"]["items"]
    assert [item["id"] for item in found] == [made]
    erased = httpx2.post(f"{decisions}/{made}/redact", json={"reason": "asked for"}, headers=headers)
    assert erased.status_code in (200, 201), erased.text
    assert httpx2.get(f"{decisions}?metadata.order=7", headers=headers).json()["data"]["items"] == []
    verified = acme.run("ledger", "verify", "--org", acme.org_id, "--env", "test", "--json")
    assert json.loads(verified.stdout)["is_valid"]
