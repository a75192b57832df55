"""The capability ``Server``: one process alone, the parent of several, or one of these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from precipiq_contracts.server import Site
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.door import Door

if TYPE_CHECKING:
    from precipiq_hypercorn.worker import Worker

log = structlog.get_logger("precipiq.serve")


class HypercornServer:
    """See ``precipiq_contracts.server.Server``. ``worker``: this process, when it is one of several."""

    def __init__(self, settings: HypercornConfig, worker: Worker | None, door: Door) -> None:
        self._settings = settings
        self._worker = worker
        self._door = door

    async def ping(self) -> None:
        """Raises ``Unavailable`` while connections cannot be accepted: for ``/readyz``."""
        self._door.check()

    def run(self, site: Site) -> int:
        """See ``Server.run``. The serving modules are imported here: commands that do not serve need none of them."""
        if self._worker is not None:
            return self._run_as_worker(site, self._worker)
        if self._settings.workers > 1:
            from precipiq_hypercorn.workers import run_workers

            return run_workers(site, self._settings)
        from precipiq_hypercorn.serving import run_site

        def say_ready(addresses: Sequence[str]) -> None:
            site.open_console()
            site.say_serving(addresses)

        return run_site(site, self._settings, say_ready, door=self._door)

    def _run_as_worker(self, site: Site, worker: Worker) -> int:
        from precipiq_hypercorn.serving import run_site
        from precipiq_hypercorn.shared_metrics import forget_worker, shared_folder

        def say_ready(_: Sequence[str]) -> None:
            site.open_console()
            log.info("worker serving", pid=os.getpid())
            worker.report_ready()

        try:
            return run_site(site, self._settings, say_ready, worker, self._door)
        finally:
            if worker.orphaned:
                forget_worker(shared_folder(), worker.number)
            worker.leave()
