"""How a command ends: its exit code, and its message when it could not do its work.

Exit codes: 0 done; 1 a negative result (a broken chain, a failed check); 2 the command could not be executed.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from precipiq_contracts.errors import DeploymentError, PrecipiqError

EXIT_NO = 1
EXIT_CANNOT = 2


def say_problems(error: PrecipiqError) -> int:
    """Write a line on standard error for each problem; returns the exit code."""
    if isinstance(error, DeploymentError):
        problems: Sequence[str] = error.problems
    else:
        details = error.details or {}
        problems = [f"{path}: {item}" for path, items in details.items() for item in items] or [error.message]
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    return EXIT_CANNOT
