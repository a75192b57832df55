"""What a hook gave, in words: for the reports of ``precipiq check`` and ``precipiq plugins --trace``."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_contracts.database import Migration
from precipiq_core.collect import HookCall


def names_of(call: HookCall) -> list[str]:
    """A name for each contribution; nothing for a hook that gives none."""
    if not isinstance(call.result, Sequence):
        return []
    return [_name(value) for value in call.result]


def _name(value: object) -> str:
    """``GET /path``, ``Mount /path``, a table's or middleware's place, a name, or the name of its class."""
    path = getattr(value, "path", None)
    if isinstance(path, str):
        kind = type(value).__name__
        return f"{getattr(value, 'method', 'WS' if kind == 'WebSocketEndpoint' else kind)} {path}"
    if isinstance(value, Migration):
        return ", ".join(value.tenant_tables)
    for attribute in ("layer", "name"):
        name = getattr(value, attribute, None)
        if isinstance(name, str):
            return name
    return value if isinstance(value, str) else type(value).__name__
