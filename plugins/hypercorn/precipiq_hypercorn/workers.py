"""The parent of several workers: binds the socket, makes the folder of metrics, runs the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from functools import partial
from pathlib import Path

from precipiq_contracts.server import Site
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.hypercorn_config import tls_context
from precipiq_hypercorn.serving import listen, url_of
from precipiq_hypercorn.shared_metrics import FOLDER_VARIABLE, forget_gauges
from precipiq_hypercorn.supervisor import Supervisor


def run_workers(site: Site, settings: HypercornConfig) -> int:
    """Start the workers on one socket and keep them until SIGTERM; returns the exit code.

    The site itself is not served: it has booted, so that faults of the deployment are reported once. Raises
    ``DeploymentError`` when the address or the certificate cannot be used.
    """
    if settings.tls is not None:
        tls_context(settings.tls)
    listening = listen(settings)
    with listening, tempfile.TemporaryDirectory(prefix="precipiq-metrics-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_supervise(site, settings, listening, Path(folder)))


async def _supervise(site: Site, settings: HypercornConfig, listening: socket.socket, folder: Path) -> int:
    url = url_of(listening, secure=settings.is_secure)
    supervisor = Supervisor(
        site.command,
        {**os.environ, FOLDER_VARIABLE: str(folder)},
        listening,
        settings,
        on_ready=partial(site.say_serving, [url], workers=settings.workers),
        on_death=partial(forget_gauges, folder),
    )
    return await supervisor.run()
