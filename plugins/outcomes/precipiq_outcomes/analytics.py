"""The sums of links: AI profit and loss, its timeline, and the liability of decisions. Knows no HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import LAST_US, Clock, format_moment, format_timestamp
from precipiq_contracts.errors import ValidationFailed
from precipiq_outcomes.amounts import cents
from precipiq_outcomes.errors import MultiCurrency
from precipiq_outcomes.fold import EVERYBODY, Group
from precipiq_outcomes.liability import Circumstances, Estimate, RiskModel, estimate
from precipiq_outcomes.off_loop import off_loop
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.spans import Interval, cover, floor, next_start
from precipiq_outcomes.sums import Groups, Sums, Totals
from precipiq_work.turns import Turns

REVENUE, COST = "revenue", "cost"

_TOP_AGENTS = 5
_POINTS_BY_DEFAULT: Mapping[Interval, int] = {"day": 30, "week": 26, "month": 12}


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open, microseconds since the epoch; None: without end. ``agent_id``: that agent alone."""

    start_us: int | None = None
    end_us: int | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """Decisions that are estimated alike: their number, and the exposure of each."""

    group: Group
    decisions: int
    estimate: Estimate

    @property
    def total(self) -> Decimal:
        return self.estimate.exposure * self.decisions


class Analytics:
    """Answers from the sums; every answer reflects all entries written before its request.

    ``turns``: of questions, which may be about very many agents; each raises ``Unavailable`` when too many wait.
    """

    def __init__(
        self,
        sums: Sums,
        projection: Projection,
        model: RiskModel,
        clock: Clock,
        *,
        default_currency: str,
        timeline_points_max: int,
        turns: Turns,
    ) -> None:
        self._sums = sums
        self._projection = projection
        self._model = model
        self._clock = clock
        self._default_currency = default_currency
        self._timeline_points_max = timeline_points_max
        self._turns = turns

    async def profit_and_loss(self, chain: Chain, asked: Range, currency: str | None) -> dict[str, Any]:
        """Linked money by the time it moved; decisions and their exposure by the time they were taken.

        Raises ``MultiCurrency`` when the range has several currencies and the caller names none.
        """
        async with self._turns.of(chain):
            return await self._profit_and_loss(chain, asked, currency)

    async def _profit_and_loss(self, chain: Chain, asked: Range, currency: str | None) -> dict[str, Any]:
        await self._projection.current(chain)
        pieces = cover(asked.start_us, asked.end_us)
        totals = await self._sums.money(chain, pieces, asked.agent_id)
        groups = await self._sums.groups(chain)
        decisions = await self._sums.decisions(chain, pieces, asked.agent_id, groups)
        exposures = await self._exposures(chain, decisions, groups)
        counted = partial(self._add_up, asked, totals, decisions, exposures, currency)
        return await off_loop(len(decisions) + len(totals.links), counted)

    def _add_up(
        self,
        asked: Range,
        totals: Totals,
        decisions: Mapping[Group, int],
        exposures: Sequence[Exposure],
        currency: str | None,
    ) -> dict[str, Any]:
        whose = asked.agent_id or EVERYBODY
        currency = currency or self._only_currency(totals, whose)
        revenue = totals.amounts.get((currency, REVENUE, whose), 0)
        cost = totals.amounts.get((currency, COST, whose), 0)
        links = sum(count for (of, _, agent), count in totals.links.items() if of == currency and agent == whose)
        return {
            "currency": currency,
            "total_revenue_attributed": cents(revenue),
            "total_cost_attributed": cents(cost),
            "total_liability_exposure": f"{sum((item.total for item in exposures), Decimal(0)):.2f}",
            "liability_currency": self._model.currency,
            "net_ai_impact": cents(revenue + cost),
            "decision_count": sum(decisions.values()),
            "link_count": links,
            "top_agents": _top_agents(totals, currency, decisions),
            "start": format_moment(asked.start_us),
            "end": format_moment(asked.end_us),
            "agent_id": asked.agent_id,
        }

    async def timeline(self, chain: Chain, asked: Range, interval: Interval, currency: str | None) -> dict[str, Any]:
        """Profit and loss by interval, empty intervals included. Intervals are UTC; weeks begin on Monday.

        Raises ``MultiCurrency`` and ``ValidationFailed`` (too many intervals).
        """
        starts = self._starts(asked, interval)
        async with self._turns.of(chain):
            return await self._timeline(chain, asked, interval, currency, starts)

    async def _timeline(
        self, chain: Chain, asked: Range, interval: Interval, currency: str | None, starts: Sequence[int]
    ) -> dict[str, Any]:
        await self._projection.current(chain)
        end = next_start(interval, starts[-1])
        money = await self._sums.money_by_day(chain, starts[0], end, asked.agent_id)
        totals = Totals()
        for _, of, link_type, _, links in money:
            totals.links[of, link_type, EVERYBODY] += links
        currency = currency or self._only_currency(totals, EVERYBODY)
        amounts: dict[tuple[int, str], int] = defaultdict(int)
        links_at: dict[int, int] = defaultdict(int)
        for day_us, of, link_type, amount, links in money:
            if of == currency:
                amounts[floor(interval, day_us), link_type] += amount
                links_at[floor(interval, day_us)] += links
        decisions_at: dict[int, int] = defaultdict(int)
        for day_us, count in await self._sums.decisions_by_day(chain, starts[0], end, asked.agent_id):
            decisions_at[floor(interval, day_us)] += count
        return {
            "currency": currency,
            "interval": interval,
            "agent_id": asked.agent_id,
            "points": [
                {
                    "start": format_timestamp(start),
                    "end": format_timestamp(min(next_start(interval, start), LAST_US)),
                    "revenue_attributed": cents(amounts[start, REVENUE]),
                    "cost_attributed": cents(amounts[start, COST]),
                    "net_impact": cents(amounts[start, REVENUE] + amounts[start, COST]),
                    "decision_count": decisions_at[start],
                    "link_count": links_at[start],
                }
                for start in starts
            ],
        }

    async def liability(self, chain: Chain, asked: Range, action_type: str | None) -> dict[str, Any]:
        """The exposure of a range's decisions, in all and by agent and type of action, the highest first."""
        async with self._turns.of(chain):
            return await self._liability(chain, asked, action_type)

    async def _liability(self, chain: Chain, asked: Range, action_type: str | None) -> dict[str, Any]:
        await self._projection.current(chain)
        groups = await self._sums.groups(chain)
        pieces = cover(asked.start_us, asked.end_us)
        decisions = await self._sums.decisions(chain, pieces, asked.agent_id, groups)
        wanted = {group: n for group, n in decisions.items() if action_type in (None, group.action_type)}
        exposures = await self._exposures(chain, wanted, groups)
        summed, pairs = await off_loop(exposures, lambda: (_sum_record(exposures), _by_pair(exposures)))
        return {
            "currency": self._model.currency,
            **summed,
            "by_agent_and_action": pairs,
            "start": format_moment(asked.start_us),
            "end": format_moment(asked.end_us),
            "agent_id": asked.agent_id,
            "action_type": action_type,
        }

    async def estimate_of(self, chain: Chain, group: Group) -> tuple[Estimate, Circumstances]:
        """The present estimate for one decision of that group."""
        past, losses = await self._sums.of_pair(chain, group.agent_id, group.action_type)
        facts = Circumstances(group.action_type, group.low_confidence, group.human_in_loop, past, losses)
        return estimate(self._model, facts), facts

    async def _exposures(self, chain: Chain, decisions: Mapping[Group, int], groups: Groups) -> list[Exposure]:
        if not decisions:
            return []
        losses = await self._sums.losses(chain)
        return await off_loop(groups, partial(_estimate_all, self._model, decisions, groups, losses))

    def _only_currency(self, totals: Totals, whose: str) -> str:
        found = sorted({of for (of, _, agent), links in totals.links.items() if agent == whose and links})
        if len(found) > 1:
            raise MultiCurrency(found)
        return found[0] if found else self._default_currency

    def _starts(self, asked: Range, interval: Interval) -> Sequence[int]:
        """The starts of all intervals that the range touches; by default the newest intervals up to now."""
        end = self._clock.now_us() + 1 if asked.end_us is None else asked.end_us
        last = floor(interval, end - 1)
        if asked.start_us is None:
            starts = [last]
            while len(starts) < _POINTS_BY_DEFAULT[interval]:
                starts.append(floor(interval, starts[-1] - 1))
            return starts[::-1]
        starts = [floor(interval, asked.start_us)]
        while starts[-1] < last:
            starts.append(next_start(interval, starts[-1]))
            if len(starts) > self._timeline_points_max:
                problem = f"makes more than {self._timeline_points_max} intervals"
                raise ValidationFailed(details={"start": [problem]})
        return starts


