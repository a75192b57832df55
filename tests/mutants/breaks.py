"""The list of deliberate breaks: its format, and how one goes into the text of a file. Runs nothing."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AREAS = Path(__file__).parent


class StaleBreakError(Exception):
    """A break that does not fit the code any more; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Break:
    """One way to break the product. ``before`` stands exactly once in ``file``; ``tests`` are what should notice."""

    area: str
    name: str
    why: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def broken(self, text: str) -> str:
        """The text of the file with the break in it. Raises :class:`StaleBreakError`."""
        found = text.count(self.before)
        if found != 1:
            raise StaleBreakError(
                f"{self.area}/{self.name}: `before` occurs {found} times in {self.file}, and must once: mend the break"
            )
        return text.replace(self.before, self.after)


def load_breaks(folder: Path = AREAS) -> list[Break]:
    """All breaks, by area in the order of their files."""
    return [
        Break(area=path.stem, name=name, tests=tuple(fields.pop("tests")), **fields)
        for path in sorted(folder.glob("*.toml"))
        for name, fields in tomllib.loads(path.read_text(encoding="utf-8")).items()
    ]


def check_fits(breaks: list[Break], root: Path = ROOT) -> None:
    """Raises :class:`StaleBreakError`, naming every break that does not fit the tree."""
    problems = []
    for each in breaks:
        path = root / each.file
        try:
            each.broken(path.read_text(encoding="utf-8") if path.is_file() else "")
        except StaleBreakError as stale:
            problems.append(str(stale))
        problems += [
            f"{each.area}/{each.name}: there is no {test}"
            for test in each.tests
            if not (root / test.partition("::")[0]).is_file()
        ]
    if problems:
        raise StaleBreakError("\n".join(problems))
