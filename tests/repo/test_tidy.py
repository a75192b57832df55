"""The repository as a test: sizes, docstrings, banned calls, the rooms of a plugin, members, what is tracked.

Modelled on tigerbeetle's tidy. Owns no behaviour of the product: what ruff, mypy and import-linter see is theirs.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MEMBERS = [
    "core",
    *sorted(f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/pyproject.toml")),
    "tests/testkit",
]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir() and path.name != "__pycache__")
ROOMS = ["plugin.py", "config.py"]
GROUPS = ["precipiq", "precipiq.commands", "precipiq.databases", "precipiq.servers"]
# What a plugin does, and the room that it then has.
MORE_ROOMS = {"def routes(": "routes.py", "Migration(": "sql"}
CLOCK = "core/precipiq_core/system.py"
STANDALONE = "plugins/exports/precipiq_exports/bundle/verify.py"  # one file by its nature: it is handed to strangers

# What is banned (a name, or everything under a name that ends in a dot) and what to use in its place.
BANNED = {
    "datetime.datetime.now": "a Clock of precipiq_contracts.clock",
    "datetime.datetime.utcnow": "a Clock of precipiq_contracts.clock",
    "datetime.datetime.today": "a Clock of precipiq_contracts.clock",
    "datetime.date.today": "a Clock of precipiq_contracts.clock",
    "time.time": "Clock.now_us",
    "time.time_ns": "Clock.now_us",
    "time.monotonic": "Clock.monotonic_s",
    "time.monotonic_ns": "Clock.monotonic_s",
    "uuid.uuid1": "precipiq_contracts.clock.uuid7",
    "uuid.uuid4": "precipiq_contracts.clock.uuid7",
    "os.urandom": "Randomness of precipiq_contracts.clock",
    "random.": "Randomness of precipiq_contracts.clock",
    "secrets.": "Randomness of precipiq_contracts.clock",
}
# In pieces, so that this file does not hold what it forbids.
FORBIDDEN_TEXT = re.compile(
    "|".join(["python" + r"hosted\.", r"\bpypi\." + "org", "registry" + r"\.npm", r"deb\." + "debian"])
    + "|"
    + "|".join("/" + folder + "/" for folder in ("work", "farm", "root", "opt/pypi", "opt/wheels"))
)


@cache
def _files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be by the next ``git add``."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    return tuple(path for name in sorted(set(listed.stdout.split("\0"))) if name and (path := ROOT / name).is_file())


def _python_files(*folders: str) -> list[Path]:
    return [path for path in _files() if path.suffix == ".py" and _name(path).startswith(folders)]


def _product_files() -> list[Path]:
    return _python_files("core/", "plugins/")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _project(member: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _origins(tree: ast.Module) -> dict[str, str]:
    """What each imported name of a module stands for: ``from uuid import uuid4 as new`` gives ``new: uuid.uuid4``."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                origins[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return origins


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` for such an expression, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _banned_uses(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and replacement of each banned name that a module uses, whatever it calls it."""
    origins = _origins(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        first, dot, rest = _dotted(node).partition(".")
        used = origins.get(first, "") + dot + rest
        for banned, replacement in BANNED.items():
            if used == banned or (banned.endswith(".") and used.startswith(banned)):
                yield node.lineno, used, replacement


def _prints(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno


def _is_command_line(path: Path) -> bool:
    return path.stem == "cli" or "cli" in path.relative_to(ROOT).parts or _name(path) == STANDALONE


def test_no_file_outgrows_its_reader() -> None:
    limits = [(path, 300) for path in _product_files() if _name(path) != STANDALONE] + [
        (path, 500) for path in _python_files("tests/", "scripts/")
    ]
    assert _product_files()
    counts = [(path, len(path.read_text(encoding="utf-8").splitlines()), limit) for path, limit in limits]
    assert [f"{_name(path)}: {lines} > {limit}" for path, lines, limit in counts if lines > limit] == []


def test_every_module_says_what_it_owns() -> None:
    assert [_name(path) for path in _python_files("") if not _begins_with_words(path)] == []


def _begins_with_words(path: Path) -> bool:
    """A docstring, mostly seen without parsing the file."""
    text = path.read_text(encoding="utf-8")
    return re.match(r'"""\w', text) is not None or bool(ast.get_docstring(_tree(path)))


def test_only_the_clock_reads_time_and_randomness() -> None:
    found = [
        f"{_name(path)}:{line}: {used}; use {replacement}"
        for path in _product_files()
        if _name(path) != CLOCK
        for line, used, replacement in _banned_uses(_tree(path))
    ]
    assert found == []


def test_the_ban_sees_the_clock_module_itself() -> None:
    assert {used for _, used, _ in _banned_uses(_tree(ROOT / CLOCK))} >= {"time.time_ns", "os.urandom"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from datetime import datetime as d\nd.now()", ["datetime.datetime.now"]),
        ("import datetime\ndatetime.datetime.now()", ["datetime.datetime.now"]),
        ("from time import time\ntime()", ["time.time"]),
        ("import uuid as u\nmake = u.uuid4", ["uuid.uuid4"]),
        ("import random\nrandom.choice([])", ["random.choice"]),
        ("from secrets import token_hex\ntoken_hex()", ["secrets.token_hex"]),
        ("from precipiq_core import secrets\nsecrets.resolve()", []),
        ("def f(time):\n    time.time()", []),
    ],
)
def test_the_ban_follows_imports_and_not_spelling(source: str, expected: list[str]) -> None:
    assert [used for _, used, _ in _banned_uses(ast.parse(source))] == expected


def test_only_commands_print() -> None:
    offenders = [
        (path, line) for path in _product_files() if not _is_command_line(path) for line in _prints(_tree(path))
    ]
    assert [f"{_name(path)}:{line}" for path, line in offenders] == []


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    found = [
        f"{_name(path)}:{number}"
        for path in _files()
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1)
        if FORBIDDEN_TEXT.search(line)
    ]
    assert found == []


def test_every_script_can_be_executed_as_it_is() -> None:
    scripts = [path for path in _files() if path.parent in {ROOT / "scripts", ROOT / ".ci"} and not path.suffix]
    assert {"bootstrap", "serve", "test", "check", "audit", "run"} <= {path.name for path in scripts}
    broken = [path for path in scripts if not os.access(path, os.X_OK) or not path.read_bytes().startswith(b"#!/")]
    assert [_name(path) for path in broken] == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_reader_who_knows_one_plugin_knows_all(plugin: str) -> None:
    package = ROOT / "plugins" / plugin / f"precipiq_{plugin}"
    wiring = (package / "plugin.py").read_text(encoding="utf-8")
    domain = "server.py" if "services.provide(Server," in wiring else "service.py"
    rooms = [*ROOMS, domain, "py.typed", *(room for word, room in MORE_ROOMS.items() if word in wiring)]
    assert [room for room in rooms if not (package / room).exists()] == []
    groups = set(_project(f"plugins/{plugin}")["entry-points"])
    assert {"precipiq", "precipiq.commands"} <= groups <= {*GROUPS}


@pytest.mark.parametrize("member", MEMBERS)
def test_the_environment_holds_every_member_as_its_project_file_says(member: str) -> None:
    project = _project(member)
    installed = distribution(project["name"])
    assert installed.version == project["version"]
    optional = {
        f'{each}; extra == "{extra}"'
        for extra, requirements in project.get("optional-dependencies", {}).items()
        for each in requirements
    }
    assert set(map(str, map(Requirement, installed.requires or []))) == {
        str(Requirement(each)) for each in {*project["dependencies"], *optional}
    }
    declared = {
        (group, name, value)
        for group, points in {**project.get("entry-points", {}), "console_scripts": project.get("scripts", {})}.items()
        for name, value in points.items()
    }
    assert {(point.group, point.name, point.value) for point in installed.entry_points} == declared
    package = find_spec(canonicalize_name(project["name"]).replace("-", "_"))
    assert package is not None, "installed when it held no module: remove the environment and run scripts/bootstrap"
    assert package.origin is not None
    assert Path(package.origin).is_relative_to(ROOT / member), "this environment belongs to another copy of the project"


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_supports_the_same_pythons(member: str) -> None:
    assert _project(member)["requires-python"] == ">=3.11,<3.14"
