"""Finds the plugins that a deployment enables among the installed ones, and nothing else: installed is not enabled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.settings import suggest
from precipiq_core.plugin import API_VERSION, AnyPlugin, PluginBase

ENTRY_POINT_GROUP = "precipiq"


def installed_plugins() -> tuple[EntryPoint, ...]:
    """The entry points of all installed plugins, by name."""
    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name))


def load_plugins(
    enabled: Iterable[str], installed: Iterable[EntryPoint], problems: list[str]
) -> Mapping[str, type[AnyPlugin]]:
    """Name -> class for the enabled plugins; imports only those. Adds a sentence per problem."""
    by_name: dict[str, list[EntryPoint]] = {}
    for point in installed:
        by_name.setdefault(point.name, []).append(point)
    classes: dict[str, type[AnyPlugin]] = {}
    for name in enabled:
        points = by_name.get(name, [])
        if not points:
            problems.append(f"plugins.{name}: no installed plugin has that name{suggest(name, by_name)}")
        elif len({point.value for point in points}) > 1:
            owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
            problems.append(f"plugins.{name}: installed twice, by {owners}")
        else:
            try:
                classes[name] = _checked(name, points[0].load())
            except DeploymentError as error:
                problems.extend(error.problems)
            except Exception as error:  # noqa: BLE001  (a plugin's import may fail in any way)
                problems.append(f"plugins.{name}: cannot be imported: {type(error).__name__}: {error}")
    return classes


def _checked(name: str, candidate: object) -> type[AnyPlugin]:
    if not (isinstance(candidate, type) and issubclass(candidate, PluginBase)):
        raise DeploymentError([f"plugins.{name}: {candidate!r} is not a subclass of PluginBase"])
    if getattr(candidate, "name", None) != name:
        raise DeploymentError([f"plugins.{name}: the class calls itself {getattr(candidate, 'name', None)!r}"])
    if candidate.api != API_VERSION:
        advice = "upgrade precipiq-core" if candidate.api > API_VERSION else "upgrade the plugin"
        raise DeploymentError(
            [f"plugins.{name}: written for plugin interface {candidate.api}, this core has {API_VERSION}: {advice}"]
        )
    return candidate
