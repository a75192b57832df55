"""The rooms of the house: how many lines each may hold, and that no module imports itself by way of others.

Splitting a file does not help a room that is full: something leaves it, or becomes simpler.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {path.name: path for path in sorted([*ROOT.glob("core/precipiq_*"), *ROOT.glob("plugins/*/precipiq_*")])}
BUDGETS = {
    "precipiq_contracts": 1_500,
    "precipiq_macs": 350,
    "precipiq_chain": 1_500,
    "precipiq_schema": 275,
    "precipiq_logs": 800,
    "precipiq_work": 800,
    "precipiq_core": 5_000,
    "precipiq_hypercorn": 2_300,
    "precipiq_peers": 800,
    "precipiq_http1": 700,
}


def _modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, without what Alembic loads by its path."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
        if not {"migrations", "alembic"} & set(path.parts)
    }


def imports(name: str, source: str, known: set[str], *, is_package: bool = False) -> set[str]:
    """The known modules that this one imports, anywhere in it, for types alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        found.update(_imported(node, name if is_package else name.rpartition(".")[0]))
    return {module for module in found if module in known and module != name}


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", BUDGETS)
def test_a_room_keeps_to_its_budget(room: str) -> None:
    files = list(PACKAGES[room].rglob("*.py"))
    assert files
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= BUDGETS[room]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    modules = _modules(PACKAGES[package])
    assert modules
    graph = {
        name: imports(name, path.read_text(encoding="utf-8"), set(modules), is_package=path.stem == "__init__")
        for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("guest", ["example_plugin/acme_plugin", "example_database/folder_database"])
def test_a_third_party_needs_nothing_of_ours_but_core(guest: str) -> None:
    files = list((ROOT / "tests" / guest).rglob("*.py"))
    assert files
    named = {
        name.partition(".")[0]
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imported(node, "")
    }
    assert {name for name in named if name.startswith("precipiq_")} <= {
        "precipiq_contracts",
        "precipiq_macs",
        "precipiq_chain",
        "precipiq_schema",
        "precipiq_logs",
        "precipiq_work",
        "precipiq_core",
    }


def test_a_circle_is_seen_wherever_the_import_stands() -> None:
    known = {"p", "p.a", "p.b", "p.c"}
    graph = {
        "p.a": imports("p.a", "def f():\n    from p import b", known),
        "p.b": imports("p.b", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.c", known),
        "p.c": imports("p.c", "from .a import x", known),
    }
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
