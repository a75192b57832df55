"""Each plugin's page says what the plugin provides, requires and stores, what can be set, and the life of one thing."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.registries import Migrations
from precipiq_core.boot import assemble
from precipiq_core.cli.context import TerminalConsole
from precipiq_core.deployment import load_deployment
from precipiq_core.discovery import installed_plugins
from precipiq_core.system import SystemClock, SystemRandomness

ROOT = Path(__file__).parents[2]
OURS = [point for point in installed_plugins() if point.value.startswith("precipiq_")]
LINES_MAX = 60
KEEPER_OF = {"ledger": "sqlite", "request_keys": "ledger", "ledger_usage": "ledger"}
"""Branch -> the plugin whose page has its tables, where that is another one."""


PAGES_ELSEWHERE = {"address_limits": "auth_keys/address_limits.md"}
"""Of plugins that lie in another's distribution."""


def page(plugin: str) -> str:
    return (ROOT / "plugins" / PAGES_ELSEWHERE.get(plugin, f"{plugin}/README.md")).read_text(encoding="utf-8")


def row(plugin: str, what: str) -> set[str]:
    """The names in that row of the page's table."""
    found = re.search(rf"^\| {what}[^|]*\| (.*) \|$", page(plugin), re.MULTILINE)
    return set(re.findall(r"`(\w+)`", found[1])) if found else set()


@pytest.mark.parametrize("point", OURS, ids=lambda point: point.name)
def test_the_page_of_a_plugin_says_what_its_class_says(point: EntryPoint) -> None:
    plugin: Any = point.load()
    for what in ("provides", "requires"):
        assert row(point.name, what) == {each.__name__ for each in getattr(plugin, what)}
    assert row(point.name, "uses, where there") == {each.__name__ for each in plugin.optional}
    assert row(point.name, "settings") == set(plugin.Config.model_fields)


@pytest.mark.parametrize("point", OURS, ids=lambda point: point.name)
def test_it_is_one_page_with_the_life_of_one_thing(point: EntryPoint) -> None:
    lines = page(point.name).splitlines()
    assert lines[0] == f"# {point.name}"
    assert any(line.startswith("## The life of a") for line in lines)
    assert len(lines) <= LINES_MAX


def test_the_pages_have_every_table() -> None:
    assembly = assemble(
        load_deployment(ROOT / "deployments" / "embedded" / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=TerminalConsole(),
        serving=False,
    )
    tables: dict[str, set[str]] = {}
    for branch, migration in assembly.services.get(Migrations).by_name.items():
        tables.setdefault(KEEPER_OF.get(branch, branch), set()).update(migration.tenant_tables)
    for keeper, names in tables.items():
        assert row(keeper, "tables") == names
