"""How much a test does: as much as catches every break of ``scripts/mutants``; with ``--long`` its full size."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from typing import Any

LONG_VARIABLE = "PRECIPIQ_TEST_LONG"
_SHARE = 5


def rounds(usual: int, *, long: int) -> int:
    """So many repetitions; ``long``: under ``scripts/test --long``."""
    return long if _is_long() else usual


def some_of(*values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """A fifth of all combinations, in which each value meets a fifth of every other list's; with ``--long`` all."""
    numbered = product(*(list(enumerate(each)) for each in values))
    return [
        tuple(value for _, value in combination)
        for combination in numbered
        if _is_long() or sum(number for number, _ in combination) % _SHARE == 0
    ]


def _is_long() -> bool:
    return os.environ.get(LONG_VARIABLE) == "1"
