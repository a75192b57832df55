"""Compares rows that grant something with what their chains say, chain after chain, in turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.row_trust import RowTrust

log = structlog.get_logger("precipiq.ledger")

FINDINGS_NAMED_MAX = 20
"""Of one chain, in the record and in the log."""


class RowWatch:
    """``round_s``: seconds of one round; the chains that it does not come to are first in the next one.

    ``is_mine``: whether this process is the one that sweeps, and so keeps the record; the others do nothing.
    """

    def __init__(
        self,
        rows: RowTrust,
        integrity: Integrity,
        clock: Clock,
        round_s: float,
        is_mine: Callable[[], bool] = lambda: True,
    ) -> None:
        self._is_mine = is_mine
        self._rows = rows
        self._integrity = integrity
        self._clock = clock
        self._round_s = round_s
        self._audited_s: dict[Chain, float] = {}

    def run(self, background: Background, every_s: float) -> AbstractAsyncContextManager[None]:
        """Compare while the context is entered; apart from the sweep, which must not wait for a long table."""
        return background(
            "ledger.rows",
            self.look,
            every_s=every_s,
            failing="rows are not compared with their chains",
            round_s_max=LONG_ROUND_S_MAX,
        )

    async def look(self) -> None:
        """Compare once, the chains first that were not compared for the longest time.

        Raises the first error at the end: a chain that cannot be compared keeps no other from being compared.
        """
        if not self._is_mine():
            return
        failure: Exception | None = None
        until_s = self._clock.monotonic_s() + self._round_s
        book = self._integrity.book
        chains = await self._rows.chains() | book.chains.keys() | book.rows.keys()
        self._audited_s = {chain: at for chain, at in self._audited_s.items() if chain in chains}
        for chain in sorted(chains, key=lambda each: (self._audited_s.get(each, 0.0), each.org_id, each.environment)):
            try:
                self._integrity.note_rows(chain, (await self._rows.audit(chain))[:FINDINGS_NAMED_MAX])
            except Exception as error:  # noqa: BLE001  (raised below)
                failure = failure or error
            self._audited_s[chain] = self._clock.monotonic_s()
            if self._audited_s[chain] >= until_s:
                break
        if failure is not None:
            raise failure
