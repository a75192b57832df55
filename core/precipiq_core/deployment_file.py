"""The deployment file as a document, before anything in it is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from precipiq_contracts.errors import DeploymentError

BY_THEMSELVES = ("operations", "address_limits")
"""Enabled unless ``[plugins]`` says ``operations = false``; a provider only if its capability is needed and missing."""


def read_document(path: Path) -> dict[str, Any]:
    """The parsed file. Raises ``DeploymentError`` when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeploymentError([f"deployment file {path} cannot be read: {reason}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise DeploymentError([f"deployment file {path} is not TOML: {error}"]) from error


def named_plugins(document: dict[str, Any]) -> Collection[str]:
    """The plugins that a document enables; variables cannot add any."""
    tables = document.get("plugins")
    return [name for name, table in tables.items() if table is not False] if isinstance(tables, dict) else ()


def unnamed_plugins(document: dict[str, Any]) -> Collection[str]:
    """The plugins of ``BY_THEMSELVES`` that a document does not mention."""
    tables = document.get("plugins")
    return [name for name in BY_THEMSELVES if not isinstance(tables, dict) or name not in tables]
