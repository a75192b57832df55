"""One request for bytes of a bundle, from its record to its end; the key must be valid as long as bytes are sent."""

from __future__ import annotations

import asyncio

from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.endpoint import Peer
from precipiq_core.http.settings import HttpSettings
from precipiq_exports.download_store import RecordedDownload
from precipiq_exports.downloads import Downloads
from precipiq_exports.jobs import Job

_RECHECK_S = 1.0
"""A revocation is told within 5 seconds: see ``docs/api.md``."""


class Sending:
    """The callbacks of a ``download.Download``."""

    def __init__(
        self, downloads: Downloads, job: Job, key_id: str, peer: Peer, clock: Clock, http: HttpSettings
    ) -> None:
        self._downloads = downloads
        self._job = job
        self._key_id = key_id
        self._peer = peer
        self._clock = clock
        self._undecided_max_s = http.download_stall_timeout_s
        self._checked_s = clock.monotonic_s()
        self._download: RecordedDownload | None = None

    async def begin(self, start: int, end: int) -> None:
        """See ``Downloads.begin``."""
        self._download = await self._downloads.begin(self._job, self._key_id, start, end)

    async def end(self, start: int, sent_bytes: int) -> None:
        """See ``Downloads.end``."""
        if self._download is not None:
            await self._downloads.end(self._download, start, sent_bytes)

    async def may_go_on(self) -> bool:
        """Whether the key is still accepted. While no authenticator can decide, the bytes are held back."""
        now_s = self._clock.monotonic_s()
        if now_s - self._checked_s < _RECHECK_S:
            return True
        while True:
            try:
                principal = await self._peer.recheck()
            except Unavailable:
                if self._clock.monotonic_s() - now_s > self._undecided_max_s:
                    return False
                await asyncio.sleep(_RECHECK_S)
                continue
            self._checked_s = self._clock.monotonic_s()
            return principal is not None and principal.key_id == self._key_id and principal.may("export")
