"""The page of the interface lists every error code that the code has, with its status."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from precipiq_contracts.errors import PrecipiqError
from precipiq_core.http.envelope import STATUS_OF, status_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
ROW = re.compile(r"^\| `([a-z_]+)` \| (\d{3}) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def modules_with_errors() -> set[str]:
    """Every module of ours that defines a class with a ``code`` in it."""
    found = set()
    for path in (*ROOT.glob("core/precipiq_*/**/*.py"), *ROOT.glob("plugins/*/precipiq_*/**/*.py")):
        classes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
        names = {target.id for each in classes for node in each.body for target in _targets(node)}
        if {"code", "default_message"} <= names:
            parts = path.relative_to(ROOT).with_suffix("").parts
            start = next(index for index, part in enumerate(parts) if part.startswith("precipiq_"))
            found.add(".".join(parts[start:]))
    return found


def _targets(node: ast.stmt) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target for target in targets if isinstance(target, ast.Name)]


def codes() -> dict[str, int]:
    """Code -> status of every error of ours, whichever module defines it."""
    modules = modules_with_errors()
    assert len(modules) >= 7
    for module in modules:
        importlib.import_module(module)
    found, waiting = dict(STATUS_OF), [PrecipiqError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if error.__module__.startswith("precipiq_") and "testkit" not in error.__module__:
            found[error.code] = status_of(error)
    return found


def test_the_page_has_every_code_once_with_its_status_meaning_and_cure() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [code for code, *_ in rows] == sorted({code for code, *_ in rows}), "sorted, and each once"
    assert {code: int(status) for code, status, *_ in rows} == codes()
    assert all(len(text) > 5 for _, _, means, cure in rows for text in (means, cure))


def test_the_readme_leads_to_it() -> None:
    assert "(docs/api.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
