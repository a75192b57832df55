"""The revisions of a branch, as far as its files state them by literals. Nothing is imported or executed."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

_NOT_STATED = object()


def stated_heads(location: Path) -> frozenset[str] | None:
    """The newest revisions in that folder; None where only Alembic can find them.

    That is so when a file names its revisions other than by literals, when one depends on another branch, when two have
    the same name, or one follows a revision that is not there.
    """
    followed: dict[str, tuple[str, ...]] = {}
    for path in location.glob("*.py"):
        if path.name.startswith((".#", "__init__")):  # Alembic passes over them too
            continue
        names = _read_assignments(path)
        revision, before = names.get("revision", _NOT_STATED), names.get("down_revision", _NOT_STATED)
        if before is None:
            before = ()
        elif isinstance(before, str):
            before = (before,)
        if (
            not isinstance(revision, str)
            or revision in followed
            or not isinstance(before, tuple)
            or names.get("depends_on") is not None
        ):
            return None
        followed[revision] = before
    older = {revision for before in followed.values() for revision in before}
    return frozenset(followed) - older if older <= followed.keys() else None


def _read_assignments(path: Path) -> Mapping[str, object]:
    """The module's names that are bound once, with the literals that they are bound to."""
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    bound: Counter[str] = Counter()
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] += 1
        elif isinstance(node, ast.alias):
            bound[node.asname or node.name] += 1
    values: dict[str, object] = {}
    for statement in module.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(statement, ast.Assign | ast.AnnAssign):
                values[target.id] = _literal(statement.value) if bound[target.id] == 1 else _NOT_STATED
    return {} if bound["*"] else values


def _literal(node: ast.expr | None) -> object:
    try:
        return _NOT_STATED if node is None else ast.literal_eval(node)
    except ValueError:
        return _NOT_STATED
