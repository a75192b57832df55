"""Has the database check its indexes, within the time of a sweep: an emptied one hides rows from every query."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import structlog

from precipiq_contracts.background import Background
from precipiq_contracts.clock import Clock
from precipiq_ledger.integrity import Integrity
from precipiq_schema.schema_state import IndexedDatabase

log = structlog.get_logger("precipiq.ledger")

INDEX_INCOMPLETE = "INDEX_INCOMPLETE"

_LONGEST_S = 7 * 86_400.0
_AGAIN_SHARE = 10.0
"""How long it rests while something is wrong: so many times what finding out took."""


class IndexWatch:
    """``within_s``: how often; at half of it, and first when it begins. ``core_share``: of a core, while it checks."""

    def __init__(
        self, database: IndexedDatabase, integrity: Integrity, clock: Clock, within_s: float, core_share: float
    ) -> None:
        self._database = database
        self._integrity = integrity
        self._clock = clock
        self._within_s = within_s
        self._core_share = core_share
        self._next_s = clock.monotonic_s()

    def run(self, background: Background, every_s: float) -> AbstractAsyncContextManager[None]:
        """Check while the context is entered."""
        return background(
            "ledger.indexes",
            self.look,
            every_s=every_s,
            failing="the indexes are not checked",
            round_s_max=_LONGEST_S,
        )

    async def look(self) -> None:
        """Check if it is time; soon again while something is wrong. Raises ``Unavailable``."""
        if self._clock.monotonic_s() < self._next_s:
            return
        began_s = self._clock.monotonic_s()
        problems = tuple(await self._database.check_indexes(self._core_share))
        took_s = self._clock.monotonic_s() - began_s
        rest_s = _AGAIN_SHARE * took_s if problems else self._within_s / 2
        self._next_s = self._clock.monotonic_s() + min(rest_s, self._within_s / 2)
        if problems == self._integrity.index_problems:
            return
        self._integrity.index_problems = problems
        self._integrity.changed.set()
        if problems:
            what = "an index does not hold what its table holds: queries miss rows"
            log.critical(what, code=INDEX_INCOMPLETE, problems=list(problems))
        else:
            log.warning("the indexes hold what their tables hold again")
