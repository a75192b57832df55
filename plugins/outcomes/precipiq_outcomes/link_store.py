"""Reading links: one, those of a pair, and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Scalar, Statement
from precipiq_outcomes import link_rows
from precipiq_outcomes.links import Link

FILTERS = ("decision_id", "event_id", "agent_id", "link_type", "status", "method", "currency")
"""Columns that a page may be filtered by."""

_SEQ_END = 2**63 - 1


class LinkStore:
    """Links of all chains, up to the projection's cursors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, chain: Chain, link_id: str) -> Link | None:
        """The link with that id."""
        return next(iter(await self._select(chain, "link_id = :link_id", {"link_id": link_id})), None)

    async def of_pair(self, chain: Chain, decision_id: str, event_id: str) -> list[Link]:
        """Every link ever made between the two."""
        values: dict[str, Scalar] = {"decision_id": decision_id, "event_id": event_id}
        return await self._select(chain, "decision_id = :decision_id AND event_id = :event_id", values)

    async def of_event(self, chain: Chain, event_id: str) -> list[Link]:
        """Every link ever made to that event."""
        return await self._select(chain, "event_id = :event_id", {"event_id": event_id})

    async def by_request(self, chain: Chain, request_key: str) -> Link | None:
        """The link that a request with that key made."""
        found = await self._select(chain, "request_key = :request_key", {"request_key": request_key})
        return next(iter(found), None)

    async def page(
        self, chain: Chain, filters: Mapping[str, str], before_seq: int | None, limit: int
    ) -> Sequence[Link]:
        """Links that match, newest first."""
        assert all(name in FILTERS for name in filters)
        conditions = " AND ".join(["seq < :before", *(f"{name} = :{name}" for name in filters)])
        values: dict[str, Scalar] = {**filters, "before": _SEQ_END if before_seq is None else before_seq}
        return await self._select(chain, conditions, {**values, "limit": limit}, "DESC LIMIT :limit")

    async def counts_of_agent(self, chain: Chain, agent_id: str) -> tuple[int, int]:
        """The counts of the worker's links of that agent: confirmed, and confirmed or rejected."""
        sql = (
            "SELECT COALESCE(SUM(CASE WHEN confirmed_us IS NOT NULL THEN 1 ELSE 0 END), 0) AS good, "
            "COALESCE(SUM(CASE WHEN rejected_us IS NOT NULL THEN 1 ELSE 0 END), 0) AS bad "
            "FROM outcome_links "
            "WHERE agent_id = :agent_id AND (confirmed_us IS NOT NULL OR rejected_us IS NOT NULL)"
        )
        row = (await self._database.fetch_as(chain, Statement(sql, {"agent_id": agent_id})))[0]
        good, bad = cast("int", row["good"]), cast("int", row["bad"])
        return good, good + bad

    async def _select(self, chain: Chain, condition: str, values: Mapping[str, Scalar], rest: str = "") -> list[Link]:
        sql = f"SELECT {link_rows.NAMES} FROM outcome_links WHERE {condition} ORDER BY seq {rest}"  # noqa: S608
        return [link_rows.link_in(row) for row in await self._database.fetch_as(chain, Statement(sql, values))]
