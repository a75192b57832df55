"""Profit and loss equals what a stranger computes from the exported bundle, to the cent; so do rebuilt sums."""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from precipiq_testkit.server import ServerProcess
from tests.effort import rounds
from tests.exports import evidence
from tests.system.client import Client, decision
from tests.system.organisations import organisations

CURRENCIES = ("USD", "EUR", "JPY")
AGENTS = 4
STATUS_AFTER = {"link_confirmed": "active", "link_rejected": "rejected", "link_deleted": "deleted"}
BASES = {"email_send": 500, "pricing_change": 10_000, "claim_denial": 50_000, "discount_offer": 10_000}


@pytest.fixture
def account(shared_server: ServerProcess) -> tuple[str, Client]:
    org_id, key = organisations(shared_server, 1)[0]
    return org_id, Client(shared_server, key)


def test_figures_equal_an_independent_recomputation(account: tuple[str, Client], shared_server: ServerProcess) -> None:
    org_id, client = account
    chance = random.Random(2026)
    fill(client, chance)
    ours = Bundle(evidence.members(evidence.bundle_of(client, evidence.exported(client))))
    assert {"active", "deleted"} <= set(ours.statuses())
    ranges = [(None, None), ("2026-03-01", "2026-03-31"), ("2026-02-27T13:30:00Z", "2026-04-02T01:02:03.5Z")]
    ranges += [(f"2026-0{month}-{day:02d}", None) for month, day in ((1, 1), (2, 15), (4, 30))]
    ranges += [
        (None, "2026-03-15T12:00:00Z"),
        ("2026-11-27", "2030-01-01"),
        ("2026-03-05T01:00:00Z", "2026-03-05T23:00:00Z"),
    ]
    for (start, end), agent, currency in selected(ranges, (None, "agent-1", "agent-nobody"), CURRENCIES):
        query = {"start": start, "end": end, "agent_id": agent, "currency": currency}
        asked = {name: value for name, value in query.items() if value is not None}
        shown = client.data("GET", "/analytics/ai-pnl", params=asked)
        expected = ours.profit_and_loss(**query)
        assert {name: shown[name] for name in expected} == expected, query
    several = client.http.get("/analytics/ai-pnl")
    assert (several.status_code, several.json()["error"]["code"]) == (409, "multi_currency")
    assert several.json()["error"]["details"] == {"currencies": sorted(CURRENCIES)}
    weekly = {"start": "2026-01-01", "end": "2026-06-30", "currency": "EUR", "interval": "week"}
    points = client.data("GET", "/analytics/timeline", params=weekly)["points"]
    for point in points:
        expected = ours.profit_and_loss(point["start"], point["end"], None, "EUR")
        assert point["revenue_attributed"] == expected["total_revenue_attributed"]
        assert point["cost_attributed"] == expected["total_cost_attributed"]
        assert point["link_count"] == expected["link_count"]
    assert sum(point["link_count"] for point in points) > 0
    everything = ours.profit_and_loss(None, None, None, "EUR")
    liability = client.data("GET", "/analytics/liability")
    assert liability["estimated_exposure"] == everything["total_liability_exposure"]
    rebuilt = json.loads(
        shared_server.run_warm("outcomes", "rebuild", "--org", org_id, "--env", "test", "--json").stdout
    )
    assert rebuilt["differing"] == []
    assert rebuilt["rows"] > 200
    again = client.data("GET", "/analytics/ai-pnl", params={"currency": "EUR"})
    assert (
        again["total_revenue_attributed"] == ours.profit_and_loss(None, None, None, "EUR")["total_revenue_attributed"]
    )


