"""``precipiq serve``: logging, boot, then the server, with exit codes that supervisors can trust."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import structlog

from precipiq_core import __version__
from precipiq_core.app import Application, running
from precipiq_core.boot import assemble
from precipiq_core.clock import SystemClock, SystemRandomness
from precipiq_core.deployment import Deployment
from precipiq_core.errors import DeploymentError
from precipiq_core.logs.setup import configure_logging
from precipiq_core.serving.server import run
from precipiq_core.serving.settings import ServerSettings
from precipiq_core.settings import parse_settings

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


def serve_deployment(deployment: Deployment, bind: str | None) -> int:
    """Serve until SIGTERM; the exit code: 0 after a clean stop, 2 when the start failed."""
    if bind is not None:
        deployment = _bound(deployment, bind)
    control = configure_logging(deployment.logs, capture_stdio=True)
    console = DeferredConsole()
    try:
        assembly = assemble(
            deployment, clock=SystemClock(), randomness=SystemRandomness(), console=console, serving=True
        )
        control.add(names=[item.value for item in assembly.secret_names])
        application = Application(assembly, control.sink if deployment.logs.access else None)
    except DeploymentError as error:
        for problem in error.problems:
            log.critical("cannot start", problem=problem)
        control.restore()
        return EXIT_START_FAILED

    def ready(addresses: Sequence[str]) -> None:
        log.info(
            "serving",
            deployment=deployment.name,
            version=__version__,
            addresses=list(addresses),
            data_dir=str(deployment.data_dir),
            plugins=list(assembly.plugins),
        )
        console.open()

    try:
        return run(application, deployment.server, lifespan=running(assembly), gate=application.gate, on_ready=ready)
    finally:
        control.restore()


def _bound(deployment: Deployment, bind: str) -> Deployment:
    problems: list[str] = []
    table = {**deployment.server.model_dump(), "bind": bind}
    server = parse_settings(ServerSettings, table, where="server", base_dir=deployment.data_dir, problems=problems)
    if server is None:
        raise DeploymentError(problems)
    return replace(deployment, server=server)
