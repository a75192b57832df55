"""The deployment: one TOML file, overridden by environment variables by one rule, checked strictly.

    PRECIPIQ__<SECTION>__<KEY>=value      PRECIPIQ__PLUGINS__LEDGER__DRIVER=sqlite

Two underscores for each dot of the path; the value is read as TOML, and as a string where it is no TOML.
``PRECIPIQ_DATA_DIR`` moves ``deployment.data_dir``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.settings import SecretReference, Settings
from precipiq_core.deployment_file import read_document
from precipiq_core.http.settings import HttpSettings
from precipiq_core.settings import parse_settings, suggest
from precipiq_logs.settings import LogSettings

ENV_PREFIX = "PRECIPIQ__"
DATA_DIR_VARIABLE = "PRECIPIQ_DATA_DIR"

_HOME = re.compile(r"(?:^|(?<=^sqlite:///))~(?:$|[^/]*(?=/))")
_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_]*")


class DeploymentSettings(Settings):
    """``[deployment]``: the deployment as a whole."""

    name: str = Field(min_length=1, max_length=100, description="shown to operators")
    data_dir: Path = Field(Path("data"), description="folder for what the deployment stores; relative to this file")
    public_url: str | None = Field(None, description="how clients reach the server, when not at its bind address")


class SecretSettings(Settings):
    """``[secrets]``: the one secret that all others are derived from."""

    master_key: SecretReference | None = Field(None, description="at least 32 characters; where it lies")
    create_master_key: bool = Field(False, description="make the key file at the first start when it is absent")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment file, read and checked, except for the plugins' own tables, which boot checks.

    ``server``, ``database``: the tables of the plugins that provide them. ``plugins``: tables by name, and False for
    a disabled plugin. ``problems``: the faults so far; boot raises them together with those that it finds itself.
    """

    path: Path
    name: str
    data_dir: Path
    public_url: str | None
    server: Mapping[str, Any]
    logs: LogSettings
    http: HttpSettings
    database: Mapping[str, Any] | None
    secrets: SecretSettings
    plugins: Mapping[str, Any]
    problems: tuple[str, ...] = ()


_SECTIONS = ("deployment", "server", "logs", "http", "database", "secrets", "plugins")


def load_deployment(path: Path, environ: Mapping[str, str]) -> Deployment:
    """Read, override and check a deployment file; its ``problems`` are boot's to refuse.

    Raises ``DeploymentError`` when it cannot be read or is not TOML.
    """
    path = path.resolve()
    return parse_deployment(read_document(path), path, environ)


def parse_deployment(document: dict[str, Any], path: Path, environ: Mapping[str, str]) -> Deployment:
    """As :func:`load_deployment`, from a parsed document."""
    problems: list[str] = []
    _override(document, environ, problems)
    try:
        document, data_dir_variable = _expand(document), _expand(environ.get(DATA_DIR_VARIABLE))
    except RuntimeError as error:
        raise DeploymentError([f"{path}: a path that begins with ~ cannot be told: {error}"]) from error
    for name, table in document.items():
        if name not in _SECTIONS:
            problems.append(f"[{name}]: unknown section{suggest(name, _SECTIONS)}")
        elif not isinstance(table, dict):
            problems.append(f"{name}: must be a table, [{name}]")
    tables = {name: table for name, table in document.items() if isinstance(table, dict)}
    data_dir = path.parent

    def section(model: type[Any], name: str) -> Any:  # each section has a model of its own
        if name in document and name not in tables:
            return None
        return parse_settings(model, tables.get(name, {}), where=name, base_dir=data_dir, problems=problems)

    settings = section(DeploymentSettings, "deployment")
    if settings is not None:
        data_dir = _find_data_dir(Path(data_dir_variable or path.parent / settings.data_dir), problems)
    logs = section(LogSettings, "logs")
    http = section(HttpSettings, "http")
    secrets = section(SecretSettings, "secrets")
    plugins = _plugin_tables(tables.get("plugins", {}), problems)
    return Deployment(
        path,
        "" if settings is None else settings.name,
        data_dir,
        None if settings is None else settings.public_url,
        tables.get("server", {}),
        logs or LogSettings(),
        http or HttpSettings(),
        tables.get("database"),
        secrets or SecretSettings(),
        plugins,
        tuple(f"{path}: {problem}" for problem in problems),
    )


def _find_data_dir(path: Path, problems: list[str]) -> Path:
    try:
        path = path.resolve()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a start makes the folder, or says why it cannot
    except (OSError, ValueError) as error:
        problems.append(f"deployment.data_dir: cannot be a folder: {getattr(error, 'strerror', None) or error}")
        return Path.cwd()
    return path


def _plugin_tables(tables: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    for name, table in tables.items():
        if not _PLUGIN_NAME.fullmatch(name):
            problems.append(f"plugins.{name}: a plugin's name is lower-case letters, digits and underscores")
        if not isinstance(table, dict) and table is not False:
            problems.append(f"plugins.{name}: must be a table, [plugins.{name}]")
    return {name: table for name, table in tables.items() if isinstance(table, dict) or table is False}


def _override(document: dict[str, Any], environ: Mapping[str, str], problems: list[str]) -> None:
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if len(path) < 2 or not all(path):
            problems.append(f"environment variable {variable}: expected {ENV_PREFIX}SECTION__KEY")
            continue
        enabled = document.get("plugins", {})
        if path[0] == "plugins" and isinstance(enabled, dict) and path[1] not in enabled:
            problems.append(f"environment variable {variable}: this deployment does not enable plugin {path[1]}")
            continue
        table = document
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                problems.append(f"environment variable {variable}: {part} is not a table")
                break
            table = inner
        else:
            table[path[-1]] = _toml_value(environ[variable])


def _expand(value: Any) -> Any:
    """The value, in which a path that begins with ``~`` or ``~name`` begins with that user's folder instead."""
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return _HOME.sub(lambda found: str(Path(found[0]).expanduser()), value) if isinstance(value, str) else value


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
