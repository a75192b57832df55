"""The tables of the sums: a batch's changes and the cursor are one transaction, applied once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_outcomes import link_rows
from precipiq_outcomes.changes_sql import MONEY, ChangesSql
from precipiq_outcomes.fold import Changes, Money, MoneyKey
from precipiq_outcomes.json_rows import rows_as_json, texts_in
from precipiq_outcomes.links import Link
from precipiq_outcomes.off_loop import off_loop

LINKS_CURSOR, ASIDE_CURSOR = "links", "aside"

TABLES = (
    "outcome_groups",
    "outcome_decisions",
    "outcome_decision_spans",
    "outcome_agent_days",
    "outcome_links",
    "outcome_money",
    "outcome_losses",
    "outcome_estimates",
)
"""The tables that a rebuild makes equal. ``outcome_stale`` holds marks for the estimator, and differs."""

_CHAIN = "org_id = :org_id AND environment = :environment"
_MAKE_CURSOR = (
    "INSERT INTO outcome_cursors (org_id, environment, name, seq) VALUES (:org_id, :environment, :name, 0) "
    "ON CONFLICT DO NOTHING"
)
# The column refuses NULL: a cursor that has moved undoes the whole transaction.
_MOVE_CURSOR = f"""
UPDATE outcome_cursors SET seq = CASE WHEN seq = :old THEN CAST(:new AS BIGINT) ELSE NULL END
WHERE {_CHAIN} AND name = :name
"""  # noqa: S608


class ProjectionStore:
    """The sums of all chains."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writes = ChangesSql(database)

    async def cursor(self, chain: Chain, name: str) -> int:
        """The seq up to which that cursor has taken in the chain."""
        sql = "SELECT seq FROM outcome_cursors WHERE name = :name"
        rows = await self._database.fetch_as(chain, Statement(sql, {"name": name}))
        return cast("int", rows[0]["seq"]) if rows else 0

    async def move_cursor(self, chain: Chain, name: str, old: int, new: int) -> None:
        """Move the cursor. Raises ``Conflict`` when it is not at ``old``: another process was faster."""
        await self._database.transaction(self._cursor_move(chain, name, old, new))

    async def chains_behind(self, name: str, limit: int) -> list[Chain]:
        """Chains whose cursor of that name is behind that of the links."""
        sql = (
            "SELECT links.org_id, links.environment "  # noqa: S608
            "FROM outcome_cursors AS links LEFT JOIN outcome_cursors AS other "
            "ON other.org_id = links.org_id AND other.environment = links.environment AND other.name = :name "
            f"WHERE links.name = '{LINKS_CURSOR}' AND COALESCE(other.seq, 0) < links.seq LIMIT :limit"
        )
        return [chain_in(row) for row in await self._database.fetch(Statement(sql, {"name": name, "limit": limit}))]

    async def links_of(
        self, chain: Chain, link_ids: Iterable[str], decision_ids: Iterable[str], event_ids: Iterable[str]
    ) -> list[Link]:
        """Every link with one of these ids, of one of these decisions, or of one of these events."""
        values: dict[str, Scalar] = {
            name: rows_as_json([text] for text in texts)
            for name, texts in (("links", link_ids), ("decisions", decision_ids), ("events", event_ids))
        }
        parts = [
            f"SELECT {link_rows.NAMES} FROM outcome_links WHERE {column} IN {texts_in(self._database, name)}"  # noqa: S608
            for column, name in (("link_id", "links"), ("decision_id", "decisions"), ("event_id", "events"))
            if values[name] != "[]"
        ]
        if not parts:
            return []
        rows = await self._database.fetch_as(chain, Statement(" UNION ".join(parts), values))
        return [link_rows.link_in(row) for row in rows]

    async def money_at(self, chain: Chain, keys: Iterable[MoneyKey]) -> dict[MoneyKey, Money]:
        """The sums at these keys, as far as there are any."""
        columns = MONEY[:5]
        names = ", ".join(name for name, _ in columns)
        sql = (
            f"SELECT {names}, amount, events, links FROM outcome_money "  # noqa: S608
            f"WHERE ({names}) IN ({self._database.select_rows(columns, 'rows')})"
        )
        rows = await self._database.fetch_as(chain, Statement(sql, {"rows": rows_as_json(keys)}))
        return {
            MoneyKey(*(row[name] for name, _ in columns)): Money(  # type: ignore[arg-type]
                int(str(row["amount"])), cast("int", row["events"]), cast("int", row["links"])
            )
            for row in rows
        }

    async def apply(
        self,
        chain: Chain,
        old: int,
        new: int,
        changes: Changes,
        money: Mapping[MoneyKey, Money],
        cursor: str = LINKS_CURSOR,
    ) -> None:
        """Store a batch: entries after ``old`` up to ``new``. ``money``: the new sums.

        Raises ``Conflict`` when the cursor is not at ``old`` any more; then nothing was stored.
        """
        stored = await off_loop(
            len(changes.decisions) + len(changes.links), partial(self._writes.statements, chain, changes, money)
        )
        statements = [*self._cursor_move(chain, cursor, old, new), *stored]
        await self._database.transaction(statements)

    async def forget(self, chain: Chain) -> None:
        """Empty the chain's tables, so that the projection takes in the whole chain anew."""
        values = chain_values(chain)
        tables = (*TABLES, "outcome_stale")
        empty = [Statement(f"DELETE FROM {table} WHERE {_CHAIN}", values) for table in tables]  # noqa: S608
        reset = f"UPDATE outcome_cursors SET seq = 0 WHERE {_CHAIN} AND name = '{LINKS_CURSOR}'"  # noqa: S608
        await self._database.transaction([Statement(reset, values), *empty])

    async def snapshot(self, chain: Chain, cursor: str) -> tuple[int, Mapping[str, Sequence[tuple[Scalar, ...]]]]:
        """How far the sums of a chain are, and all their rows as they stood then, without the chain's name."""
        values: dict[str, Scalar] = {**chain_values(chain), "name": cursor}
        # The row of the cursor is written, so that whoever takes entries in waits until all rows are read.
        hold = Statement(f"UPDATE outcome_cursors SET seq = seq WHERE {_CHAIN} AND name = :name", values)  # noqa: S608
        seq = Statement(f"SELECT seq FROM outcome_cursors WHERE {_CHAIN} AND name = :name", values)  # noqa: S608
        tables = [Statement(f"SELECT * FROM {table} WHERE {_CHAIN}", chain_values(chain)) for table in TABLES]  # noqa: S608
        _, seqs, *found = await self._database.transaction([hold, seq, *tables])
        rows = {table: sorted(map(_unnamed, each), key=repr) for table, each in zip(TABLES, found, strict=True)}
        return (cast("int", seqs[0]["seq"]) if seqs else 0), rows

    async def forget_aside(self, chain: Chain) -> None:
        """As :meth:`forget`, for what was rebuilt beside a chain's sums: its cursor, too."""
        await self.forget(chain)
        sql = f"DELETE FROM outcome_cursors WHERE {_CHAIN} AND name = '{ASIDE_CURSOR}'"  # noqa: S608
        await self._database.transaction([Statement(sql, chain_values(chain))])

    async def dump(self, chain: Chain) -> dict[str, list[tuple[Scalar, ...]]]:
        """All rows of the chain's tables, in one order, to compare kept and rebuilt sums."""
        found = {}
        for table in TABLES:
            rows = await self._database.fetch_as(chain, Statement(f"SELECT * FROM {table}"))  # noqa: S608
            found[table] = sorted((tuple(row[name] for name in sorted(row)) for row in rows), key=repr)
        return found

    def _cursor_move(self, chain: Chain, name: str, old: int, new: int) -> list[Statement]:
        values: dict[str, Scalar] = {**chain_values(chain), "name": name}
        return [Statement(_MAKE_CURSOR, values), Statement(_MOVE_CURSOR, {**values, "old": old, "new": new})]


def _unnamed(row: Row) -> tuple[Scalar, ...]:
    """A row without the chain that it belongs to."""
    return tuple(row[name] for name in sorted(row) if name not in ("org_id", "environment"))
