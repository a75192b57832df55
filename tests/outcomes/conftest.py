"""Outcomes over a real ledger and a real database, without sockets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import precipiq_outcomes
from precipiq_chain.chain_format import statement_id
from precipiq_contracts.chain import Chain, Draft, EntryKind
from precipiq_contracts.database import Database
from precipiq_core.system import SystemClock
from precipiq_ledger.service import LedgerService
from precipiq_outcomes.analytics import Analytics
from precipiq_outcomes.config import CorrelationConfig, LiabilityConfig
from precipiq_outcomes.correlator import Correlator
from precipiq_outcomes.estimator import Estimator
from precipiq_outcomes.kinds import kinds
from precipiq_outcomes.liability import RiskModel
from precipiq_outcomes.link_store import LinkStore
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.projection_store import TABLES, ProjectionStore
from precipiq_outcomes.service import LinkService
from precipiq_outcomes.set_aside import SetAside
from precipiq_outcomes.sums import Sums
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_work.off_loop import OffLoop
from precipiq_work.turns import Turns
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

_numbers = itertools.count(1)


@dataclass
class Outcomes:
    """Everything that outcomes are made of, over one ledger. ``chain``: new with each."""

    database: Database
    ledger: LedgerService
    chain: Chain = field(default_factory=lambda: Chain(f"org_{next(_numbers)}", "test"))
    batch_entries: int = 500
    clock: Any = field(default_factory=SystemClock)
    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)

    def __post_init__(self) -> None:
        risk = LiabilityConfig()
        self.registry = CollectorRegistry()
        self.set_aside = SetAside(self.registry)
        self.store = ProjectionStore(self.database)
        self.links = LinkStore(self.database)
        self.projection = Projection(
            self.store, self.ledger, SystemClock(), self.set_aside, batch_entries=self.batch_entries, wait_s=10
        )
        self.service = LinkService(self.links, self.projection, self.ledger)
        self.analytics = Analytics(
            Sums(self.database),
            self.projection,
            RiskModel(risk.bases, risk.base, risk.cap, risk.currency),
            self.clock,
            default_currency="USD",
            timeline_points_max=1000,
            turns=Turns(2),
        )
        self.estimator = Estimator(
            self.database, self.analytics, self.ledger, self.clock, self.set_aside, currency="USD", interval_s=1
        )
        self.correlator = Correlator(
            self.store,
            self.links,
            self.service,
            self.projection,
            self.ledger,
            SystemClock(),
            self.correlation,
            self.set_aside,
            OffLoop(),
        )

    async def decide(self, agent_id: str = "agent", **changes: Any) -> str:
        """A new decision's id."""
        body = {"agent_id": agent_id, "action_type": "email_send", "confidence": 0.9, "human_in_loop": False}
        payload = {"inputs": {}, "outputs": {}, "alternatives": None, "metadata": None}
        for name, value in changes.items():
            (body if name in body else payload)[name] = value
        draft = Draft("decision", "key", {**body, "external_id": None}, payload)
        return statement_id((await self.ledger.append(self.chain, [draft])).entries[0].statement)

    async def pay(self, amount: str = "10.00", **changes: Any) -> str:
        """A new financial event's id."""
        body = {"event_type": "payment", "amount": amount, "currency": "USD", "occurred_at": None}
        metadata = changes.pop("metadata", None)
        draft = Draft("financial_event", "key", {**body, **changes}, {"metadata": metadata})
        return statement_id((await self.ledger.append(self.chain, [draft])).entries[0].statement)


@pytest.fixture
async def outcomes(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Outcomes]:
    """On both databases."""
    migrations = [migration_of(precipiq_outcomes, "outcomes", ("outcome_cursors", "outcome_stale", *TABLES))]
    async with open_ledger(server_database, tmp_path, migrations) as (database, ledger):
        made = Outcomes(database, ledger)
        money = EntryKind("financial_event", "money moved")
        serve_kinds(ledger, [money, *kinds(made.service.present_links, made.service.present_estimates)])
        yield made
