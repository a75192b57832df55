"""``precipiq serve``: logging, boot, then the server, with exit codes that supervisors can trust."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import structlog

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.settings import parse_settings
from precipiq_core.cli.context import deployment_of
from precipiq_core.cli.serving import DeferredConsole, boot_application, say_cannot_start, say_serving
from precipiq_core.deployment import Deployment
from precipiq_core.logs.setup import configure_logging
from precipiq_core.operations.shared_metrics import FOLDER_VARIABLE, forget_worker, share_metrics
from precipiq_core.running import running
from precipiq_core.serving.server import run
from precipiq_core.serving.settings import ServerSettings
from precipiq_core.serving.worker import Seat, Worker

log = structlog.get_logger("precipiq.serve")


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="address to listen on, instead of the deployment's")
@click.option("--workers", type=click.IntRange(1, 64), help="processes that serve, instead of the deployment's number")
@click.option("--worker", hidden=True, help="what `serve --workers` tells the processes that it starts")
@click.pass_context
def serve(ctx: click.Context, bind: str | None, workers: int | None, worker: str | None) -> None:
    """Serve the deployment until SIGTERM."""
    ctx.exit(serve_deployment(deployment_of(ctx), bind, workers, worker))


def serve_deployment(
    deployment: Deployment, bind: str | None, workers: int | None = None, seat: str | None = None
) -> int:
    """Serve until SIGTERM; the exit code: 0 after a clean stop, 2 when the start failed.

    ``bind``, ``workers``: instead of the deployment's. ``seat``: this process is a worker, see :class:`Seat`.
    """
    given = {"bind": bind, "workers": workers}
    deployment = _overridden(deployment, {key: value for key, value in given.items() if value is not None})
    if seat is not None:
        return _serve_as_worker(deployment, Worker(Seat.parse(seat)))
    if deployment.server.workers > 1:
        from precipiq_core.cli.workers import serve_with_workers

        return serve_with_workers(deployment)
    return _serve_alone(deployment)


def _serve_alone(deployment: Deployment) -> int:
    control = configure_logging(deployment.logs, capture_stdio=True)
    try:
        console = DeferredConsole()
        application = boot_application(deployment, control, console)

        def ready(addresses: Sequence[str]) -> None:
            console.open()
            say_serving(application, addresses)

        return run(
            application,
            deployment.server,
            lifespan=running(application.assembly),
            gate=application.gate,
            on_ready=ready,
        )
    except DeploymentError as error:
        return say_cannot_start(error)
    finally:
        control.restore()


def _serve_as_worker(deployment: Deployment, worker: Worker) -> int:
    control = configure_logging(deployment.logs, capture_stdio=True, worker=worker.number)
    try:
        console = DeferredConsole()
        application = boot_application(deployment, control, console, share_metrics(worker.number))

        def ready(_: Sequence[str]) -> None:
            console.open()
            log.info("worker serving", pid=os.getpid())
            worker.report_ready()

        return run(
            application,
            deployment.server,
            lifespan=running(application.assembly),
            gate=application.gate,
            on_ready=ready,
            worker=worker,
        )
    except DeploymentError as error:
        return say_cannot_start(error)
    finally:
        if worker.orphaned:
            forget_worker(Path(os.environ[FOLDER_VARIABLE]), worker.number)
        control.restore()
        worker.leave()


def _overridden(deployment: Deployment, given: dict[str, object]) -> Deployment:
    if not given:
        return deployment
    problems: list[str] = []
    table = {**deployment.server.model_dump(), **given}
    server = parse_settings(ServerSettings, table, where="server", base_dir=deployment.data_dir, problems=problems)
    if server is None:
        raise DeploymentError(problems)
    return replace(deployment, server=server)
