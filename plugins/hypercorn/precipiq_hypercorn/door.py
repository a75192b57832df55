"""What this process tells of the clients that it keeps out: a metric, the log, and its readiness."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Counter

from precipiq_contracts.errors import Unavailable
from precipiq_peers.open_files import has_free_file

log = structlog.get_logger("precipiq.serving")

LOG_INTERVAL_S = 60.0

OPEN_FILES = "open_files"


class Door:
    """One for each process. A limit that bites is logged at once, then once a minute with the count since."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "precipiq_connections_refused_total",
            "Connections and HTTP/2 requests that a limit of the server refused or ended, by limit",
            ["limit"],
            registry=registry,
        )
        self._told_s: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._is_out_of_files = False

    def refuse(self, limit: str, client: str | None) -> None:
        """Count a client that this limit kept out or ended; ``limit`` is one of a few words."""
        self._refused.labels(limit).inc()
        count = self._untold[limit] = self._untold.get(limit, 0) + 1
        now_s = asyncio.get_running_loop().time()
        if limit not in self._told_s or now_s - self._told_s[limit] >= LOG_INTERVAL_S:
            self._told_s[limit], self._untold[limit] = now_s, 0
            log.warning("a limit keeps clients out", limit=limit, client=client, count=count)

    def note_files(self, reason: str | None) -> None:
        """Note why no connection can be accepted; None: it can again."""
        if reason is not None:
            self.refuse(OPEN_FILES, None)
            if not self._is_out_of_files:
                log.error("no connection can be accepted: no file is left", reason=reason)
        elif self._is_out_of_files:
            log.info("connections are accepted again")
        self._is_out_of_files = reason is not None

    def check(self) -> None:
        """Raises ``Unavailable`` while connections cannot be accepted, or no file can be opened."""
        if self._is_out_of_files or not has_free_file():
            raise Unavailable("the process has no file left: its limit of open files is too low, or something leaks")
