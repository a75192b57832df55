"""The plugins that a deployment enables, and their settings: the named ones, and those that need no name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from precipiq_contracts.database import Database
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.server import Server, ServerSettings
from precipiq_core.deployment import Deployment
from precipiq_core.deployment_file import BY_THEMSELVES
from precipiq_core.discovery import DATABASES, DEFAULT_DATABASE, PLUGINS, SERVERS, Installed
from precipiq_core.plugin import AnyPlugin
from precipiq_core.settings import parse_settings


class UnknownServer(ServerSettings):
    """``[server]`` where no installed plugin serves: only the settings that core reads are checked."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass
class Enabled:
    """Classes and settings by plugin's name; only settings that could be parsed."""

    classes: dict[str, type[AnyPlugin]] = field(default_factory=dict)
    settings: dict[str, BaseModel] = field(default_factory=dict)
    server: ServerSettings = field(default_factory=ServerSettings)


def enable(deployment: Deployment, installed: Installed, problems: list[str]) -> Enabled:
    """Load the classes and check their settings. Adds a sentence for each fault."""
    named = {name: table for name, table in deployment.plugins.items() if table is not False}
    explicit = installed.load_all(named, problems)
    enabled = Enabled()
    tables: dict[str, tuple[str, Mapping[str, Any]]] = {name: (f"plugins.{name}", named[name]) for name in explicit}

    server = _provider_of(Server, explicit) or _only_server(deployment, installed, problems)
    if server is not None:
        enabled.classes[server.name] = server
        _refuse_own_table("server", server, named, problems)
        tables[server.name] = ("server", deployment.server)
    if deployment.database is not None:
        database = _provider_of(Database, explicit) or _database_of(deployment.database, installed, problems)
        if database is not None:
            enabled.classes[database.name] = database
            if deployment.plugins.get(database.name) is False:
                problems.append(f"plugins.{database.name}: is switched off, but [database] names it")
            _refuse_own_table("database", database, named, problems)
            known = _settings_of_others(deployment.database, database, installed)
            table = {key: value for key, value in deployment.database.items() if key not in known}
            tables[database.name] = ("database", table)
    for name in BY_THEMSELVES:
        if name not in deployment.plugins and name in installed.names(PLUGINS):
            others = [*enabled.classes.values(), *explicit.values()]
            found = installed.load_all([name], problems)
            enabled.classes |= {name: plugin for name, plugin in found.items() if _is_needed(plugin, others)}
            tables[name] = (f"plugins.{name}", {})
    enabled.classes |= {name: plugin for name, plugin in explicit.items() if name not in enabled.classes}

    _parse_all(enabled, tables, deployment.data_dir, problems)
    settings = enabled.settings.get(server.name) if server is not None else None
    if server is None:
        base = deployment.data_dir
        settings = parse_settings(UnknownServer, deployment.server, where="server", base_dir=base, problems=problems)
    if isinstance(settings, ServerSettings):
        enabled.server = settings
    return enabled


def _provider_of(capability: type, classes: Mapping[str, type[AnyPlugin]]) -> type[AnyPlugin] | None:
    return next((plugin for plugin in classes.values() if capability in plugin.provides), None)


def _is_needed(plugin: type[AnyPlugin], others: Collection[type[AnyPlugin]]) -> bool:
    asked_for = {each for other in others for each in (*other.requires, *other.optional)}
    provided = {each for other in others for each in other.provides}
    return not plugin.provides or bool(asked_for.intersection(plugin.provides) - provided)


def _only_server(deployment: Deployment, installed: Installed, problems: list[str]) -> type[AnyPlugin] | None:
    names = [name for name in installed.names(SERVERS) if deployment.plugins.get(name) is not False]
    if len(names) > 1:
        problems.append(f"server: {' and '.join(names)} are installed; enable one: [plugins.{names[0]}]")
    return installed.load(names[0], "server", problems, SERVERS) if len(names) == 1 else None


def _database_of(table: Mapping[str, Any], installed: Installed, problems: list[str]) -> type[AnyPlugin] | None:
    url = table.get("url")
    if not isinstance(url, str):
        return installed.load(DEFAULT_DATABASE, "database", problems, DATABASES)
    scheme, colon, _ = url.partition(":")
    known = [name for name in installed.names(DATABASES) if name != DEFAULT_DATABASE]
    if not colon or scheme not in known:
        schemes = ", ".join(known) or "none is installed"
        problems.append(f"database.url: there is no database for the scheme {scheme!r} (known: {schemes})")
        return None
    return installed.load(scheme, "database.url", problems, DATABASES)


def _refuse_own_table(where: str, plugin: type[AnyPlugin], named: Mapping[str, Any], problems: list[str]) -> None:
    if named.get(plugin.name):
        problems.append(f"plugins.{plugin.name}: its settings stand in [{where}]")


def _settings_of_others(table: Mapping[str, Any], plugin: type[AnyPlugin], installed: Installed) -> set[str]:
    """Settings that another kind of database has: a deployment may keep them when its URL changes."""
    unknown = set(table) - set(plugin.Config.model_fields)
    if not unknown:
        return set()
    others = (installed.load(name, "database", [], DATABASES) for name in installed.names(DATABASES))
    return unknown & {key for other in others if other is not None for key in other.Config.model_fields}


def _parse_all(
    enabled: Enabled, tables: Mapping[str, tuple[str, Mapping[str, Any]]], base_dir: Path, problems: list[str]
) -> None:
    for name, plugin in enabled.classes.items():
        where, table = tables[name]
        try:
            settings = parse_settings(plugin.Config, table, where=where, base_dir=base_dir, problems=problems)
        except Exception as error:  # noqa: BLE001  (a plugin's own validators may fail in any way)
            problems.append(f"{where}: {type(error).__name__}: {error}")
            continue
        if settings is not None:
            enabled.settings[name] = settings


def make_plugins(enabled: Enabled, problems: list[str], *, edge: bool) -> dict[str, AnyPlugin]:
    """An instance of each plugin with valid settings. Adds their problems. ``edge``: see ``boot.assemble``."""
    made: dict[str, AnyPlugin] = {}
    for name, settings in enabled.settings.items():
        try:
            plugin = enabled.classes[name](settings)
            if edge:
                plugin.check_serving()
            made[name] = plugin
        except DeploymentError as error:
            problems.extend(error.problems)
        except Exception as error:  # noqa: BLE001  (a plugin's constructor may fail in any way)
            problems.append(f"plugins.{name}: {type(error).__name__}: {error}")
    return made
