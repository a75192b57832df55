"""``precipiq serve``: logging, boot, then the server, with exit codes that supervisors can trust."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import structlog

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.server import Server, Site
from precipiq_core import __version__
from precipiq_core.app import Application
from precipiq_core.boot import Assembly, assemble
from precipiq_core.cli.context import deployment_of
from precipiq_core.deployment import Deployment
from precipiq_core.running import log_problems, run_lifespans
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_logs.setup import LoggingControl, configure_logging

log = structlog.get_logger("precipiq.serve")

EXIT_START_FAILED = 2


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="address to listen on, instead of the deployment's")
@click.option("--workers", type=click.IntRange(1, 64), help="processes that serve, instead of the deployment's number")
@click.option("--worker", hidden=True, help="what a server tells the processes that it starts")
@click.pass_context
def serve(ctx: click.Context, bind: str | None, workers: int | None, worker: str | None) -> None:
    """Serve the deployment until SIGTERM."""
    ctx.exit(serve_deployment(deployment_of(ctx), bind, workers, worker))


class DeferredConsole:
    """Holds text until the server is ready, then shows it on the terminal, bypassing the log capture."""

    def __init__(self) -> None:
        self._waiting: list[str] | None = []

    def say(self, text: str) -> None:
        if self._waiting is None:
            _show(text)
        else:
            self._waiting.append(text)

    def open(self) -> None:
        """Show the held text; from now on, show text at once."""
        waiting, self._waiting = self._waiting or [], None
        for text in waiting:
            _show(text)


def _show(text: str) -> None:
    stream = sys.__stdout__
    if stream is not None:
        stream.write(text + "\n")
        stream.flush()


def serve_deployment(
    deployment: Deployment, bind: str | None, workers: int | None = None, seat: str | None = None
) -> int:
    """Serve until SIGTERM; the exit code: 0 after a clean stop, 2 when the start failed.

    ``bind``, ``workers``: instead of the deployment's. ``seat``: of this process among several, see ``Site``.
    """
    given = {"bind": bind, "workers": workers}
    server = {**deployment.server, **{key: value for key, value in given.items() if value is not None}}
    deployment = replace(deployment, server=server)
    number = (seat or "").partition(":")[0]
    worker = int(number) if number.isdecimal() else None
    control = configure_logging(deployment.logs, SystemClock(), capture_stdio=True, worker=worker)
    try:
        console = DeferredConsole()
        application = _boot(deployment, control, console, seat)
        assembly = application.assembly
        if assembly.services.find(Server) is None:
            raise DeploymentError(["server: no installed plugin serves"])
        site = Site(
            app=application,
            lifespan=run_lifespans(assembly),
            open_console=console.open,
            say_serving=partial(_say_serving, assembly),
            command=_command(assembly),
        )
        return assembly.services.get(Server).run(site)
    except DeploymentError as error:
        log_problems(error)
        return EXIT_START_FAILED
    except Exception as error:
        log.critical("cannot start", problem=f"{type(error).__name__} at boot: see the traceback", exc_info=error)
        return EXIT_START_FAILED
    finally:
        control.restore()


def _boot(deployment: Deployment, control: LoggingControl, console: DeferredConsole, seat: str | None) -> Application:
    assembly = assemble(
        deployment,
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=console,
        serving=True,
        seat=seat,
    )
    control.add(names=[item.value for item in assembly.of("secret_names")])
    return Application(assembly, control.sink if deployment.logs.access else None)


def _say_serving(assembly: Assembly, addresses: Sequence[str], **more: object) -> None:
    """The one line that operators wait for."""
    deployment = assembly.deployment
    log.info(
        "serving",
        deployment=deployment.name,
        version=__version__,
        addresses=list(addresses),
        data_dir=str(deployment.data_dir),
        plugins=list(assembly.plugins),
        **more,
    )


def _command(assembly: Assembly) -> list[str]:
    # ``-m`` alone would let every file of the working folder hide a module of the same name.
    options = [] if str(Path.cwd()) in sys.path else ["-P"]
    server = assembly.server
    return [
        *(sys.executable, *options, "-m", "precipiq_core.cli", "serve"),
        *("--config", str(assembly.deployment.path), "--bind", server.bind, "--workers", str(server.workers)),
    ]
