"""How a command ends: its exit code, and its message when it could not do its work.

Exit codes: 0 done; 1 a negative result (a broken chain, a failed check); 2 the command could not be executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from precipiq_contracts.errors import DeploymentError, PrecipiqError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

EXIT_NO = 1
EXIT_CANNOT = 2


def say_problems(error: Exception) -> int:
    """A line on standard error for each; the exit code. Nothing is said of a reader that went away."""
    for problem in () if isinstance(error, BrokenPipeError) else problems_of(error):
        with suppress(OSError):
            click.echo(f"error: {problem}", err=True)
    return EXIT_CANNOT


def log_start_failure(log: FilteringBoundLogger, error: Exception) -> None:
    """A line of that log for each problem that keeps a server from starting."""
    for problem in problems_of(error):
        log.critical("cannot start", problem=problem)


def problems_of(error: Exception) -> Sequence[str]:
    """What an error says, as sentences."""
    if isinstance(error, DeploymentError):
        return error.problems
    if isinstance(error, PrecipiqError):
        return [f"{path}: {item}" for path, items in (error.details or {}).items() for item in items] or [error.message]
    if isinstance(error, click.ClickException):
        return [error.format_message()]
    if isinstance(error, OSError):
        return [": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)]
    return [str(error)]
