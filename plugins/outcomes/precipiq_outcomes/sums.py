"""Reading the sums of a range of time: from whole months and days where it has them, from single rows for the rests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_outcomes.fold import EVERYBODY, Group
from precipiq_outcomes.off_loop import off_loop
from precipiq_outcomes.spans import FIRST_US, LAST_US, Piece

Groups: TypeAlias = Mapping[str, tuple[Group, int]]
"""Every group by its id, with its number of decisions."""


@dataclass
class Totals:
    """``amounts``: by currency, type of link and agent (``EVERYBODY`` for all), in ten-thousandths; ``links`` alike.

    An event counts once for everybody, and once for each agent, however many links it has.
    """

    amounts: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    links: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))


class Sums:
    """The sums of all chains. Times in microseconds; ranges are half-open."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def money(self, chain: Chain, pieces: list[Piece], agent_id: str | None) -> Totals:
        """Linked money by the time it moved; of one agent, or of everybody and of each agent."""
        totals = Totals()
        for piece in pieces:
            rows = await self._spans_money(chain, piece, agent_id) if piece.span else None
            if rows is None:
                await self._add_rest(chain, piece, agent_id, totals)
                continue
            await off_loop(rows, partial(_add_all, totals, rows))
        return totals

    async def money_by_day(
        self, chain: Chain, start_us: int, end_us: int, agent_id: str | None
    ) -> list[tuple[int, str, str, int, int]]:
        """Money of whole days: start, currency, type of link, amount in ten-thousandths, active links."""
        sql = (
            "SELECT start_us, currency, link_type, amount, links FROM outcome_money WHERE span = 'day' "
            "AND start_us >= :start AND start_us < :end AND agent_id = :agent_id"
        )
        values: dict[str, Scalar] = {"start": start_us, "end": end_us, "agent_id": agent_id or EVERYBODY}
        return [
            (
                cast("int", row["start_us"]),
                str(row["currency"]),
                str(row["link_type"]),
                int(str(row["amount"])),
                cast("int", row["links"]),
            )
            for row in await self._database.fetch_as(chain, Statement(sql, values))
        ]

    async def decisions(
        self, chain: Chain, pieces: list[Piece], agent_id: str | None, groups: Groups
    ) -> Mapping[Group, int]:
        """The number of decisions, by group. ``groups``: the result of :meth:`groups`."""
        found: list[Row] = []
        for piece in pieces:
            if piece.span:
                sql = (
                    "SELECT group_id, SUM(decisions) AS decisions FROM outcome_decision_spans WHERE span = :span "
                    "AND start_us >= :start AND start_us < :end GROUP BY group_id"
                )
            else:
                sql = (
                    "SELECT group_id, COUNT(*) AS decisions FROM outcome_decisions "
                    "WHERE decided_us >= :start AND decided_us < :end GROUP BY group_id"
                )
            values = _bounds(piece) if piece.span is None else {**_bounds(piece), "span": piece.span}
            found += await self._database.fetch_as(chain, Statement(sql, values))
        return await off_loop(found, partial(_count, found, groups, agent_id))

    async def decisions_by_day(
        self, chain: Chain, start_us: int, end_us: int, agent_id: str | None
    ) -> list[tuple[int, int]]:
        """Decisions of whole days: start, count."""
        sql = (
            "SELECT start_us, decisions FROM outcome_agent_days "
            "WHERE agent_id = :agent_id AND start_us >= :start AND start_us < :end"
        )
        values: dict[str, Scalar] = {"start": start_us, "end": end_us, "agent_id": agent_id or EVERYBODY}
        rows = await self._database.fetch_as(chain, Statement(sql, values))
        return [(cast("int", row["start_us"]), cast("int", row["decisions"])) for row in rows]

    async def groups(self, chain: Chain) -> Groups:
        """Every group by its id, with its number of decisions."""
        sql = "SELECT group_id, agent_id, action_type, low_confidence, human_in_loop, decisions FROM outcome_groups"
        rows = await self._database.fetch_as(chain, Statement(sql))
        return await off_loop(rows, partial(_groups, rows))

    async def of_pair(self, chain: Chain, agent_id: str, action_type: str) -> tuple[int, int]:
        """The number of that agent's decisions of that type, and of those with a cost or liability link."""
        sql = (
            "SELECT (SELECT COALESCE(SUM(decisions), 0) FROM outcome_groups "
            "WHERE agent_id = :agent_id AND action_type = :action_type) AS past, "
            "(SELECT COALESCE(SUM(decisions), 0) FROM outcome_losses "
            "WHERE agent_id = :agent_id AND action_type = :action_type) AS losses"
        )
        values: dict[str, Scalar] = {"agent_id": agent_id, "action_type": action_type}
        row = (await self._database.fetch_as(chain, Statement(sql, values)))[0]
        return cast("int", row["past"]), cast("int", row["losses"])

    async def losses(self, chain: Chain) -> dict[tuple[str, str], int]:
        """(agent, type of action) -> its decisions that have an active cost or liability link."""
        sql = "SELECT agent_id, action_type, decisions FROM outcome_losses"
        rows = await self._database.fetch_as(chain, Statement(sql))
        return await off_loop(rows, partial(_losses, rows))

    async def _spans_money(self, chain: Chain, piece: Piece, agent_id: str | None) -> list[Row]:
        sql = (
            "SELECT currency, link_type, agent_id, amount, links FROM outcome_money "
            "WHERE span = :span AND start_us >= :start AND start_us < :end"
        )
        values: dict[str, Scalar] = {**_bounds(piece), "span": piece.span}
        if agent_id is not None:
            sql += " AND agent_id = :agent_id"
            values["agent_id"] = agent_id
        return list(await self._database.fetch_as(chain, Statement(sql, values)))

    async def _add_rest(self, chain: Chain, piece: Piece, agent_id: str | None, totals: Totals) -> None:
        """Add a range of less than a day, link by link."""
        sql = (
            "SELECT currency, link_type, agent_id, event_id, amount, COUNT(*) AS links "  # noqa: S608
            "FROM outcome_links "
            "WHERE status = 'active' AND occurred_us >= :start AND occurred_us < :end "
            f"{'AND agent_id = :agent_id ' if agent_id is not None else ''}"
            "GROUP BY currency, link_type, agent_id, event_id, amount"
        )
        values = _bounds(piece) if agent_id is None else {**_bounds(piece), "agent_id": agent_id}
        rows = await self._database.fetch_as(chain, Statement(sql, values))
        await off_loop(rows, partial(_add_events, totals, rows))


