"""Reading as one tenant on SQLite: temporary views show one chain's rows, and an authorizer refuses everything else.

The connection's own database is empty and in memory. The file is attached under a random name, and is read by
views with random names alone: the authorizer gets the name of the view that reads, and a CTE could take a known name.
The views ask SQL functions for the tenant when they run, so one connection, with its prepared statements, serves all
tenants in turn.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Row, Statement
from precipiq_contracts.errors import DeploymentError, InternalError
from precipiq_core.system import SystemRandomness
from precipiq_sqlite.connection import STATEMENTS_CACHED_COUNT, primary_code, read_only_uri, rows_of

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
"""The functions that a tenant's statement may call. None reads a file, changes the connection or makes large values."""

_READS = re.compile(r"\s*(?:SELECT|WITH|VALUES)\b", re.IGNORECASE)
_ORG_FUNCTION = "precipiq_tenant_org_id"
_ENVIRONMENT_FUNCTION = "precipiq_tenant_environment"
_COLUMN_KINDS_SHOWN = (0, 2, 3)  # ordinary, virtual and stored; not the hidden ones of virtual tables


class TenantConnection:
    """A connection that sees one chain at a time. Not for two threads at once."""

    def __init__(self, path: Path, tables: TenantTables, busy_timeout_s: float) -> None:
        self._chain: Chain | None = None
        self._tables = frozenset(tables)
        secret = SystemRandomness().bytes(16).hex()
        self._schema = f"file_{secret}"
        self._filters = {f"{table}_{secret}": table for table in tables}
        self._connection = sqlite3.connect(
            ":memory:",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED_COUNT,
        )
        try:
            self._prepare(path, tables, secret)
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

    def fetch(self, chain: Chain, statement: Statement) -> list[Row]:
        """The rows of a plugin's statement, which begins with SELECT, WITH or VALUES (EXPLAIN would show the names)."""
        if _READS.match(statement.sql) is None:
            raise InternalError("a tenant's statement must begin with SELECT, WITH or VALUES")
        try:
            return self.run(
                chain, lambda connection: rows_of(connection.execute(statement.sql, dict(statement.parameters)))
            )
        except sqlite3.DatabaseError as error:
            if primary_code(error) != sqlite3.SQLITE_AUTH:
                raise
            reason = str(error).replace(f"{self._schema}.", "")
            raise InternalError(f"a tenant's statement may read the tenant's tables alone: {reason}") from None

    def interrupt(self) -> None:
        """End the running statement, from any thread."""
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def _prepare(self, path: Path, tables: TenantTables, secret: str) -> None:
        connection = self._connection
        connection.execute(f"ATTACH ? AS {self._schema}", (read_only_uri(path),))
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.create_function(_ORG_FUNCTION, 0, self._org_id)
        connection.create_function(_ENVIRONMENT_FUNCTION, 0, self._environment)
        for table, (org_column, environment_column) in tables.items():
            name = f"{table}_{secret}"
            connection.execute(self._filter(name, table, org_column, environment_column))
            connection.execute(f"CREATE TEMP VIEW {_quote(table)} AS SELECT * FROM temp.{_quote(name)}")  # noqa: S608
        for function in TABLE_FUNCTIONS:  # SQLite makes their tables at the first use, and asks the authorizer
            connection.execute(f"SELECT 1 FROM {function}('[]')").fetchall()  # noqa: S608
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(self._authorize)

    def _filter(self, name: str, table: str, org_column: str, environment_column: str | None) -> str:
        described = self._connection.execute(f"PRAGMA {self._schema}.table_xinfo({_quote(table)})").fetchall()
        columns = [name for _, name, _, _, _, _, kind in described if kind in _COLUMN_KINDS_SHOWN]
        missing = {org_column, environment_column or org_column} - set(columns)
        if missing:
            raise DeploymentError(
                [f"table {table} must show its tenant but has no column {', '.join(sorted(missing))}"]
            )
        # A scalar subquery is evaluated once per statement; a bare function would be called for each row.
        condition = f"{_quote(org_column)} = (SELECT {_ORG_FUNCTION}())"
        if environment_column is not None:
            condition += f" AND {_quote(environment_column)} = (SELECT {_ENVIRONMENT_FUNCTION}())"
        shown = ", ".join(map(_quote, columns))
        return (
            f"CREATE TEMP VIEW {_quote(name)} AS "  # noqa: S608  (names from the migrations, quoted)
            f"SELECT {shown} FROM {self._schema}.{_quote(table)} WHERE {condition}"
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
                source in self._filters and second in (_ORG_FUNCTION, _ENVIRONMENT_FUNCTION)
            )
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and self._is_read_allowed(first, second, schema, source):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _is_read_allowed(self, table: str | None, column: str | None, schema: str | None, source: str | None) -> bool:
        if schema == self._schema:  # only the views can name the file; no column: count(*) through a view
            return table in self._tables and (self._filters.get(source or "") == table or column == "")
        if table in self._tables or table in self._filters:
            # The views themselves, or (no schema, no column) a statement that names a view but takes no value from it,
            # such as count(*): an unqualified name is looked up among the temporary views first.
            return schema == "temp" or (schema is None and column == "")
        return table in TABLE_FUNCTIONS and schema in ("main", None)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
