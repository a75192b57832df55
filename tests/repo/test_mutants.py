"""The list of deliberate breaks: each still fits the code and can be run; and what a run of one means.

Owns none of their verdicts: whether the suite notices them is what ``scripts/mutants`` finds out.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.mutants.breaks import ROOT, Break, StaleBreakError, check_fits, load_breaks
from tests.mutants.run import ERROR, KILLED, SURVIVED, attempt

BREAKS = load_breaks()
LEAST, LEAST_OF_A_PLUGIN, LEAST_OF_CORE = 60, 4, 25
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))


def test_every_break_occurs_once_and_names_tests_that_there_are() -> None:
    check_fits(BREAKS)


@pytest.mark.parametrize("each", BREAKS, ids=lambda each: f"{each.area}/{each.name}")
def test_a_break_is_a_program_that_does_something_else(each: Break) -> None:
    """A break that does not compile is noticed by every test, and so proves nothing of any."""
    broken = each.broken((ROOT / each.file).read_text(encoding="utf-8"))
    assert each.before != each.after
    assert each.file.startswith(("core/", "plugins/"))
    if each.file.endswith(".py"):
        compile(broken, each.file, "exec")


@pytest.mark.parametrize("each", BREAKS, ids=lambda each: f"{each.area}/{each.name}")
def test_the_test_that_a_break_names_is_in_its_file(each: Break) -> None:
    assert each.tests
    for test in each.tests:
        path, _, name = test.partition("::")
        assert "[" not in name, "parameters come and go"
        assert not name or re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8")), test


def test_no_two_breaks_have_one_name() -> None:
    assert [name for name, count in Counter(each.name for each in BREAKS).items() if count > 1] == []


def test_core_and_every_plugin_are_broken_often_enough() -> None:
    of_part = Counter("/".join(Path(each.file).parts[: 1 if each.file.startswith("core/") else 2]) for each in BREAKS)
    assert len(BREAKS) >= LEAST
    assert of_part["core"] >= LEAST_OF_CORE
    assert {
        name: of_part[f"plugins/{name}"] for name in PLUGINS if of_part[f"plugins/{name}"] < LEAST_OF_A_PLUGIN
    } == {}


BREAK = Break("area", "name", "why", "core/pyproject.toml", "before", "after", ("tests/repo/test_mutants.py",))


@pytest.mark.parametrize("text", ["", "before and before"])
def test_a_break_that_does_not_fit_any_more_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(StaleBreakError, match="area/name"):
        BREAK.broken(text)
    with pytest.raises(StaleBreakError, match="area/name"):
        check_fits([BREAK])


@pytest.mark.parametrize(
    ("code", "hang_kills", "verdict"),
    [
        (0, True, SURVIVED),
        (1, True, KILLED),
        (2, True, ERROR),
        (5, True, ERROR),
        (-9, True, ERROR),
        (None, True, KILLED),
        (None, False, ERROR),
    ],
)
def test_only_a_test_that_fails_or_hangs_has_noticed(
    code: int | None, hang_kills: bool, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Copy:
        log = tmp_path / "log"

        def broken(self, _: Break) -> nullcontext[None]:
            return nullcontext()

        def run(self, *_: object) -> int | None:
            self.log.write_text("FAILED tests/x.py::test_y - boom\n")
            return code

    assert attempt(Copy(), BREAK, BREAK.tests, 1.0, hang_kills=hang_kills) == verdict  # type: ignore[arg-type]
    line = capsys.readouterr().out
    assert line.startswith(verdict)
    assert ("tests/x.py::test_y" in line) == (code is not None and code != 0)
