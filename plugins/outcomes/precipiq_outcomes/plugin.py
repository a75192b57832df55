"""Wiring of ``outcomes``: what it contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry

from precipiq_contracts.background import Background
from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, Migration
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.followers import Follower
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.services import Services
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_outcomes.analytics import Analytics
from precipiq_outcomes.command_index import COMMANDS
from precipiq_outcomes.config import OutcomesConfig
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
from precipiq_work.off_loop import OffLoop
from precipiq_work.turns import Turns

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

_MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
_COLUMNS = ("org_id", "environment")
_TENANT_TABLES: dict[str, tuple[str, str | None]] = dict.fromkeys(
    ("outcome_cursors", "outcome_stale", *TABLES), _COLUMNS
)

_FULL = "too many questions to the analytics are waiting; try again"


class OutcomesPlugin(PluginBase[OutcomesConfig]):
    """Links between decisions and money, and what they add up to."""

    name = "outcomes"
    Config = OutcomesConfig
    provides: ClassVar[tuple[type, ...]] = (LinkService, Analytics, Projection, ProjectionStore)
    requires: ClassVar[tuple[type, ...]] = (Database, Ledger)

    @hookimpl
    def provide(self, services: Services) -> None:
        config, risk = self.config, self.config.liability
        clock = services.get(Clock)
        database, ledger = services.get(Database), services.get(Ledger)
        store, links = ProjectionStore(database), LinkStore(database)
        set_aside = SetAside(services.get(CollectorRegistry))
        projection = Projection(
            store, ledger, clock, set_aside, batch_entries=config.batch_entries, wait_s=config.read_wait_s
        )
        service = LinkService(links, projection, ledger)
        analytics = Analytics(
            Sums(database),
            projection,
            RiskModel(risk.bases, risk.base, risk.cap, risk.currency),
            clock,
            default_currency=config.default_currency,
            timeline_points_max=config.timeline_points_max,
            turns=Turns(config.questions_at_once_max, config.questions_queue_max, _FULL, kept_free=1),
        )
        self._estimator = Estimator(
            database, analytics, ledger, clock, set_aside, currency=risk.currency, interval_s=config.estimate_interval_s
        )
        self._correlator = Correlator(
            store, links, service, projection, ledger, clock, config.correlation, set_aside, services.get(OffLoop)
        )
        services.provide(LinkService, service)
        services.provide(Analytics, analytics)
        services.provide(Projection, projection)
        services.provide(ProjectionStore, store)

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        service = services.get(LinkService)
        return kinds(service.present_links, service.present_estimates)

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        from precipiq_outcomes.routes import AnalyticsRoutes, LinkRoutes

        links = LinkRoutes(services.get(LinkService), services.get(Ledger), services.get(HttpSettings))
        return [*links.endpoints(), *AnalyticsRoutes(services.get(Analytics)).endpoints()]

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        return [Migration("outcomes", _MIGRATIONS, _TENANT_TABLES)]

    @hookimpl
    def followers(self, services: Services) -> Sequence[Follower]:
        return [services.get(Projection)]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if services.get(DeploymentInfo).serving:
                background = services.get(Background)
                await stack.enter_async_context(self._estimator.run(background))
                if self.config.correlation.enabled:
                    await stack.enter_async_context(self._correlator.run(background))
            yield
