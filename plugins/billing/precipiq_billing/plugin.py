"""Wiring of ``billing``: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry

from precipiq_billing.command_index import COMMANDS
from precipiq_billing.config import BillingConfig
from precipiq_billing.deliveries import Deliveries
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.delivery_trust import DeliveryTrust, RegisterTrust
from precipiq_billing.endpoint_store import EndpointStore
from precipiq_billing.endpoint_trust import EndpointTrust
from precipiq_billing.endpoints import EndpointLimits, StripeEndpoints
from precipiq_billing.kinds import kinds
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.plans.service import PlanBook, UnlimitedPlans
from precipiq_billing.plans.store import SubscriptionStore
from precipiq_billing.plans.trust import PlanTrust
from precipiq_billing.service import FinancialEvents
from precipiq_contracts.background import Background
from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.database import Database, Migration
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.plans import Plans
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault, WrappedSecrets
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_macs.row_macs import RowMacs, TrustedRows

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

_MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
_COLUMNS = ("org_id", "environment")
_TENANT_TABLES: dict[str, tuple[str, str | None]] = {
    "stripe_endpoints": _COLUMNS,
    "stripe_registers": _COLUMNS,
    "stripe_deliveries": _COLUMNS,
    "billing_events": _COLUMNS,
}


class BillingPlugin(PluginBase[BillingConfig]):
    """Financial events by API and by Stripe webhook, and plans."""

    name = "billing"
    Config = BillingConfig
    provides: ClassVar[tuple[type, ...]] = (FinancialEvents, StripeEndpoints, Deliveries, Plans)
    requires: ClassVar[tuple[type, ...]] = (Database, Ledger, KeyVault, RowMacs)

    def check_serving(self) -> None:
        if self.config.plans is not None:
            self.config.plans.secrets()

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        clock, randomness = services.get(Clock), services.get(Randomness)
        database, ledger = services.get(Database), services.get(Ledger)
        vault = services.get(KeyVault)
        self._metrics = DeliveryMetrics(services.get(CollectorRegistry))
        macs = services.get(RowMacs)
        self._endpoint_store = EndpointStore(database, macs)
        trust = EndpointTrust(self._endpoint_store, ledger, macs)
        self._trusted: list[TrustedRows] = [trust, DeliveryTrust(database, ledger, macs), RegisterTrust(database, macs)]
        events = FinancialEvents(ledger)
        deliveries = Deliveries(
            DeliveryStore(database, macs),
            events,
            clock,
            self._metrics,
            accept_test_mode_in_live=config.accept_test_mode_in_live,
            retry_s=config.seal_retry_s,
        )
        limits = EndpointLimits(config.endpoints_max, config.secret_grace_max_s)
        self._live = LiveEndpoints(
            self._endpoint_store,
            trust,
            vault,
            clock,
            refresh_s=config.endpoint_refresh_s,
            cached_max=config.endpoints_cached_max,
        )
        subscriptions = SubscriptionStore(database, macs, self._endpoint_store.events)
        plan_trust = PlanTrust(subscriptions, ledger, macs)
        self._trusted.append(plan_trust)
        self._book: PlanBook | None = None
        if config.plans is not None:
            self._book = PlanBook(subscriptions, plan_trust, config.plans, clock)
            from precipiq_billing.plans.routes import PlanWebhook

            self._plan_webhook = PlanWebhook(self._book, config.plans, clock)
        services.provide(Plans, self._book or UnlimitedPlans())
        services.provide(FinancialEvents, events)
        services.provide(Deliveries, deliveries)
        services.provide(
            StripeEndpoints, StripeEndpoints(self._endpoint_store, trust, vault, ledger, clock, randomness, limits)
        )

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return kinds(services.get(FinancialEvents).present)

    @hookimpl
    def trusted_rows(self, services: Services) -> Sequence[TrustedRows]:
        return self._trusted

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        from precipiq_billing.endpoint_routes import EndpointRoutes
        from precipiq_billing.plans.routes import PlanRoutes
        from precipiq_billing.routes import FinancialEventRoutes
        from precipiq_billing.webhooks import StripeWebhooks

        body_bytes_max = self.config.webhook_body_bytes_max
        webhooks = StripeWebhooks(self._live, services.get(Deliveries), self._metrics, body_bytes_max=body_bytes_max)
        public_url = services.get(DeploymentInfo).public_url
        return [
            *FinancialEventRoutes(
                services.get(FinancialEvents), services.get(Ledger), services.get(HttpSettings)
            ).endpoints(),
            *webhooks.endpoints(),
            *([] if self._book is None else [self._plan_webhook.endpoint(body_bytes_max)]),
            *PlanRoutes(self._book or UnlimitedPlans()).endpoints(),
            *EndpointRoutes(
                services.get(StripeEndpoints), self._live, services.get(Clock), public_url, services.get(HttpSettings)
            ).endpoints(),
        ]

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        return [Migration("billing", _MIGRATIONS, _TENANT_TABLES)]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        return [self._endpoint_store]

    @hookimpl
    def secret_names(self, services: Services) -> Sequence[str]:
        return ["stripe-signature", "webhook_secret", "whsec"]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        if not services.get(DeploymentInfo).serving:
            yield
            return
        background = services.get(Background)
        endpoints = services.get(StripeEndpoints)
        async with AsyncExitStack() as stack:
            if self._book is not None:
                self._plan_webhook.start()
                await self._book.refresh()
                await stack.enter_async_context(self._book.run(background))
            await stack.enter_async_context(services.get(Deliveries).run(background))
            await stack.enter_async_context(endpoints.run(background, self.config.seal_retry_s))
            yield
