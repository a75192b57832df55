"""From a deployment to an assembly: plugins loaded and ordered, their contributions collected.

Opens no socket and no database. Any fault fails the boot; one ``DeploymentError`` lists all faults.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from precipiq_contracts.background import Background
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.database import Migration
from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.registries import Migrations, Routes, WrappedSecretsRegistry
from precipiq_contracts.server import ServerSettings
from precipiq_contracts.services import Services
from precipiq_contracts.vault import MasterKey, WrappedSecrets
from precipiq_core.background import BackgroundTasks
from precipiq_core.cli.groups import merge_commands
from precipiq_core.collect import Collector, HookCall
from precipiq_core.deployment import Deployment
from precipiq_core.discovery import Installed
from precipiq_core.enabling import Enabled, enable, make_plugins
from precipiq_core.graph import boot_order
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import AnyPlugin
from precipiq_core.registry import Registry
from precipiq_core.secrets import DeploymentMasterKey
from precipiq_macs.row_macs import RowMacs
from precipiq_work.off_loop import OffLoop

if TYPE_CHECKING:
    import click

_HOOKS = ("wrapped_secrets", "migrations", "secret_names")
_EDGE = ("routes", "middleware", "authenticators")
"""Hooks whose contributions answer requests."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """The result of boot, in boot order. ``command_by_name``: groups merged.

    ``calls``: each call of a hook, in order. ``lifespans``: of all plugins, with their owners.
    """

    deployment: Deployment
    server: ServerSettings
    services: Services
    plugins: Mapping[str, AnyPlugin]
    contributions: Mapping[str, Sequence[Contribution[Any]]]
    command_by_name: Mapping[str, click.Command]
    calls: Sequence[HookCall]
    lifespans: Sequence[Contribution[AbstractAsyncContextManager[object]]]

    def of(self, hook: str) -> Sequence[Contribution[Any]]:
        """The values that all plugins returned for a hook of core, each with its owner's name."""
        return self.contributions.get(hook, ())


def assemble(
    deployment: Deployment,
    *,
    clock: Clock,
    randomness: Randomness,
    console: Console,
    serving: bool,
    seat: str | None = None,
    installed: Iterable[EntryPoint] | None = None,
    edge: bool = True,
    commands: bool = True,
) -> Assembly:
    """Boot up to the point where sockets and databases would be opened. Raises ``DeploymentError``.

    ``seat``: see ``DeploymentInfo``. ``installed``: the entry points to load from, by default those of this Python.
    ``edge``: whether the hooks are called whose contributions answer requests; a command does not need them.
    ``commands``: whether the hook for commands is called; a running command does not need the others.
    """
    problems = [*deployment.problems]
    found = Installed(installed)
    enabled = enable(deployment, found, problems)
    services = Services()
    services.provide(Clock, clock)
    services.provide(Randomness, randomness)
    services.provide(Console, console)
    services.provide(DeploymentInfo, _info(deployment, enabled, serving, seat))
    _provide_core(services, deployment, enabled, may_make=edge)
    made = make_plugins(enabled, problems, edge=edge)
    master_key = services.find(MasterKey)
    absent: list[str] = []  # needed for serving, not for calling hooks
    if edge and isinstance(master_key, DeploymentMasterKey):
        _attempt(master_key.check, absent)
    above = next(path for path in (deployment.data_dir, *deployment.data_dir.parents) if path.exists())
    if edge and not above.is_dir():
        absent.append(f"deployment.data_dir: {above} is no folder")
    order = boot_order(enabled.classes, services.owners, problems, found.advise)
    plugins = {name: made[name] for name in order if name in made}
    collector = Collector(services)
    collector.register(plugins, enabled.classes, problems)
    if not problems:
        _attempt(collector.provide, problems)
    if problems:
        raise DeploymentError([*problems, *absent])
    problems = absent
    collector.gather(problems)
    hooks = (*_HOOKS, *(_EDGE if edge else ()), *(("commands",) if commands else ()))
    contributions = _collect(collector, hooks, services, problems)
    contributed = _sort_as_in_file(deployment, contributions.get("commands", ()))
    command_by_name = merge_commands(contributed, problems)
    lifespans: list[Contribution[AbstractAsyncContextManager[object]]] = []
    _attempt(lambda: lifespans.extend(collector.lifespans()), problems)
    if problems:
        raise DeploymentError(problems)
    return Assembly(
        deployment,
        enabled.server,
        services,
        plugins,
        {**contributions, "commands": contributed},
        command_by_name,
        collector.calls,
        lifespans,
    )


