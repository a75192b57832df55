"""From a deployment to an assembly: plugins loaded, ordered and asked for everything they contribute.

Opens no socket and no database. Either everything is right, or one ``DeploymentError`` lists all that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from prometheus_client import CollectorRegistry

from precipiq_core.background import BackgroundTasks
from precipiq_core.cli.groups import merge_commands
from precipiq_core.clock import Clock, Randomness
from precipiq_core.collect import Collector
from precipiq_core.contracts.background import Background
from precipiq_core.contracts.chain import EntryKind
from precipiq_core.contracts.database import Database, Migration
from precipiq_core.contracts.deployment import Console, DeploymentInfo
from precipiq_core.contracts.entry_store import EntryStoreDriver
from precipiq_core.contracts.followers import Follower
from precipiq_core.contracts.registries import EntryKinds, EntryStoreDrivers, Followers, WrappedSecretsRegistry
from precipiq_core.contracts.secrets import MasterKey
from precipiq_core.contracts.vault import WrappedSecrets
from precipiq_core.contribution import Contribution
from precipiq_core.database.open import new_database
from precipiq_core.deployment import Deployment
from precipiq_core.discovery import installed_plugins, load_plugins
from precipiq_core.errors import DeploymentError
from precipiq_core.graph import boot_order
from precipiq_core.operations.plugin import Operations
from precipiq_core.plugin import AnyPlugin
from precipiq_core.secrets import LazyMasterKey
from precipiq_core.services import Services
from precipiq_core.settings import HttpSettings, parse_settings

if TYPE_CHECKING:
    import click

    from precipiq_core.contracts.auth import Authenticator
    from precipiq_core.database.open import ManagedDatabase
    from precipiq_core.hookspecs import LayeredMiddleware
    from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
    from precipiq_core.http.websocket import WebSocketEndpoint


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)


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


@dataclass(frozen=True, slots=True)
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
    endpoints: Sequence[Contribution[Endpoint]]
    plain_endpoints: Sequence[Contribution[PlainEndpoint]]
    websocket_endpoints: Sequence[Contribution[WebSocketEndpoint]]
    middleware: Sequence[Contribution[LayeredMiddleware]]
    authenticators: Sequence[Contribution[Authenticator]]
    migrations: Sequence[Contribution[Migration]]
    commands: Sequence[Contribution[click.Command]]
    command_by_name: Mapping[str, click.Command]
    secret_names: Sequence[Contribution[str]]
    wrapped_secrets: Sequence[Contribution[WrappedSecrets]]
    followers: Sequence[Contribution[Follower]]
    lifespans: Sequence[Contribution[AbstractAsyncContextManager[object]]] = field(default=())


def assemble(
    deployment: Deployment,
    *,
    clock: Clock,
    randomness: Randomness,
    console: Console,
    serving: bool,
    installed: Iterable[EntryPoint] | None = None,
    registry: CollectorRegistry | None = None,
    edge: bool = True,
    commands: bool = True,
) -> Assembly:
    """Boot up to the point where sockets and databases would be opened. ``registry``: of metrics, default a new one.

    ``edge``: whether plugins are asked for what answers requests; a command needs none of it.
    ``commands``: whether they are asked for commands; one that runs needs no others.
    """
    problems: list[str] = []
    points = installed_plugins() if installed is None else tuple(installed)
    classes = load_plugins(deployment.plugins, points, problems)
    plugins = _configure(deployment, classes, problems)
    services = _core_services(deployment, clock, randomness, console, serving, classes)
    registry = registry or CollectorRegistry(auto_describe=False)
    services.provide(CollectorRegistry, registry)
    services.provide(Background, BackgroundTasks(clock, registry))  # type: ignore[type-abstract]
    _find_unshareable_database(deployment, services, problems)
    order = boot_order(classes, services.owners, problems)
    collector = Collector()
    registered: dict[str, AnyPlugin] = {"operations": Operations(Operations.Config())}
    registered |= {name: plugins[name] for name in order if name in plugins}
    for name, plugin in registered.items():
        collector.register(name, plugin, problems)
    if problems:
        raise DeploymentError(problems)
    collector.provide(services)
    return _collect(deployment, clock, randomness, services, registered, collector, edge=edge, commands=commands)


def _configure(
    deployment: Deployment, classes: Mapping[str, type[AnyPlugin]], problems: list[str]
) -> dict[str, AnyPlugin]:
    plugins: dict[str, AnyPlugin] = {}
    for name, plugin in classes.items():
        where = f"plugins.{name}"
        base_dir = deployment.data_dir
        config = parse_settings(
            plugin.Config, deployment.plugins[name], where=where, base_dir=base_dir, problems=problems
        )
        if config is None:
            continue
        try:
            plugins[name] = plugin(config)
        except DeploymentError as error:
            problems.extend(error.problems)
        except Exception as error:  # noqa: BLE001  (a plugin's constructor may fail in any way)
            problems.append(f"{where}: {type(error).__name__}: {error}")
    return plugins


def _core_services(
    deployment: Deployment,
    clock: Clock,
    randomness: Randomness,
    console: Console,
    serving: bool,
    classes: Mapping[str, type[AnyPlugin]],
) -> Services:
    services = Services()
    bind = deployment.server.bind
    scheme = "https" if deployment.server.tls else "http"
    public_url = deployment.public_url or f"{scheme}://{bind}"
    services.provide(
        DeploymentInfo,
        DeploymentInfo(deployment.name, deployment.data_dir, public_url, serving, deployment.server.workers),
    )
    services.provide(Clock, clock)  # type: ignore[type-abstract]
    services.provide(Randomness, randomness)  # type: ignore[type-abstract]
    services.provide(Console, console)  # type: ignore[type-abstract]
    services.provide(HttpSettings, deployment.http)
    services.provide(EntryKinds, Registry[EntryKind]())  # type: ignore[type-abstract]
    services.provide(EntryStoreDrivers, Registry[EntryStoreDriver]())  # type: ignore[type-abstract]
    services.provide(Followers, Registry[Follower]())  # type: ignore[type-abstract]
    services.provide(WrappedSecretsRegistry, Registry[WrappedSecrets]())  # type: ignore[type-abstract]
    if deployment.database is not None:
        database = new_database(deployment.database, deployment.data_dir, checkpoints=serving)
        services.provide(Database, database)  # type: ignore[type-abstract]
    wanted = {capability for plugin in classes.values() for capability in (*plugin.requires, *plugin.optional)}
    if MasterKey in wanted:
        services.provide(MasterKey, LazyMasterKey(deployment.secrets, randomness))  # type: ignore[type-abstract]
    return services


def _find_unshareable_database(deployment: Deployment, services: Services, problems: list[str]) -> None:
    database = services.find(Database)  # type: ignore[type-abstract]
    workers = deployment.server.workers
    if database is not None and database.dialect == "sqlite" and workers > 1:
        problems.append(f"server.workers: {workers} processes cannot serve one SQLite database: use PostgreSQL")


def _collect(
    deployment: Deployment,
    clock: Clock,
    randomness: Randomness,
    services: Services,
    plugins: Mapping[str, AnyPlugin],
    collector: Collector,
    *,
    edge: bool,
    commands: bool,
) -> Assembly:
    problems: list[str] = []
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
    found = _collect_edge(collector, services) if edge else _Edge()
    contributed = _collect_commands(deployment, collector, services) if commands else []
    command_by_name = merge_commands(contributed, problems)
    assembly = Assembly(
        deployment,
        clock,
        randomness,
        services,
        plugins,
        cast("ManagedDatabase | None", services.find(Database)),
        kinds,
        drivers,
        found.endpoints,
        found.plain_endpoints,
        found.websocket_endpoints,
        found.middleware,
        found.authenticators,
        collector.collect("migrations", services),
        contributed,
        command_by_name,
        collector.collect("secret_names", services),
        wrapped,
        followers,
        collector.lifespans(services),
    )
    if problems:
        raise DeploymentError(problems)
    return assembly


def _collect_commands(
    deployment: Deployment, collector: Collector, services: Services
) -> list[Contribution[click.Command]]:
    """In the deployment's order, as in ``precipiq --help``, which knows no boot order."""
    commands: list[Contribution[click.Command]] = collector.collect("commands", services)
    rank = {name: index for index, name in enumerate(deployment.plugins, start=1)}
    return sorted(commands, key=lambda item: rank.get(item.owner, 0))


@dataclass(frozen=True, slots=True)
class _Edge:
    """What answers requests."""

    endpoints: Sequence[Contribution[Endpoint]] = ()
    plain_endpoints: Sequence[Contribution[PlainEndpoint]] = ()
    websocket_endpoints: Sequence[Contribution[WebSocketEndpoint]] = ()
    middleware: Sequence[Contribution[LayeredMiddleware]] = ()
    authenticators: Sequence[Contribution[Authenticator]] = ()


def _collect_edge(collector: Collector, services: Services) -> _Edge:
    from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
    from precipiq_core.http.websocket import WebSocketEndpoint

    routes: list[Contribution[Endpoint | PlainEndpoint | WebSocketEndpoint]] = collector.collect("routes", services)
    return _Edge(
        [Contribution(item.owner, item.value) for item in routes if isinstance(item.value, Endpoint)],
        [Contribution(item.owner, item.value) for item in routes if isinstance(item.value, PlainEndpoint)],
        [Contribution(item.owner, item.value) for item in routes if isinstance(item.value, WebSocketEndpoint)],
        collector.collect("middleware", services),
        collector.collect("authenticators", services),
    )