def _groups(rows: Sequence[Row]) -> Groups:
    return {
        str(row["group_id"]): (
            Group(
                str(row["agent_id"]), str(row["action_type"]), bool(row["low_confidence"]), bool(row["human_in_loop"])
            ),
            cast("int", row["decisions"]),
        )
        for row in rows
    }


def _losses(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    return {(str(row["agent_id"]), str(row["action_type"])): cast("int", row["decisions"]) for row in rows}


def _count(rows: Sequence[Row], groups: Groups, agent_id: str | None) -> dict[Group, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[str(row["group_id"])] += cast("int", row["decisions"])
    found = {groups[group_id][0]: count for group_id, count in counts.items() if group_id in groups}
    return {group: count for group, count in found.items() if agent_id in (None, group.agent_id)}


def _add_all(totals: Totals, rows: Sequence[Row]) -> None:
    for row in rows:
        _add(totals, row, str(row["agent_id"]), int(str(row["amount"])), cast("int", row["links"]))


def _add_events(totals: Totals, rows: Sequence[Row]) -> None:
    seen: set[tuple[str, str]] = set()
    for row in rows:
        amount, links = int(str(row["amount"])), cast("int", row["links"])
        _add(totals, row, str(row["agent_id"]), amount, links)
        event = (str(row["event_id"]), str(row["link_type"]))
        _add(totals, row, EVERYBODY, 0 if event in seen else amount, links)
        seen.add(event)


def _add(totals: Totals, row: Row, agent_id: str, amount: int, links: int) -> None:
    key = (str(row["currency"]), str(row["link_type"]), agent_id)
    totals.amounts[key] += amount
    totals.links[key] += links


def _bounds(piece: Piece) -> dict[str, Scalar]:
    return {"start": max(piece.start_us, FIRST_US), "end": min(piece.end_us, LAST_US)}
