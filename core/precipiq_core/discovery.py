"""Finds the plugins that a deployment enables among the installed ones, and no others: installed is not enabled.

Some plugins are enabled without a table: the server, the database plugin for the scheme of the deployment's URL,
``operations``, and ``address_limits`` when another plugin needs its capability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from pydantic import BaseModel

from precipiq_contracts.database import Database
from precipiq_contracts.errors import DeploymentError
from precipiq_core.plugin import API_VERSION, AnyPlugin, PluginBase
from precipiq_core.settings import suggest

PLUGINS = "precipiq"
"""Entry point group of all plugins: the plugin's name -> its class."""
SERVERS = "precipiq.servers"
"""Of the plugins that provide ``Server``: the plugin's name -> its class."""
DATABASES = "precipiq.databases"
"""Of the plugins that provide ``Database``: the URL's scheme, or ``default`` without a URL -> its class."""

DEFAULT_DATABASE = "default"


def installed_plugins(group: str = PLUGINS) -> tuple[EntryPoint, ...]:
    """The entry points of all installed plugins, by name."""
    return tuple(sorted(entry_points(group=group), key=lambda point: point.name))


class Installed:
    """The entry points that an application may load from."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        if points is None:
            points = [point for group in (PLUGINS, SERVERS, DATABASES) for point in installed_plugins(group)]
        self._points: dict[str, dict[str, list[EntryPoint]]] = {PLUGINS: {}, SERVERS: {}, DATABASES: {}}
        for point in points:
            self._points[point.group].setdefault(point.name, []).append(point)

    def names(self, group: str) -> list[str]:
        """The names in that group, sorted."""
        return sorted(self._points[group])

    def load(self, name: str, where: str, problems: list[str], group: str = PLUGINS) -> type[AnyPlugin] | None:
        """That plugin's class; else adds a sentence that begins with ``where``, and gives None."""
        points = self._points[group].get(name, [])
        if not points:
            problems.append(f"{where}: no installed plugin has that name{suggest(name, self._points[group])}")
        elif len({point.value for point in points}) > 1:
            owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
            problems.append(f"{where}: installed twice, by {owners}")
        else:
            try:
                return _check(where, points[0].load(), name if group == PLUGINS else None)
            except DeploymentError as error:
                problems.extend(error.problems)
            except Exception as error:  # noqa: BLE001  (a plugin's import may fail in any way)
                problems.append(f"{where}: cannot be imported: {type(error).__name__}: {error}")
        return None

    def advise(self, capability: type) -> str:
        """Which table enables that capability, as the end of a sentence. Imports all plugins that can be imported."""
        if capability is Database:
            return "; write [database]"
        plugins = ((name, self.load(name, name, [])) for name in self.names(PLUGINS))
        tables = [f"[plugins.{name}]" for name, plugin in plugins if plugin and capability in plugin.provides]
        return f"; enable {' or '.join(tables)}" if tables else ""

    def load_all(self, names: Iterable[str], problems: list[str]) -> Mapping[str, type[AnyPlugin]]:
        """Name -> class for the plugins that ``[plugins]`` names; imports only those."""
        found = {name: self.load(name, f"plugins.{name}", problems) for name in names}
        return {name: plugin for name, plugin in found.items() if plugin is not None}


def _check(where: str, candidate: object, name: str | None) -> type[AnyPlugin]:
    if not (isinstance(candidate, type) and issubclass(candidate, PluginBase)):
        raise DeploymentError([f"{where}: {candidate!r} is not a subclass of PluginBase"])
    if name is not None and getattr(candidate, "name", None) != name:
        raise DeploymentError([f"{where}: the class calls itself {getattr(candidate, 'name', None)!r}"])
    if candidate.api != API_VERSION:
        advice = "upgrade precipiq-core" if candidate.api > API_VERSION else "upgrade the plugin"
        raise DeploymentError(
            [f"{where}: written for plugin interface {candidate.api}, this core has {API_VERSION}: {advice}"]
        )
    for attribute in ("provides", "requires", "optional", "owns"):
        value = getattr(candidate, attribute)
        if not isinstance(value, tuple) or not all(isinstance(each, type) for each in value):
            raise DeploymentError([f"{where}: {attribute} must be a tuple of classes"])
    if not (isinstance(candidate.Config, type) and issubclass(candidate.Config, BaseModel)):
        raise DeploymentError([f"{where}: Config must be a pydantic model"])
    return candidate