def _info(deployment: Deployment, enabled: Enabled, serving: bool, seat: str | None) -> DeploymentInfo:
    server = enabled.server
    public_url = deployment.public_url or f"{'https' if server.is_secure else 'http'}://{server.bind}"
    return DeploymentInfo(deployment.name, deployment.data_dir, public_url, serving, server.workers, seat)


def _provide_core(services: Services, deployment: Deployment, enabled: Enabled, *, may_make: bool) -> None:
    services.provide(HttpSettings, deployment.http)
    services.provide(OffLoop, OffLoop())
    services.provide(Migrations, Registry[Migration]("schema", "branch", "location", "tenant_tables"))
    services.provide(WrappedSecretsRegistry, Registry[WrappedSecrets]("store of wrapped secrets", "all", "replace"))
    services.provide(Routes, Routes())
    wanted = {each for plugin in enabled.classes.values() for each in (*plugin.requires, *plugin.optional)}
    provided = {each for plugin in enabled.classes.values() for each in plugin.provides}
    if CollectorRegistry not in provided:
        services.provide(CollectorRegistry, CollectorRegistry(auto_describe=False))
    services.provide(Background, BackgroundTasks(services.get(Clock), lambda: services.get(CollectorRegistry)))
    if wanted & {MasterKey, RowMacs}:
        # A command makes no key: another than the one that is missing would deny all that was signed with that.
        makes = deployment.secrets.create_master_key and may_make
        secrets = deployment.secrets.model_copy(update={"create_master_key": makes})
        services.provide(MasterKey, DeploymentMasterKey(secrets, services.get(Randomness)))
        services.provide(RowMacs, RowMacs(services.get(MasterKey)))


def _collect(
    collector: Collector, hooks: Iterable[str], services: Services, problems: list[str]
) -> dict[str, Sequence[Contribution[Any]]]:
    found: dict[str, Sequence[Contribution[Any]]] = {}
    for hook in hooks:
        _attempt(lambda hook=hook: found.update({hook: collector.collect(hook)}), problems)
    for hook, capability in (("wrapped_secrets", WrappedSecretsRegistry), ("migrations", Migrations)):
        registry = services.get(capability)
        assert isinstance(registry, Registry)
        _attempt(lambda registry=registry, hook=hook: registry.fill(found.get(hook, ())), problems)
    for item in found.get("migrations", ()):
        folder = item.value.location
        if not isinstance(folder, Path) or not os.path.isdir(folder):  # noqa: PTH112  (Path.is_dir may raise)
            problems.append(
                f"plugin {item.owner}, hook migrations: the location of branch {item.value.branch} must be the Path of "
                f"a folder that exists, not {folder}"
            )
    services.get(Routes).contributions = found.get("routes", ())
    return found


def _attempt(work: Any, problems: list[str]) -> None:
    try:
        work()
    except DeploymentError as error:
        problems.extend(error.problems)


def _sort_as_in_file(
    deployment: Deployment, commands: Sequence[Contribution[click.Command]]
) -> list[Contribution[click.Command]]:
    """The order of ``precipiq --help``, which has no boot order."""
    rank = {name: index for index, name in enumerate(deployment.plugins, start=1)}
    return sorted(commands, key=lambda item: rank.get(item.owner, 0))
