"""The core's database, for plugins that own tables. Entries are not written here: see ``entry_store``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import Field

from precipiq_contracts.chain import Chain
from precipiq_contracts.settings import Settings

Scalar: TypeAlias = str | int | float | bytes | None
Row: TypeAlias = Mapping[str, Scalar]
ColumnType: TypeAlias = Literal["TEXT", "BIGINT"]


class DatabaseSettings(Settings):
    """``[database]`` as every database has it. A plugin that provides ``Database`` derives its ``Config`` from it."""

    url: str = Field(description="where the database is; its scheme says which plugin keeps it")
    migrate_at_start: bool = Field(False, description="bring the schema up to date when the server starts")
    reader_queue_max: int = Field(10_000, ge=1, description="reads that wait; more are told to try again")
    writer_queue_max: int = Field(10_000, ge=1, description="writes that wait; more are told to try again")
    group_rows_max: int = Field(1_000, ge=1, description="rows that one transaction takes in, at least one write")


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with ``:name`` parameters, portable between the supported databases.

    A colon before a name is always a parameter, in a text literal too. PostgreSQL needs values of its columns' types.
    """

    sql: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Migration:
    """A plugin's schema: an Alembic branch.

    ``branch``: label, the plugin's name. ``location``: folder of revision files. ``tenant_tables``: table -> the
    columns that hold its organisation and, where it has one, its environment; a table that is not named here cannot
    be read through a tenant's connection at all. ``driver_tables``: the tables among them that only an entry
    store driver may write, and :meth:`Database.transaction` may not.

    A revision's file may set ``phase = "post"``: it is then applied when no server of the previous version runs any
    more. All other revisions must leave that version able to read and write. On PostgreSQL a revision runs in schema
    ``precipiq`` as the schema's owner; the driver sets the rights and row-level security of its tables.
    """

    branch: str
    location: Path
    tenant_tables: Mapping[str, tuple[str, str | None]]
    driver_tables: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The branch."""
        return self.branch


class Database(Protocol):
    """Capability: tables beside the chain. Raises ``Unavailable`` when the database cannot answer."""

    def select_rows(self, columns: Sequence[tuple[str, ColumnType]], parameter: str) -> str:
        """SQL that selects the rows which that parameter holds as one JSON text, an array of arrays.

        One column for each name; for INSERT, and for IN.
        """
        ...

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Read as the deployment: sees every organisation. For authentication and the operator's commands only."""
        ...

    async def fetch_as(self, chain: Chain, statement: Statement) -> Sequence[Row]:
        """Read as that tenant: the database itself hides every other organisation and environment."""
        ...

    async def transaction(self, statements: Sequence[Statement]) -> Sequence[Sequence[Row]]:
        """Execute all or none, durable on return; gives the rows of each statement (``RETURNING``).

        Each statement sees the data committed before it began: writers that must not intervene between two statements
        first update a common row. Raises ``Conflict`` when a constraint is violated, and ``Unavailable``, whose
        message says when the outcome is unknown.
        """
        ...

    async def ping(self) -> None:
        """Raises ``Unavailable`` when the database cannot serve."""
        ...


@runtime_checkable
class MigratedDatabase(Protocol):
    """The method that a ``Database`` with a migrated schema has besides, for ``precipiq migrate``."""

    def migrate(self, migrations: Sequence[Migration], *, post: bool = False) -> list[str]:
        """Bring the schema up to date, under a lock; the revisions applied.

        ``post``: also the revisions that servers of the previous version cannot work with; none of those may still run.
        """
        ...


@runtime_checkable
class ClockedDatabase(Protocol):
    """A ``Database`` on a machine with a clock of its own: its time, in microseconds since the epoch."""

    async def now_us(self) -> int: ...
