"""The suite as its users meet it: what it refuses, what it skips, and that the README's example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from precipiq_testkit.entry_store import EntryStoreConformance

README = Path(__file__).parents[1] / "README.md"


def run_pytest(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.system
def test_the_example_in_the_readme_runs_and_says_what_it_skips(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    (tmp_path / "test_my_driver.py").write_text(example)
    said = run_pytest(tmp_path)
    assert re.search(r"\d{2,} passed, 8 skipped", said), said
    assert "does not declare the capability 'multi_writer'" in said
    assert "does not declare the capability 'physical_erasure'" in said
    assert "the suite's fixture `reopen` is not filled" in said


@pytest.mark.system
def test_overriding_a_standard_test_fails_the_collection(tmp_path: Path) -> None:
    (tmp_path / "test_my_driver.py").write_text(
        "from precipiq_testkit.entry_store import EntryStoreConformance\n"
        "class TestMyDriver(EntryStoreConformance):\n"
        "    async def test_seqs_are_dense_from_one(self): ...\n"
    )
    said = run_pytest(tmp_path)
    assert "TestMyDriver overrides test_seqs_are_dense_from_one" in said
    assert "1 error" in said


def test_deleting_a_standard_test_is_refused() -> None:
    with pytest.raises(TypeError, match="test_seqs_are_dense_from_one"):
        type("TestMyDriver", (EntryStoreConformance,), {"test_seqs_are_dense_from_one": None})


@pytest.mark.parametrize("mark", [pytest.mark.xfail, pytest.mark.skip(reason="later"), pytest.mark.xfail(reason="")])
def test_only_an_xfail_with_a_reason_excuses_an_override(mark: pytest.MarkDecorator) -> None:
    async def test(self: object) -> None: ...

    with pytest.raises(TypeError, match="xfail"):
        type("TestMyDriver", (EntryStoreConformance,), {"test_seqs_are_dense_from_one": mark(test)})


def test_a_test_that_is_expected_to_fail_with_a_reason_is_accepted() -> None:
    @pytest.mark.xfail(reason="a known fault")
    async def test(self: object) -> None: ...

    type("TestMyDriver", (EntryStoreConformance,), {"test_seqs_are_dense_from_one": test})
