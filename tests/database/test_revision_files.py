"""Newest revisions read from text: Alembic's answer, or none where the text does not say it plainly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from precipiq_contracts.database import Migration
from precipiq_schema.alembic_scripts import heads
from precipiq_schema.branches import missing_steps
from precipiq_schema.revision_files import stated_heads

SHIPPED = sorted(Path(__file__).parents[2].glob("plugins/*/*/sql/migrations"))

PLAIN = {
    "0001.py": 'revision = "a1"\ndown_revision = None\nbranch_labels = ("a",)\n',
    "0002.py": '"""Second."""\nrevision: str = "a2"\ndown_revision: str | None = "a1"\nphase = "post"\n',
}
NOT_PLAIN = {
    "a name that is computed": 'NUMBER = 3\nrevision = f"a{NUMBER}"\ndown_revision = "a2"\n',
    "a name that is assigned twice": 'revision = "a2"\nrevision = "a3"\ndown_revision = "a2"\n',
    "a name that is changed in a block": 'revision = "a2"\nif True:\n    revision = "a3"\ndown_revision = "a2"\n',
    "a name among others": 'revision, down_revision = "a3", "a2"\n',
    "a name that is imported as well": 'revision = "x"\nfrom os import sep as revision\ndown_revision = "a2"\n',
    "names that may be imported": 'revision = "a3"\ndown_revision = "a2"\nfrom os.path import *\n',
    "a revision that another branch must precede": 'revision = "a3"\ndown_revision = "a2"\ndepends_on = "b1"\n',
    "a revision of that name twice": 'revision = "a1"\ndown_revision = None\n',
    "a revision that follows none of these": 'revision = "a3"\ndown_revision = "b7"\n',
    "no revision": "x = 1\n",
    "no Python": "revision = (\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PLAIN.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("location", SHIPPED, ids=lambda path: path.parents[1].name)
def test_of_every_shipped_branch_the_text_says_what_alembic_says(location: Path) -> None:
    assert stated_heads(location) == heads(Migration("any", location, {}))


def test_files_that_alembic_passes_over_are_passed_over(folder: Path) -> None:
    (folder / "__init__.py").write_text("")
    (folder / ".#0003.py").write_text('revision = "a3"\ndown_revision = "a2"\n')
    (folder / "notes.txt").write_text("")
    assert stated_heads(folder) == {"a2"} == heads(Migration("a", folder, {}))


def test_branches_that_part_and_meet_have_the_heads_that_alembic_finds(folder: Path) -> None:
    (folder / "0003.py").write_text('revision = "a3"\ndown_revision = "a1"\n')
    assert stated_heads(folder) == {"a2", "a3"} == heads(Migration("a", folder, {}))
    (folder / "0004.py").write_text('revision = "a4"\ndown_revision = ("a2", "a3")\n')
    assert stated_heads(folder) == {"a4"} == heads(Migration("a", folder, {}))


@pytest.mark.parametrize("text", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_to_alembic(folder: Path, text: str) -> None:
    (folder / "0003.py").write_text(text)
    assert stated_heads(folder) is None


def test_a_folder_that_is_not_there_states_nothing(tmp_path: Path) -> None:
    assert not stated_heads(tmp_path / "nowhere")


def test_a_branch_that_is_current_lacks_nothing_and_one_that_is_not_lacks_the_rest(folder: Path) -> None:
    branch = Migration("a", folder, {})
    assert missing_steps(branch, ["a2"]) == []
    assert [(step.revision, step.is_post) for step in missing_steps(branch, ["a1"])] == [("a2", True)]
    assert [step.revision for step in missing_steps(branch, [])] == ["a1", "a2"]


def test_finding_a_schema_current_imports_no_alembic(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from precipiq_contracts.database import Migration
from precipiq_schema.branches import missing_steps
assert missing_steps(Migration("a", Path({str(folder)!r}), {{}}), ["a2"]) == []
print(sorted({{"alembic", "sqlalchemy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
