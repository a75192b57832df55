"""From a deployment to an assembly: plugins loaded, ordered and asked for everything they contribute.

Opens no socket and no database. Either everything is right, or one ``DeploymentError`` lists all that is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar, cast

from precipiq_core.cli.groups import merge_commands
from precipiq_core.clock import Clock, Randomness
from precipiq_core.collect import Contribution
from precipiq_core.contracts.chain import EntryKind
from precipiq_core.contracts.database import Database, Migration
from precipiq_core.contracts.deployment import Console, DeploymentInfo
from precipiq_core.contracts.entry_store import EntryStoreDriver
from precipiq_core.contracts.followers import Follower
from precipiq_core.contracts.registries import EntryKinds, EntryStoreDrivers, Followers, WrappedSecretsRegistry
from precipiq_core.contracts.secrets import MasterKey
from precipiq_core.contracts.vault import WrappedSecrets
from precipiq_core.deployment import Deployment
from precipiq_core.enabled import EnabledPlugins, enable
from precipiq_core.errors import DeploymentError
from precipiq_core.plugin import AnyPlugin
from precipiq_core.services import Services
from precipiq_core.settings import HttpSettings

if TYPE_CHECKING:
    import click
    from prometheus_client import CollectorRegistry

    from precipiq_core.contracts.auth import Authenticator
    from precipiq_core.database.open import ManagedDatabase
    from precipiq_core.hookspecs import LayeredMiddleware
    from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
    from precipiq_core.http.websocket import WebSocketEndpoint

    Route: TypeAlias = Endpoint | PlainEndpoint | WebSocketEndpoint


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)
RouteT = TypeVar("RouteT")


class Registry(Generic[NamedT]):
    """Contributions by name, filled once at boot."""

    def __init__(self) -> None:
        self._by_name: dict[str, NamedT] = {}

    @property
    def by_name(self) -> Mapping[str, NamedT]:
        return self._by_name

    def fill(self, what: str, contributions: Iterable[Contribution[NamedT]], problems: list[str]) -> None:
        """Adds a sentence for each name that two plugins claim."""
        owners: dict[str, str] = {}
        for item in contributions:
            name = item.value.name
            if name in owners:
                problems.append(f"{what} {name!r} is registered by both {owners[name]} and {item.owner}")
            owners[name] = item.owner
            self._by_name[name] = item.value


@dataclass(frozen=True)
class Assembly:
    """Everything that boot found, in boot order, with its owner's name. ``command_by_name``: groups put together."""

    deployment: Deployment
    clock: Clock
    randomness: Randomness
    services: Services
    plugins: Mapping[str, AnyPlugin]
    database: ManagedDatabase | None
    kinds: Sequence[Contribution[EntryKind]]
    drivers: Sequence[Contribution[EntryStoreDriver]]
    routes: Sequence[Contribution[Route]]
    middleware: Sequence[Contribution[LayeredMiddleware]]
    authenticators: Sequence[Contribution[Authenticator]]
    migrations: Sequence[Contribution[Migration]]
    commands: Sequence[Contribution[click.Command]]
    command_by_name: Mapping[str, click.Command]
    secret_names: Sequence[Contribution[str]]
    wrapped_secrets: Sequence[Contribution[WrappedSecrets]]
    followers: Sequence[Contribution[Follower]]
    lifespans: Sequence[Contribution[AbstractAsyncContextManager[object]]] = field(default=())

    @cached_property
    def endpoints(self) -> Sequence[Contribution[Endpoint]]:
        from precipiq_core.http.endpoint import Endpoint

        return self._routes_of(Endpoint)

    @cached_property
    def plain_endpoints(self) -> Sequence[Contribution[PlainEndpoint]]:
        from precipiq_core.http.endpoint import PlainEndpoint

        return self._routes_of(PlainEndpoint)

    @cached_property
    def websocket_endpoints(self) -> Sequence[Contribution[WebSocketEndpoint]]:
        from precipiq_core.http.websocket import WebSocketEndpoint

        return self._routes_of(WebSocketEndpoint)

    def _routes_of(self, kind: type[RouteT]) -> list[Contribution[RouteT]]:
        return [Contribution(item.owner, item.value) for item in self.routes if isinstance(item.value, kind)]


