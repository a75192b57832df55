"""What every way to serve begins with: boot, the console that waits, and the lines that operators look for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry

from precipiq_contracts.clock import SystemClock, SystemRandomness
from precipiq_contracts.deployment import Console
from precipiq_contracts.errors import DeploymentError
from precipiq_core import __version__
from precipiq_core.app import Application
from precipiq_core.boot import assemble
from precipiq_core.deployment import Deployment
from precipiq_core.logs.setup import LoggingControl

log = structlog.get_logger("precipiq.serve")

EXIT_START_FAILED = 2


class DeferredConsole:
    """Keeps what is said until the server is ready, then shows it on the terminal, past the log capture."""

    def __init__(self) -> None:
        self._waiting: list[str] | None = []

    def say(self, text: str) -> None:
        if self._waiting is None:
            _show(text)
        else:
            self._waiting.append(text)

    def open(self) -> None:
        """Show what was said so far; from now on, show at once."""
        waiting, self._waiting = self._waiting or [], None
        for text in waiting:
            _show(text)


def _show(text: str) -> None:
    stream = sys.__stdout__
    if stream is not None:
        stream.write(text + "\n")
        stream.flush()


def boot_application(
    deployment: Deployment, control: LoggingControl, console: Console, registry: CollectorRegistry | None = None
) -> Application:
    """The deployment, ready to be served. Raises ``DeploymentError``."""
    assembly = assemble(
        deployment,
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=console,
        serving=True,
        registry=registry,
    )
    control.add(names=[item.value for item in assembly.secret_names])
    return Application(assembly, control.sink if deployment.logs.access else None)


def say_serving(application: Application, addresses: Sequence[str], **more: object) -> None:
    """The one line that operators wait for."""
    deployment = application.assembly.deployment
    log.info(
        "serving",
        deployment=deployment.name,
        version=__version__,
        addresses=list(addresses),
        data_dir=str(deployment.data_dir),
        plugins=list(application.assembly.plugins),
        **more,
    )


def say_cannot_start(error: DeploymentError) -> int:
    """A line for each problem; the exit code."""
    for problem in error.problems:
        log.critical("cannot start", problem=problem)
    return EXIT_START_FAILED
