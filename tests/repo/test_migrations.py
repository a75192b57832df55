"""A frozen past: a revision that has landed is never edited, nor what it takes its statements from.

To add one: a new file, and its line by `python tests/repo/test_migrations.py >> tests/repo/migrations.sha256`, which
prints the lines that are missing. A line that is there is never changed.
"""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "migrations.sha256"


def revisions() -> list[Path]:
    """The files of all revisions that we ship."""
    return sorted(ROOT.glob("plugins/*/precipiq_*/**/migrations/*.py"))


def schema_modules(revision: Path) -> list[Path]:
    """The modules of entries' tables that a revision takes its statements from."""
    found = []
    for node in ast.walk(ast.parse(revision.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".entries"):
            package = ROOT / revision.relative_to(ROOT).parts[0] / revision.relative_to(ROOT).parts[1]
            found += [package.joinpath(*(node.module or "").split("."), f"{alias.name}.py") for alias in node.names]
    return found


def frozen() -> dict[str, str]:
    """Path -> digest of every file that must stay as it is."""
    files = {path for revision in revisions() for path in (revision, *schema_modules(revision))}
    return {path.relative_to(ROOT).as_posix(): sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def recorded() -> dict[str, str]:
    lines = [line.split("  ") for line in RECORD.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len({path for _, path in lines}), "a file is recorded twice"
    return {path: digest for digest, path in lines}


def test_what_has_landed_is_as_it_was() -> None:
    now, then = frozen(), recorded()

    assert [path for path, digest in then.items() if now.get(path) != digest] == [], "a landed revision was edited"
    assert sorted(now.keys() - then.keys()) == [], "record the new revision: see this file's first lines"


def test_the_tables_of_entries_are_among_them() -> None:
    assert {path for path in recorded() if path.endswith("/entries/schema.py")} == {
        "plugins/postgres/precipiq_postgres/entries/schema.py",
        "plugins/sqlite/precipiq_sqlite/entries/schema.py",
    }


if __name__ == "__main__":
    known = recorded()
    print("".join(f"{digest}  {path}\n" for path, digest in frozen().items() if path not in known), end="")
