"""Records liability estimates in the chain: after a link of a decision changed, and nightly for all on record.

Estimates of all decisions are computed on request; the estimates on record are of decisions with a link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import cast

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import SYSTEM, Chain, Draft
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, Scalar, Statement
from precipiq_contracts.errors import IdempotencyConflict, PrecipiqError, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_outcomes.amounts import scale
from precipiq_outcomes.analytics import Analytics
from precipiq_outcomes.fold import group_of
from precipiq_outcomes.kinds import LIABILITY_ESTIMATE
from precipiq_outcomes.projection_store import LINKS_CURSOR
from precipiq_outcomes.set_aside import SetAside
from precipiq_outcomes.spans import DAY_US

NIGHTLY = "nightly"

_AT_ONCE_MAX = 100
_CHAIN = "org_id = :org_id AND environment = :environment"


class Estimator:
    """Estimates of all chains. Several processes may record; the chain takes each estimate once."""

    def __init__(
        self,
        database: Database,
        analytics: Analytics,
        ledger: Ledger,
        clock: Clock,
        set_aside: SetAside,
        *,
        currency: str,
        interval_s: float,
    ) -> None:
        self._database = database
        self._analytics = analytics
        self._ledger = ledger
        self._clock = clock
        self._set_aside = set_aside
        self._currency = currency
        self._interval_s = interval_s
        self._has_more = asyncio.Event()

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Record estimates while the context is entered."""
        return background(
            "outcomes.estimates",
            self._look,
            every_s=self._interval_s,
            failing="liability estimates are behind",
            wake=self._has_more,
            round_s_max=LONG_ROUND_S_MAX,
            tolerated=(PrecipiqError,),  # a long chain that the projection still takes in is no reason to stop serving
        )

    async def _look(self) -> None:
        await self.begin_night()
        if await self.record_stale():
            self._has_more.set()

    async def begin_night(self) -> None:
        """Mark every estimate on record as stale, once a UTC day and chain."""
        today = self._clock.now_us() // DAY_US
        sql = (
            "SELECT links.org_id, links.environment FROM outcome_cursors AS links LEFT JOIN outcome_cursors AS night "
            "ON night.org_id = links.org_id AND night.environment = links.environment AND night.name = :night "
            "WHERE links.name = :links AND COALESCE(night.seq, -1) < :today LIMIT :limit"
        )
        values: dict[str, Scalar] = {"night": NIGHTLY, "links": LINKS_CURSOR, "today": today, "limit": _AT_ONCE_MAX}
        for row in await self._database.fetch(Statement(sql, values)):
            await self._look_again(chain_in(row), today)

    async def _look_again(self, chain: Chain, today: int) -> None:
        note = (
            "INSERT INTO outcome_cursors (org_id, environment, name, seq) "
            "VALUES (:org_id, :environment, :night, :today) "
            "ON CONFLICT (org_id, environment, name) DO UPDATE SET seq = excluded.seq"
        )
        mark = (
            "INSERT INTO outcome_stale (org_id, environment, decision_id, since_us) "  # noqa: S608
            f"SELECT org_id, environment, decision_id, :now FROM outcome_estimates WHERE {_CHAIN} "
            "ON CONFLICT (org_id, environment, decision_id) DO NOTHING"
        )
        values = chain_values(chain)
        await self._database.transaction(
            [
                Statement(note, {**values, "night": NIGHTLY, "today": today}),
                Statement(mark, {**values, "now": self._clock.now_us()}),
            ]
        )

    async def record_stale(self) -> int:
        """Estimate some decisions anew whose links or whose agent's losses changed; gives their number."""
        sql = "SELECT org_id, environment, decision_id, since_us FROM outcome_stale ORDER BY since_us LIMIT :limit"
        rows = await self._database.fetch(Statement(sql, {"limit": _AT_ONCE_MAX}))
        for row in rows:
            chain, decision_id = chain_in(row), str(row["decision_id"])
            try:
                await self._record(chain, decision_id)
            except Unavailable:
                raise  # what is away comes back: the decision is looked at again
            except Exception as error:  # noqa: BLE001  (one decision must not end the estimates of everybody)
                self._set_aside.note("estimator", chain, error, decision_id=decision_id)
            await self._forget(chain, decision_id, cast("int", row["since_us"]))
        return len(rows)

    async def _record(self, chain: Chain, decision_id: str) -> None:
        entry = await self._ledger.get(chain, decision_id)
        if entry is None:
            return
        group = group_of(parse_statement(entry.statement).body)
        estimate, facts = await self._analytics.estimate_of(chain, group)
        exposure = f"{estimate.exposure:.2f}"
        recorded = await self._read_recorded(chain, decision_id)
        if recorded.get("exposure") == str(scale(exposure)):
            return
        body: dict[str, object] = {
            "decision_id": decision_id,
            "agent_id": group.agent_id,
            "action_type": group.action_type,
            "estimated_exposure": exposure,
            "interval_low": f"{estimate.low:.2f}",
            "interval_high": f"{estimate.high:.2f}",
            "currency": self._currency,
            "base": f"{estimate.base:.2f}",
            "confidence_factor": str(estimate.confidence_factor),
            "human_factor": str(estimate.human_factor),
            "loss_rate": str(estimate.loss_rate.normalize() + 0),
            "past_decisions": facts.past_decisions,
            "past_losses": facts.past_losses,
        }
        entries = cast("int", recorded.get("entries", 0))
        key = f"outcomes:{LIABILITY_ESTIMATE}:{decision_id}:{entries}"
        try:
            await self._ledger.append(chain, [Draft(LIABILITY_ESTIMATE, SYSTEM, body, None, key)])
        except IdempotencyConflict:
            return  # another process was faster; its entry marks the decision as stale again where needed

    async def _read_recorded(self, chain: Chain, decision_id: str) -> Mapping[str, Scalar]:
        sql = "SELECT exposure, entries FROM outcome_estimates WHERE decision_id = :decision_id"
        rows = await self._database.fetch_as(chain, Statement(sql, {"decision_id": decision_id}))
        return rows[0] if rows else {}

    async def _forget(self, chain: Chain, decision_id: str, since_us: int) -> None:
        """Forget the mark, unless a link changed again meanwhile."""
        sql = f"DELETE FROM outcome_stale WHERE {_CHAIN} AND decision_id = :decision_id AND since_us = :since"  # noqa: S608
        values: dict[str, Scalar] = {**chain_values(chain), "decision_id": decision_id, "since": since_us}
        await self._database.transaction([Statement(sql, values)])