def _estimate_all(
    model: RiskModel, decisions: Mapping[Group, int], groups: Groups, losses: Mapping[tuple[str, str], int]
) -> list[Exposure]:
    past: dict[tuple[str, str], int] = defaultdict(int)
    for group, count in groups.values():
        past[group.agent_id, group.action_type] += count
    found = []
    for group, count in decisions.items():
        pair = (group.agent_id, group.action_type)
        facts = Circumstances(
            group.action_type, group.low_confidence, group.human_in_loop, past[pair], losses.get(pair, 0)
        )
        found.append(Exposure(group, count, estimate(model, facts)))
    return found


def _by_pair(exposures: Sequence[Exposure]) -> list[dict[str, Any]]:
    by_pair: dict[tuple[str, str], list[Exposure]] = defaultdict(list)
    for item in exposures:
        by_pair[item.group.agent_id, item.group.action_type].append(item)
    pairs = [_pair_record(agent, action, items) for (agent, action), items in by_pair.items()]
    pairs.sort(key=lambda pair: (-Decimal(pair["estimated_exposure"]), pair["agent_id"], pair["action_type"]))
    return pairs


def _top_agents(totals: Totals, currency: str, decisions: Mapping[Group, int]) -> list[dict[str, Any]]:
    impact: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    for (of, link_type, agent_id), amount in totals.amounts.items():
        if of == currency and link_type in (REVENUE, COST) and agent_id != EVERYBODY:
            impact[agent_id] += amount
    for group, count in decisions.items():
        counts[group.agent_id] += count
    order = sorted({*impact, *counts}, key=lambda agent: (-impact[agent], -counts[agent], agent))
    return [
        {"agent_id": agent, "net_impact": cents(impact[agent]), "decision_count": counts[agent]}
        for agent in order[:_TOP_AGENTS]
    ]


def _pair_record(agent_id: str, action_type: str, exposures: Sequence[Exposure]) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "action_type": action_type,
        **_sum_record(exposures),
        "loss_rate": str(exposures[0].estimate.loss_rate.normalize() + 0),
    }


def _sum_record(exposures: Sequence[Exposure]) -> dict[str, Any]:
    def total(amounts: list[Decimal]) -> str:
        return f"{sum(amounts, Decimal(0)):.2f}"

    return {
        "estimated_exposure": total([item.total for item in exposures]),
        "interval_low": total([item.estimate.low * item.decisions for item in exposures]),
        "interval_high": total([item.estimate.high * item.decisions for item in exposures]),
        "decision_count": sum(item.decisions for item in exposures),
    }
