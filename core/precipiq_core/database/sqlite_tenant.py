"""Reading as one tenant on SQLite: temporary views show one chain's rows, and an authorizer refuses everything else.

The connection's own database is empty and in memory. The file is attached under a random name that no statement can
guess, so every read of it comes through the views: a CTE that takes a view's name reaches nothing. The views ask SQL
functions for the tenant when they run, so one connection, with its prepared statements, serves all tenants in turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from precipiq_core.clock import SystemRandomness
from precipiq_core.contracts.chain import Chain
from precipiq_core.database.sqlite_connection import STATEMENTS_CACHED_COUNT, read_only_uri
from precipiq_core.errors import DeploymentError

T = TypeVar("T")

TenantTables = Mapping[str, tuple[str, str | None]]
"""Table -> the columns that hold its organisation and, where it has one, its environment."""

TABLE_FUNCTIONS = frozenset(("json_each", "json_tree"))
FUNCTIONS = frozenset(
    [
        "abs",
        "avg",
        "cast",
        "changes",
        "char",
        "coalesce",
        "count",
        "date",
        "datetime",
        "format",
        "glob",
        "group_concat",
        "hex",
        "iif",
        "ifnull",
        "instr",
        "json",
        "json_array",
        "json_array_length",
        "json_extract",
        "json_group_array",
        "json_group_object",
        "json_object",
        "json_quote",
        "json_type",
        "json_valid",
        "julianday",
        "length",
        "like",
        "lower",
        "ltrim",
        "max",
        "min",
        "nullif",
        "printf",
        "quote",
        "replace",
        "round",
        "rtrim",
        "sign",
        "strftime",
        "substr",
        "substring",
        "sum",
        "time",
        "total",
        "trim",
        "typeof",
        "unicode",
        "unixepoch",
        "upper",
        "->",
        "->>",
        "row_number",
        "rank",
        "dense_rank",
        "lag",
        "lead",
        "first_value",
        "last_value",
    ]
)
"""What a tenant's statement may call. None of these reads a file, changes the connection or makes large values."""

_ORG_FUNCTION = "precipiq_tenant_org_id"
_ENVIRONMENT_FUNCTION = "precipiq_tenant_environment"
_COLUMN_KINDS_SHOWN = (0, 2, 3)  # ordinary, virtual and stored; not the hidden ones of virtual tables


class TenantConnection:
    """A connection that sees one chain at a time. Not for two threads at once."""

    def __init__(self, path: Path, tables: TenantTables, busy_timeout_s: float) -> None:
        self._chain: Chain | None = None
        self._tables = frozenset(tables)
        self._schema = f"file_{SystemRandomness().bytes(16).hex()}"
        self._connection = sqlite3.connect(
            ":memory:",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED_COUNT,
        )
        try:
            self._prepare(path, tables)
        except BaseException:
            self._connection.close()
            raise

    def run(self, chain: Chain, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work`` with the connection while it shows ``chain``. No cursor may outlive the call."""
        self._chain = chain
        try:
            return work(self._connection)
        finally:
            self._chain = None

    def interrupt(self) -> None:
        """End what runs, from any thread."""
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def _prepare(self, path: Path, tables: TenantTables) -> None:
        connection = self._connection
        connection.execute(f"ATTACH ? AS {self._schema}", (read_only_uri(path),))
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.create_function(_ORG_FUNCTION, 0, self._org_id)
        connection.create_function(_ENVIRONMENT_FUNCTION, 0, self._environment)
        for table, (org_column, environment_column) in tables.items():
            connection.execute(self._view(table, org_column, environment_column))
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(self._authorize)

    def _view(self, table: str, org_column: str, environment_column: str | None) -> str:
        described = self._connection.execute(f"PRAGMA {self._schema}.table_xinfo({_quoted(table)})").fetchall()
        columns = [name for _, name, _, _, _, _, kind in described if kind in _COLUMN_KINDS_SHOWN]
        missing = {org_column, environment_column or org_column} - set(columns)
        if missing:
            raise DeploymentError(
                [f"table {table} must show its tenant but has no column {', '.join(sorted(missing))}"]
            )
        # A scalar subquery is evaluated once per statement; a bare function would be called for each row.
        condition = f"{_quoted(org_column)} = (SELECT {_ORG_FUNCTION}())"
        if environment_column is not None:
            condition += f" AND {_quoted(environment_column)} = (SELECT {_ENVIRONMENT_FUNCTION}())"
        shown = ", ".join(map(_quoted, columns))
        return (
            f"CREATE TEMP VIEW {_quoted(table)} AS "  # noqa: S608  (names from the migrations, quoted)
            f"SELECT {shown} FROM {self._schema}.{_quoted(table)} WHERE {condition}"
        )

    def _org_id(self) -> str | None:
        return None if self._chain is None else self._chain.org_id

    def _environment(self) -> str | None:
        return None if self._chain is None else self._chain.environment

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, source: str | None
    ) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and second is not None:
            allowed = second.lower() in FUNCTIONS or (
                source in self._tables and second in (_ORG_FUNCTION, _ENVIRONMENT_FUNCTION)
            )
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and self._is_read_allowed(first, second, schema, source):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _is_read_allowed(self, table: str | None, column: str | None, schema: str | None, source: str | None) -> bool:
        if table in self._tables:
            if schema == self._schema:  # nothing but our views can name it
                return source == table or column == ""
            # The view itself, or (no column, no schema) a statement that names it but reads nothing from it, such as
            # count(*): an unqualified name is looked up among the temporary views first.
            return schema == "temp" or (schema is None and column == "")
        return table in TABLE_FUNCTIONS and schema in ("main", None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
