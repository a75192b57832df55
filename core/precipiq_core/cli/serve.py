"""``precipiq serve``: logging, boot, then the server, with exit codes that supervisors can trust."""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog

from precipiq_contracts.errors import DeploymentError, PrecipiqError
from precipiq_contracts.server import Server, Site
from precipiq_core import __version__
from precipiq_core.app import Application
from precipiq_core.boot import Assembly
from precipiq_core.cli.context import boot, deployment_of
from precipiq_core.cli.outcome import EXIT_CANNOT, log_start_failure
from precipiq_core.deployment import Deployment
from precipiq_core.key_files import keep_private, make_folder
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging

log = structlog.get_logger("precipiq.serve")


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="address to listen on, instead of the deployment's")
@click.option("--workers", type=click.IntRange(1, 64), help="processes that serve, instead of the deployment's number")
@click.option("--worker", hidden=True, help="what a server tells the processes that it starts")
@click.pass_context
def serve(ctx: click.Context, bind: str | None, workers: int | None, worker: str | None) -> None:
    """Serve the deployment until SIGTERM."""
    given = {"bind": bind, "workers": workers}
    ctx.exit(_serve(ctx, {key: value for key, value in given.items() if value is not None}, worker))


class DeferredConsole:
    """Holds text until the server is ready, then shows it on the terminal, bypassing the log capture."""

    def __init__(self) -> None:
        self._waiting: list[str] | None = []
        self.is_terminal = sys.__stdout__ is not None and sys.__stdout__.isatty()

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


def _serve(ctx: click.Context, given: Mapping[str, Any], seat: str | None) -> int:
    """Serve until SIGTERM; the exit code: 0 after a clean stop, 2 when the start failed.

    ``given``: settings of the server, instead of the deployment's. ``seat``: see ``Site``.
    """
    control = configure_logging(LogSettings(), SystemClock())
    try:
        deployment = deployment_of(ctx)
        deployment = replace(deployment, server={**deployment.server, **given})
        number = (seat or "").partition(":")[0]
        control.restore()
        worker = int(number) if number.isdecimal() else None
        control = configure_logging(deployment.logs, SystemClock(), capture_stdio=True, worker=worker)
        console = DeferredConsole()
        assembly = boot(deployment, console, control, serving=True, seat=seat)
        application = Application(assembly, control.sink if deployment.logs.access else None)
        _keep_private(deployment)
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
    except (PrecipiqError, OSError) as error:
        log_start_failure(log, error)
        return EXIT_CANNOT
    except Exception as error:
        log.critical("cannot start", problem=f"{type(error).__name__} at boot: see the traceback", exc_info=error)
        return EXIT_CANNOT
    finally:
        control.restore()


def _keep_private(deployment: Deployment) -> None:
    """The data folder and all in it, where it is the server's alone: no home, no folder that all users write in."""
    is_shared = deployment.data_dir in (*deployment.path.parents, Path.home(), *Path.home().parents)
    if not is_shared and not (deployment.data_dir.is_dir() and deployment.data_dir.stat().st_mode & stat.S_ISVTX):
        make_folder(deployment.data_dir)
        for path in (deployment.data_dir, *deployment.data_dir.rglob("*")):
            keep_private(path)


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
