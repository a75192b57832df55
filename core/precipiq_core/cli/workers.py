"""``precipiq serve`` with several workers: what the parent does before, around and after them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path

from precipiq_contracts.errors import DeploymentError
from precipiq_core.app import Application
from precipiq_core.cli.serving import DeferredConsole, boot_application, say_cannot_start, say_serving
from precipiq_core.deployment import Deployment
from precipiq_core.logs.setup import configure_logging
from precipiq_core.operations.shared_metrics import FOLDER_VARIABLE, forget_gauges
from precipiq_core.serving.config import tls_context
from precipiq_core.serving.server import listen, url_of
from precipiq_core.serving.settings import ServerSettings
from precipiq_core.serving.supervisor import Supervisor


def serve_with_workers(deployment: Deployment) -> int:
    """Start the workers on one socket and keep them until SIGTERM; the exit code.

    Boots once and throws it away, so that what is wrong with the deployment is said once.
    """
    control = configure_logging(deployment.logs, capture_stdio=True)
    try:
        application = boot_application(deployment, control, DeferredConsole())
        listening = _listen(deployment.server)
        with listening, tempfile.TemporaryDirectory(prefix="precipiq-metrics-", ignore_cleanup_errors=True) as folder:
            return asyncio.run(_supervise(application, listening, Path(folder)))
    except DeploymentError as error:
        return say_cannot_start(error)
    finally:
        control.restore()


def _listen(settings: ServerSettings) -> socket.socket:
    if settings.tls is not None:
        tls_context(settings.tls)
    return listen(settings)


async def _supervise(application: Application, listening: socket.socket, folder: Path) -> int:
    deployment = application.assembly.deployment
    settings = deployment.server
    url = url_of(listening, secure=settings.tls is not None)
    supervisor = Supervisor(
        _worker_command(deployment),
        {**os.environ, FOLDER_VARIABLE: str(folder)},
        listening,
        settings,
        on_ready=partial(say_serving, application, [url], workers=settings.workers),
        on_death=partial(forget_gauges, folder),
    )
    return await supervisor.run()


def _worker_command(deployment: Deployment) -> list[str]:
    # ``-m`` alone would let every file of the working folder hide a module of the same name.
    options = [] if str(Path.cwd()) in sys.path else ["-P"]
    server = deployment.server
    return [
        *(sys.executable, *options, "-m", "precipiq_core.cli", "serve"),
        *("--config", str(deployment.path), "--bind", server.bind, "--workers", str(server.workers)),
    ]
