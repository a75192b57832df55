"""``precipiq plugins``: what is installed and on, and each call of a hook in order with its result."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from precipiq_core.cli.main import cli

EMBEDDED = Path(__file__).parents[2] / "deployments" / "embedded" / "precipiq.toml"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["--config", str(EMBEDDED), "plugins", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_those_that_are_on_without_a_name_are_shown_as_enabled() -> None:
    enabled = {row["name"]: row["enabled"] for row in json.loads(run("--json"))}

    assert {"ledger", "hypercorn", "sqlite", "operations"} <= {name for name, is_on in enabled.items() if is_on}
    assert {"postgres", "vault_aws"} <= {name for name, is_on in enabled.items() if not is_on}


def test_the_trace_has_each_call_in_order_with_its_result() -> None:
    calls = json.loads(run("--trace", "--json"))
    named = {(call["plugin"], call["hook"]): call["result"] for call in calls}
    order = [call["hook"] for call in calls]

    assert named["ledger", "provide"][0] == "Ledger"
    assert named["sqlite", "entry_store_drivers"] == ["sqlite"]
    assert "decision" in named["ledger", "entry_kinds"]
    assert "GET /healthz" in named["operations", "routes"]
    assert "WS /ws/v1/stream" in named["ws_stream", "routes"]
    assert named["auth_keys", "secret_names"] == ["x-precipiq-key", "api_key", "secret_hash"]
    assert order[0] == "provide"
    assert order[-1] == "lifespan"
    assert order.index("entry_kinds") < order.index("migrations") < order.index("routes")


def test_the_trace_reads_line_by_line() -> None:
    lines = run("--trace").splitlines()

    assert lines[0].split() == ["1", "hypercorn.provide", "CollectorRegistry,", "Server"]
    assert any(line.split()[1:] == ["sqlite.entry_store_drivers", "sqlite"] for line in lines)
