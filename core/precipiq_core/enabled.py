"""The plugins that a deployment enables: loaded, configured and in boot order. None of their parts is made yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from precipiq_core.cli.groups import merge_commands
from precipiq_core.collect import Collector, Contribution
from precipiq_core.contracts.vault import KeyVault
from precipiq_core.deployment import Deployment
from precipiq_core.discovery import installed_plugins, load_plugins
from precipiq_core.errors import DeploymentError
from precipiq_core.graph import boot_order
from precipiq_core.operations import Operations
from precipiq_core.plugin import AnyPlugin
from precipiq_core.services import Services
from precipiq_core.settings import parse_settings

if TYPE_CHECKING:
    import click


@dataclass
class EnabledPlugins:
    """``plugins``: by name, in boot order, core's own first. ``services``: what they share; empty until asked."""

    deployment: Deployment
    classes: Mapping[str, type[AnyPlugin]]
    plugins: Mapping[str, AnyPlugin]
    collector: Collector
    services: Services

    @cached_property
    def commands(self) -> Sequence[Contribution[click.Command]]:
        """What they contribute to the command line. Makes no part, unless one of them asks for it."""
        return self.collector.collect("commands", self.services)

    def command_by_name(self) -> Mapping[str, click.Command]:
        """The commands as one tree. Raises ``DeploymentError`` when two plugins claim a name."""
        problems: list[str] = []
        commands = merge_commands(self.commands, problems)
        if problems:
            raise DeploymentError(problems)
        return commands


def enable(
    deployment: Deployment,
    provided_by_core: Iterable[type],
    services: Services,
    installed: Iterable[EntryPoint] | None,
    problems: list[str],
) -> EnabledPlugins:
    """Load, configure, order and register them. Adds a sentence for each problem."""
    points = installed_plugins() if installed is None else tuple(installed)
    classes = load_plugins(deployment.plugins, points, problems)
    plugins = _configure(deployment, classes, problems)
    order = boot_order(classes, tuple(provided_by_core), problems)
    collector = Collector()
    has_vault = any(KeyVault in plugin.provides for plugin in classes.values())
    registered: dict[str, AnyPlugin] = {"operations": Operations(Operations.Config(), has_vault=has_vault)}
    registered |= {name: plugins[name] for name in order if name in plugins}
    for name, plugin in registered.items():
        collector.register(name, plugin, problems)
    return EnabledPlugins(deployment, classes, registered, collector, services)


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
