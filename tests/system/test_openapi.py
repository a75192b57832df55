"""The served document describes what is served: no 500, no answer that breaks its own schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_core.boot import assemble
from precipiq_core.cli.context import TerminalConsole
from precipiq_core.deployment import load_deployment
from precipiq_core.http.router import full_path
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_testkit.server import DEPLOYMENT, ServerProcess, running_server
from tests.effort import rounds

from .client import Client

EXAMPLES = rounds(2, long=25)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def schemathesis(
    server: ServerProcess, folder: Path, key: str, examples: int = EXAMPLES
) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"]
    options = {
        "--header": f"X-Precipiq-Key: {key}",
        "--checks": CHECKS,
        "--max-examples": str(examples),
        "--seed": "7",
        "--phases": "examples,coverage,fuzzing",
        "--request-timeout": "20",
        # An answer that never ends; tests/ws_stream asks for it in every way.
        "--exclude-path": "/api/v1/stream",
    }
    arguments = [text for pair in options.items() for text in pair]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


def test_no_generated_request_breaks_the_served_document(server: ServerProcess, tmp_path: Path) -> None:
    done = schemathesis(server, tmp_path, server.key)

    assert done.returncode == 0, done.stdout[-6000:]
    assert not [line for line in server.log_lines() if line.get("event") == "request failed"]
    assert httpx2.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # what is refused reaches no database
def test_a_key_that_may_only_read_breaks_the_document_as_little(
    shared_server: ServerProcess, fresh_client: Client, tmp_path: Path
) -> None:
    key = fresh_client.data("POST", "/api-keys", json={"scopes": ["read"]})["key"]
    head = fresh_client.data("GET", "/ledger/head")

    done = schemathesis(shared_server, tmp_path, key, examples=rounds(1, long=5))

    assert done.returncode == 0, done.stdout[-6000:]
    assert not [line for line in shared_server.log_lines() if line.get("event") == "request failed"]
    assert fresh_client.data("GET", "/ledger/head") == head, "a key that may only read wrote"


def test_what_is_mounted_is_documented_and_the_reverse(tmp_path: Path) -> None:
    file = tmp_path / "precipiq.toml"
    file.write_text(DEPLOYMENT)
    assembly = assemble(
        load_deployment(file, {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=TerminalConsole(),
        serving=False,
    )
    routes = [item.value for item in assembly.of("routes")]
    mounted = {(getattr(route, "method", "GET").lower(), full_path(route)) for route in routes}
    with running_server(tmp_path / "served") as server:
        document: dict[str, Any] = httpx2.get(f"{server.url}/openapi.json").json()
        described = {(method, path) for path, operations in document["paths"].items() for method in operations}
        for method, path in described:
            refused = httpx2.request("PATCH", server.url + re.sub(r"{\w+}", "x", path))
            assert method.upper() in refused.headers.get("allow", "").split(", "), (method, path)
    assert described == mounted
    assert len(described) > 15


def test_every_operation_is_documented_with_its_errors(shared_server: ServerProcess) -> None:
    document: dict[str, Any] = httpx2.get(f"{shared_server.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            if path.startswith("/api/") and operation["security"]:
                assert {"401", "403", "422", "429"} <= set(operation["responses"]), (method, path)


def test_the_documentation_page_needs_no_network(shared_server: ServerProcess) -> None:
    answer = httpx2.get(f"{shared_server.url}/docs")
    assert answer.status_code == 200
    assert "/api/v1/decisions" in answer.text
    assert "<script" not in answer.text
    assert "http://" not in answer.text.replace(shared_server.url, "")
    assert "https://" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_operations_pages_need_no_key_and_name_no_tenant(shared_server: ServerProcess) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        answer = httpx2.get(f"{shared_server.url}{path}")
        assert answer.status_code == 200
        assert shared_server.org_id not in answer.text
    assert "precipiq_http_requests_total" in httpx2.get(f"{shared_server.url}/metrics").text