def selected(ranges: Sequence[Any], *others: Sequence[Any]) -> list[Any]:
    """Each range with a third of the rest, so that every pair occurs; at full size all that there are."""
    everything = itertools.product(ranges, *others)
    share = rounds(3, long=1)
    return [item for number, item in enumerate(everything) if (number // 9 + number // 3 + number) % share == 0]


def fill(client: Client, chance: random.Random) -> None:
    """Decisions of some agents, money in three currencies over months, links of all types; some links ended."""
    decisions = []
    for start in range(0, 60, 20):
        batch = [
            decision(
                number,
                agent_id=f"agent-{number % AGENTS}",
                action_type=chance.choice(list(BASES)),
                confidence=chance.choice([0.2, 0.499, 0.5, 0.9]),
                human_in_loop=chance.random() < 0.4,
            )
            for number in range(start, start + 20)
        ]
        receipts = client.data("POST", "/decisions/batch", json={"decisions": batch})["receipts"]
        decisions += [receipt["decision_id"] for receipt in receipts]
    events = []
    for number in range(60):
        currency = chance.choice(CURRENCIES)
        decimals = 0 if currency == "JPY" else chance.choice([0, 1, 2, 3, 4])  # there is no half a yen
        amount = Decimal(chance.randrange(-500_000, 500_000)).scaleb(-decimals)
        moment = f"2026-0{chance.randrange(1, 7)}-{chance.randrange(1, 29):02d}T{chance.randrange(24):02d}:15:00Z"
        event = {
            "source": "manual",
            "event_type": "other",
            "amount": str(amount),
            "currency": currency,
            "timestamp": moment,
            "external_id": f"event {number}",
        }
        events.append(client.data("POST", "/financial-events", json=event)["id"])
    for _ in range(110):
        link = {
            "decision_id": chance.choice(decisions),
            "financial_event_id": chance.choice(events),
            "correlation_strength": round(chance.random(), 3),
            "link_type": chance.choice(["revenue", "revenue", "cost", "cost", "liability", "neutral"]),
        }
        made = client.http.post("/links", json=link)
        if made.status_code == 201 and chance.random() < 0.25:
            client.data("DELETE", f"/links/{made.json()['data']['id']}")


class Bundle:
    """Profit and loss from the lists of a bundle alone, after the rules of the documentation."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.decisions = {row["id"]: row for row in evidence.lines(files["decisions.jsonl"])}
        self.events = {row["id"]: row for row in evidence.lines(files["financial_events.jsonl"])}
        self.links: dict[str, dict[str, Any]] = {}
        for row in evidence.lines(files["links.jsonl"]):
            if row["kind"] == "link":
                self.links[row["id"]] = {**row, "status": "suggested" if row["is_suggestion"] else "active"}
            else:
                self.links[row["link_id"]]["status"] = STATUS_AFTER[row["kind"]]

    def statuses(self) -> list[str]:
        return [link["status"] for link in self.links.values()]

    def profit_and_loss(
        self, start: str | None, end: str | None, agent_id: str | None, currency: str
    ) -> dict[str, Any]:
        first, last = moment(start, "0"), moment(end, "9", is_end=True)
        sums: dict[str, Decimal] = defaultdict(Decimal)
        seen: set[tuple[str, str]] = set()
        links = 0
        for link in self.links.values():
            event = self.events[link["financial_event_id"]]
            agent = self.decisions[link["decision_id"]]["agent_id"]
            at = event["occurred_at"] or event["timestamp"]
            if link["status"] != "active" or event["currency"] != currency or not first <= at < last:
                continue
            if agent_id not in (None, agent):
                continue
            links += 1
            if (event["id"], link["link_type"]) not in seen:
                seen.add((event["id"], link["link_type"]))
                sums[link["link_type"]] += Decimal(event["amount"])
        decided = [
            row
            for row in self.decisions.values()
            if first <= row["timestamp"] < last and agent_id in (None, row["agent_id"])
        ]
        exposure = sum((self.exposure(row) for row in decided), Decimal(0))
        return {
            "currency": currency,
            "total_revenue_attributed": cents(sums["revenue"]),
            "total_cost_attributed": cents(sums["cost"]),
            "net_ai_impact": cents(sums["revenue"] + sums["cost"]),
            "total_liability_exposure": f"{exposure:.2f}",
            "decision_count": len(decided),
            "link_count": links,
        }

    def exposure(self, row: dict[str, Any]) -> Decimal:
        pair = (row["agent_id"], row["action_type"])
        past = [other for other in self.decisions.values() if (other["agent_id"], other["action_type"]) == pair]
        hurt = {
            link["decision_id"]
            for link in self.links.values()
            if link["status"] == "active" and link["link_type"] in ("cost", "liability")
        }
        rate = Decimal("0.5")
        if len(past) >= 5:
            rate = Decimal(len([other for other in past if other["id"] in hurt])) / len(past)
        factor = (2 if row["confidence"] < 0.5 else 1) * (Decimal(1) if row["human_in_loop"] else Decimal("1.5"))
        exact = min(BASES[row["action_type"]] * factor * max(rate, Decimal("0.10")), Decimal(10_000_000))
        return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def moment(text: str | None, otherwise: str, *, is_end: bool = False) -> str:
    """As the chain writes times, so that they compare as texts; a bare end date includes its day."""
    if text is None:
        return otherwise
    if len(text) == 10:
        return text + ("T24" if is_end else "T00")
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(6, '0')}Z"


def cents(amount: Decimal) -> str:
    return f"{amount.quantize(Decimal('0.01'), ROUND_HALF_UP) + 0:.2f}"
