"""How much a test does: as much as catches every break of ``scripts/mutants``; with ``--long`` its full size."""

from __future__ import annotations

import os

LONG_VARIABLE = "PRECIPIQ_TEST_LONG"


def rounds(usual: int, *, long: int) -> int:
    """So many repetitions; ``long``: under ``scripts/test --long``."""
    return long if os.environ.get(LONG_VARIABLE) == "1" else usual
