"""How a database's tables are guarded: what a database says of its schema, and what changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class SchemaState:
    """``revisions``: those of the migrations that were applied.

    ``guards``: triggers, functions, policies, and whom tables obey: name -> definition. ``indexes``: likewise.
    """

    revisions: frozenset[str]
    guards: Mapping[str, str]
    indexes: Mapping[str, str]

    def drift(self, now: SchemaState) -> Iterator[str]:
        """The names of guards that differ since, and of indexes that were altered or removed (more hide nothing)."""
        for name in sorted(self.guards.keys() | now.guards.keys()):
            if self.guards.get(name) != now.guards.get(name):
                yield name
        for name, definition in sorted(self.indexes.items()):
            if now.indexes.get(name) != definition:
                yield name


@runtime_checkable
class GuardedDatabase(Protocol):
    """What a ``Database`` with a schema may have besides, so that the sweep notices who disarms it."""

    async def schema_state(self) -> SchemaState:
        """The schema as it is now. Raises ``Unavailable``."""
        ...


@runtime_checkable
class IndexedDatabase(Protocol):
    """What a ``Database`` may have besides, so that the sweep notices an index emptied behind its definition."""

    async def check_indexes(self, core_share: float) -> Sequence[str]:
        """What is wrong with indexes, or anything else, a sentence each; may take long, with that share of a core.

        Stops soon when it is cancelled. Raises ``Unavailable``.
        """
        ...
