"""Wiring of ``auth_keys``: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from precipiq_auth_keys.address_limiter import LocalWindows, WindowCounter
from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.command_index import COMMANDS
from precipiq_auth_keys.config import AuthKeysConfig
from precipiq_auth_keys.first_start import first_start
from precipiq_auth_keys.key_trust import KeyTrust
from precipiq_auth_keys.kinds import EVENT_KINDS
from precipiq_auth_keys.rate_limiter import Counter, LocalCounter, SecondWindows
from precipiq_auth_keys.service import KeyService
from precipiq_auth_keys.store import KeyStore
from precipiq_auth_keys.watcher import KeyWatcher
from precipiq_contracts.auth import Authenticator, RateLimiter
from precipiq_contracts.background import Background
from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.database import Database, Migration
from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.plans import Plans
from precipiq_contracts.services import Services
from precipiq_core.extras import require_extra
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_macs.row_macs import RowMacs, TrustedRows

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

REVOCATION_WITHIN_S = 5.0
"""The contract: a revocation takes effect on every node within this time."""

_MIGRATIONS = Path(__file__).parent / "sql" / "migrations"

_TENANT_TABLES = {
    "organisations": ("org_id", None),
    "api_keys": ("org_id", "environment"),
    "key_events": ("org_id", "environment"),
}


class AuthKeysPlugin(PluginBase[AuthKeysConfig]):
    """Organisations, API keys, scopes and rate limits."""

    name = "auth_keys"
    Config = AuthKeysConfig
    provides: ClassVar[tuple[type, ...]] = (RateLimiter, WindowCounter, KeyService)
    requires: ClassVar[tuple[type, ...]] = (Database, Ledger, RowMacs)
    optional: ClassVar[tuple[type, ...]] = (Plans,)

    def __init__(self, config: AuthKeysConfig) -> None:
        if config.rate_limit_redis_url is not None:
            require_extra("plugins.auth_keys.rate_limit_redis_url", "redis", "precipiq-auth-keys[redis]", "redis")
        super().__init__(config)

    def check_serving(self) -> None:
        self.config.redis_server()

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        clock = services.get(Clock)
        ledger, macs, randomness = services.get(Ledger), services.get(RowMacs), services.get(Randomness)
        self._store = KeyStore(services.get(Database), macs)
        self._trust = KeyTrust(self._store, ledger, macs)
        service = KeyService(self._store, ledger, self._trust, clock, randomness, active_max=config.active_keys_max)
        self._authenticator = KeyAuthenticator(
            self._store,
            self._trust,
            clock,
            cached_keys_max=config.cached_keys_max,
            fresh_s=REVOCATION_WITHIN_S - config.revocation_poll_s,
        )
        service.on_change = self._authenticator.forget
        quotas = {
            "write": config.writes_per_second_max,
            "batch": config.batches_per_second_max,
            "read": config.reads_per_second_max,
        }
        services.provide(KeyService, service)
        counter, windows = self._counters(clock, services.get(Background))
        plans = services.find(Plans)
        self._limiter = SecondWindows(quotas, clock, counter, plans)  # type: ignore[arg-type]
        services.provide(RateLimiter, self._limiter)
        services.provide(WindowCounter, windows)

    def _counters(self, clock: Clock, background: Background) -> tuple[Counter, WindowCounter]:
        """The counters of organisations and of addresses; running the first one serves both."""
        counter, windows = LocalCounter(clock), LocalWindows(clock, addresses_max=self.config.addresses_max)
        server = self.config.redis_server()
        if server is None:
            return counter, windows
        # Its import takes a tenth of a second.
        from precipiq_auth_keys.redis_counter import RedisCounter, RedisWindows
        from precipiq_auth_keys.redis_link import RedisLink

        link = RedisLink(server, background)
        return RedisCounter(link, counter), RedisWindows(link, windows)

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return EVENT_KINDS

    @hookimpl
    def trusted_rows(self, services: Services) -> Sequence[TrustedRows]:
        return [self._trust]

    @hookimpl
    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        return [self._authenticator]

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        from precipiq_auth_keys.routes import KeyRoutes

        return KeyRoutes(services.get(KeyService), self.config, services.get(HttpSettings)).endpoints()

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        return [Migration("auth_keys", _MIGRATIONS, _TENANT_TABLES)]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def secret_names(self, services: Services) -> Sequence[str]:
        return ["x-precipiq-key", "api_key", "secret_hash"]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        info = services.get(DeploymentInfo)
        service = services.get(KeyService)
        clock = services.get(Clock)
        watcher = KeyWatcher(
            self._store,
            service,
            self._authenticator,
            clock,
            poll_s=self.config.revocation_poll_s,
            last_used_interval_s=self.config.last_used_interval_s,
        )
        if not info.serving:
            yield
            return
        if self.config.first_start_organisation is not None:
            console = services.get(Console)
            await first_start(service, info, console, self.config.first_start_organisation)
        await watcher.look()
        background = services.get(Background)
        async with watcher.run(background), self._limiter.run():
            yield
