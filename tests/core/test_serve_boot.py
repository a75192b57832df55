"""``precipiq serve``: whatever the boot raises is a scrubbed line of the log, and exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precipiq_core.cli import serve
from precipiq_core.deployment import parse_deployment

KEY = "pq_live_" + "k7" * 16


@pytest.mark.parametrize("fault", [KeyError(KEY), RuntimeError(f"cannot use {KEY}"), RecursionError()])
def test_a_fault_at_boot_is_one_line_without_a_key(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise fault

    deployment = parse_deployment({"deployment": {"name": "t"}}, tmp_path / "precipiq.toml", {})
    monkeypatch.setattr(serve, "boot", fail)
    monkeypatch.setattr(serve, "deployment_of", lambda ctx: deployment)
    assert serve._serve(None, {}, None) == 2  # type: ignore[arg-type]
    [line] = capfd.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"]) == ("critical", "cannot start")
    assert type(fault).__name__ in told["problem"]
    assert KEY not in line