class Boot:
    """One boot of a deployment, as far as it is asked for: its commands, or all that it consists of.

    ``registry``: of metrics, default a new one.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        clock: Clock,
        randomness: Randomness,
        console: Console,
        serving: bool,
        installed: Iterable[EntryPoint] | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._deployment = deployment
        self._clock = clock
        self._randomness = randomness
        self._console = console
        self._serving = serving
        self._registry = registry
        self._problems: list[str] = []
        self._enabled = enable(deployment, self._offered(), Services(self._provide), installed, self._problems)

    def commands(self) -> Mapping[str, click.Command]:
        """What plugins add to the command line. Raises ``DeploymentError``."""
        if self._problems:
            raise DeploymentError(self._problems)
        return self._enabled.command_by_name()

    def assembly(self, *, answers_requests: bool = True) -> Assembly:
        """Everything, up to the point where sockets and databases would be opened.

        ``answers_requests``: False leaves out routes, middleware and authenticators. Raises ``DeploymentError``.
        """
        problems, services = self._problems, self._enabled.services
        workers = self._deployment.server.workers
        database = self._deployment.database
        if database is not None and database.url.startswith("sqlite:") and workers > 1:
            problems.append(f"server.workers: {workers} processes cannot serve one SQLite database: use PostgreSQL")
        if problems:
            raise DeploymentError(problems)
        services.fill()
        return _collect(self._enabled, self._clock, self._randomness, answers_requests=answers_requests)

    def _offered(self) -> list[type]:
        """The capabilities that core provides, before any plugin is loaded."""
        offered: list[type] = [DeploymentInfo, Clock, Randomness, Console, HttpSettings, MasterKey]
        offered += [EntryKinds, EntryStoreDrivers, Followers, WrappedSecretsRegistry]
        if "prometheus_client" in sys.modules:  # else no plugin can have named it
            from prometheus_client import CollectorRegistry

            offered.append(CollectorRegistry)
        return offered if self._deployment.database is None else [*offered, Database]

    def _provide(self, services: Services) -> None:
        """Let core, then each plugin in boot order, make and provide its parts."""
        deployment, serving = self._deployment, self._serving
        scheme = "https" if deployment.server.tls else "http"
        public_url = deployment.public_url or f"{scheme}://{deployment.server.bind}"
        services.provide(
            DeploymentInfo,
            DeploymentInfo(deployment.name, deployment.data_dir, public_url, serving, deployment.server.workers),
        )
        services.provide(Clock, self._clock)  # type: ignore[type-abstract]
        services.provide(Randomness, self._randomness)  # type: ignore[type-abstract]
        services.provide(Console, self._console)  # type: ignore[type-abstract]
        services.provide(HttpSettings, deployment.http)
        services.provide(EntryKinds, Registry[EntryKind]())  # type: ignore[type-abstract]
        services.provide(EntryStoreDrivers, Registry[EntryStoreDriver]())  # type: ignore[type-abstract]
        services.provide(Followers, Registry[Follower]())  # type: ignore[type-abstract]
        services.provide(WrappedSecretsRegistry, Registry[WrappedSecrets]())  # type: ignore[type-abstract]
        if deployment.database is not None:
            from precipiq_core.database.open import new_database

            database = new_database(deployment.database, deployment.data_dir, checkpoints=serving)
            services.provide(Database, database)  # type: ignore[type-abstract]
        classes = self._enabled.classes.values()
        if any(MasterKey in (*plugin.requires, *plugin.optional) for plugin in classes):
            services.provide(MasterKey, _LazyMasterKey(deployment, self._randomness))  # type: ignore[type-abstract]
        from prometheus_client import CollectorRegistry

        services.provide(CollectorRegistry, self._registry or CollectorRegistry(auto_describe=False))
        self._enabled.collector.provide(services)


def assemble(
    deployment: Deployment,
    *,
    clock: Clock,
    randomness: Randomness,
    console: Console,
    serving: bool,
    installed: Iterable[EntryPoint] | None = None,
    registry: CollectorRegistry | None = None,
) -> Assembly:
    """Boot up to the point where sockets and databases would be opened; see :class:`Boot`."""
    boot = Boot(
        deployment,
        clock=clock,
        randomness=randomness,
        console=console,
        serving=serving,
        installed=installed,
        registry=registry,
    )
    return boot.assembly()


class _LazyMasterKey:
    """Reads the master key when it is first used, so that ``precipiq check`` needs no secret."""

    def __init__(self, deployment: Deployment, randomness: Randomness) -> None:
        self._deployment = deployment
        self._randomness = randomness
        self._key: MasterKey | None = None

    def derive(self, purpose: str) -> bytes:
        if self._key is None:
            from precipiq_core.secrets import open_master_key

            self._key = open_master_key(self._deployment.secrets, self._randomness)
        return self._key.derive(purpose)


def _collect(enabled: EnabledPlugins, clock: Clock, randomness: Randomness, *, answers_requests: bool) -> Assembly:
    problems: list[str] = []
    collector, services = enabled.collector, enabled.services
    kinds: list[Contribution[EntryKind]] = collector.collect("entry_kinds", services)
    drivers: list[Contribution[EntryStoreDriver]] = collector.collect("entry_store_drivers", services)
    cast("Registry[EntryKind]", services.get(EntryKinds)).fill("entry kind", kinds, problems)  # type: ignore[type-abstract]
    cast("Registry[EntryStoreDriver]", services.get(EntryStoreDrivers)).fill(  # type: ignore[type-abstract]
        "entry store driver", drivers, problems
    )
    wrapped: list[Contribution[WrappedSecrets]] = collector.collect("wrapped_secrets", services)
    cast("Registry[WrappedSecrets]", services.get(WrappedSecretsRegistry)).fill(  # type: ignore[type-abstract]
        "store of wrapped secrets", wrapped, problems
    )
    followers: list[Contribution[Follower]] = collector.collect("followers", services)
    cast("Registry[Follower]", services.get(Followers)).fill("follower", followers, problems)  # type: ignore[type-abstract]
    command_by_name = merge_commands(enabled.commands, problems)
    assembly = Assembly(
        enabled.deployment,
        clock,
        randomness,
        services,
        enabled.plugins,
        cast("ManagedDatabase | None", services.find(Database)),
        kinds,
        drivers,
        collector.collect("routes", services) if answers_requests else (),
        collector.collect("middleware", services) if answers_requests else (),
        collector.collect("authenticators", services) if answers_requests else (),
        collector.collect("migrations", services),
        enabled.commands,
        command_by_name,
        collector.collect("secret_names", services),
        wrapped,
        followers,
        collector.lifespans(services),
    )
    if problems:
        raise DeploymentError(problems)
    return assembly
