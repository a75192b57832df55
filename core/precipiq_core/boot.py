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

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.database import Database, Migration
from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.followers import Follower
from precipiq_contracts.registries import EntryKinds, EntryStoreDrivers, Followers, WrappedSecretsRegistry
from precipiq_contracts.secrets import MasterKey
from precipiq_contracts.settings import HttpSettings, parse_settings
from precipiq_contracts.vault import WrappedSecrets
from precipiq_core.cli.groups import merge_commands
from precipiq_core.collect import Collector
from precipiq_core.contribution import Contribution
from precipiq_core.database.open import new_database
from precipiq_core.deployment import Deployment
from precipiq_core.discovery import installed_plugins, load_plugins
from precipiq_core.graph import boot_order
from precipiq_core.operations.plugin import Operations
from precipiq_core.plugin import AnyPlugin
from precipiq_core.secrets import open_master_key
from precipiq_core.services import Services

if TYPE_CHECKING:
    import click

    from precipiq_contracts.auth import Authenticator
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
    services.provide(CollectorRegistry, registry or CollectorRegistry(auto_describe=False))
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
    services.provide(Clock, clock)
    services.provide(Randomness, randomness)
    services.provide(Console, console)
    services.provide(HttpSettings, deployment.http)
    services.provide(EntryKinds, Registry[EntryKind]())
    services.provide(EntryStoreDrivers, Registry[EntryStoreDriver]())
    services.provide(Followers, Registry[Follower]())
    services.provide(WrappedSecretsRegistry, Registry[WrappedSecrets]())
    if deployment.database is not None:
        database = new_database(deployment.database, deployment.data_dir, checkpoints=serving)
        services.provide(Database, database)
    wanted = {capability for plugin in classes.values() for capability in (*plugin.requires, *plugin.optional)}
    if MasterKey in wanted:
        services.provide(MasterKey, _LazyMasterKey(deployment, randomness))
    return services


def _find_unshareable_database(deployment: Deployment, services: Services, problems: list[str]) -> None:
    database = services.find(Database)
    workers = deployment.server.workers
    if database is not None and database.dialect == "sqlite" and workers > 1:
        problems.append(f"server.workers: {workers} processes cannot serve one SQLite database: use PostgreSQL")


class _LazyMasterKey:
    """Reads the master key when it is first used, so that ``precipiq check`` needs no secret."""

    def __init__(self, deployment: Deployment, randomness: Randomness) -> None:
        self._deployment = deployment
        self._randomness = randomness
        self._key: MasterKey | None = None

    def derive(self, purpose: str) -> bytes:
        if self._key is None:
            self._key = open_master_key(self._deployment.secrets, self._randomness)
        return self._key.derive(purpose)


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
    cast("Registry[EntryKind]", services.get(EntryKinds)).fill("entry kind", kinds, problems)
    cast("Registry[EntryStoreDriver]", services.get(EntryStoreDrivers)).fill("entry store driver", drivers, problems)
    wrapped: list[Contribution[WrappedSecrets]] = collector.collect("wrapped_secrets", services)
    cast("Registry[WrappedSecrets]", services.get(WrappedSecretsRegistry)).fill(
        "store of wrapped secrets", wrapped, problems
    )
    followers: list[Contribution[Follower]] = collector.collect("followers", services)
    cast("Registry[Follower]", services.get(Followers)).fill("follower", followers, problems)
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
