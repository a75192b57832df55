"""What a lock file pins, read from the members' project files. Prints requirement lines; asks no index.

usage: python scripts/lock_inputs.py runtime | dev | EXTRA
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLER = ["pip", "editables"]
"""What installs the rest: pip itself, and what hatchling asks for when a member is installed editable."""
OPTIONAL_MEMBERS = {"postgres": "plugins/postgres"}
"""Extra -> the member that exists for it alone: what it needs is the extra's, and no part of the runtime."""


def inputs(name: str, root: Path = ROOT) -> list[str]:
    """The requirements of one lock: ``runtime``, ``dev`` (everything, without requirements-dev.in), or an extra."""
    paths = sorted([root / "core/pyproject.toml", *root.glob("plugins/*/pyproject.toml")])
    projects = {path.parent.relative_to(root).as_posix(): _read(path) for path in paths}
    runtime = [project for member, project in projects.items() if member not in OPTIONAL_MEMBERS.values()]
    testkit = _read(root / "tests/testkit/pyproject.toml")
    own = {project["project"]["name"] for project in [*projects.values(), testkit]}
    extras = {extra: set(projects[member]["project"]["dependencies"]) for extra, member in OPTIONAL_MEMBERS.items()}
    for project in runtime:
        for extra, requirements in project["project"].get("optional-dependencies", {}).items():
            extras.setdefault(extra, set()).update(requirements)
    if name in extras:
        return sorted(each for each in extras[name] if _name(each) not in own)
    wanted = {*INSTALLER}
    for project in runtime if name == "runtime" else [*runtime, testkit]:
        wanted |= {*project["project"]["dependencies"], *project["build-system"]["requires"]}
    if name == "dev":
        wanted = wanted.union(*extras.values())
    elif name != "runtime":
        raise SystemExit(f"error: there is no lock {name!r}: runtime, dev, {', '.join(sorted(extras))}")
    return sorted(each for each in wanted if _name(each) not in own)


def _read(path: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    return requirement.partition("[")[0].strip()


if __name__ == "__main__":
    print("\n".join(inputs(*sys.argv[1:])))
