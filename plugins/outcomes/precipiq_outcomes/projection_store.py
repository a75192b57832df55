"""The tables of the sums: a batch's changes and the cursor are one transaction, applied once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import ColumnType, Database, Row, Scalar, Statement
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_outcomes import link_rows
from precipiq_outcomes.fold import Changes, Money, MoneyKey
from precipiq_outcomes.json_rows import rows_as_json, texts_in
from precipiq_outcomes.links import Link

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
_MONEY: tuple[tuple[str, ColumnType], ...] = (
    ("span", "TEXT"),
    ("start_us", "BIGINT"),
    ("currency", "TEXT"),
    ("link_type", "TEXT"),
    ("agent_id", "TEXT"),
    ("amount", "TEXT"),
    ("events", "BIGINT"),
    ("links", "BIGINT"),
)
_GROUPS: tuple[tuple[str, ColumnType], ...] = (
    ("group_id", "TEXT"),
    ("agent_id", "TEXT"),
    ("action_type", "TEXT"),
    ("low_confidence", "BIGINT"),
    ("human_in_loop", "BIGINT"),
    ("decisions", "BIGINT"),
)
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
        columns = _MONEY[:5]
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
        statements = [
            *self._cursor_move(chain, cursor, old, new),
            *self._decisions(chain, changes),
            *self._links(chain, changes),
            *self._money(chain, money),
            *self._estimates(chain, changes),
        ]
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

    def _decisions(self, chain: Chain, changes: Changes) -> list[Statement]:
        if not changes.decisions:
            return []
        adding = "DO UPDATE SET decisions = {table}.decisions + excluded.decisions"
        groups = [
            (group.group_id, group.agent_id, group.action_type, int(group.low_confidence), int(group.human_in_loop), n)
            for group, n in changes.groups.items()
        ]
        spans = [(*key, count) for key, count in changes.decision_spans.items()]
        return [
            self._insert(
                chain, "outcome_decisions", (("decided_us", "BIGINT"), ("group_id", "TEXT")), changes.decisions
            ),
            self._insert(chain, "outcome_groups", _GROUPS, groups, "group_id", adding),
            self._insert(
                chain,
                "outcome_decision_spans",
                (("span", "TEXT"), ("start_us", "BIGINT"), ("group_id", "TEXT"), ("decisions", "BIGINT")),
                spans,
                "span, start_us, group_id",
                adding,
            ),
            self._insert(
                chain,
                "outcome_agent_days",
                (("agent_id", "TEXT"), ("start_us", "BIGINT"), ("decisions", "BIGINT")),
                [(*key, count) for key, count in changes.agent_days.items()],
                "agent_id, start_us",
                adding,
            ),
        ]

    def _links(self, chain: Chain, changes: Changes) -> list[Statement]:
        statements = []
        if changes.links:
            changing = ", ".join(f"{name} = excluded.{name}" for name in link_rows.CHANGING)
            rows = [link_rows.row_of(link) for link in changes.links.values()]
            statements.append(
                self._insert(chain, "outcome_links", link_rows.COLUMNS, rows, "link_id", f"DO UPDATE SET {changing}")
            )
        if changes.losses:
            statements.append(
                self._insert(
                    chain,
                    "outcome_losses",
                    (("agent_id", "TEXT"), ("action_type", "TEXT"), ("decisions", "BIGINT")),
                    [(*pair, count) for pair, count in changes.losses.items()],
                    "agent_id, action_type",
                    "DO UPDATE SET decisions = {table}.decisions + excluded.decisions",
                )
            )
        if changes.erased_links:
            erased = texts_in(self._database, "erased")
            sql = f"UPDATE outcome_links SET notes = NULL WHERE {_CHAIN} AND link_id IN {erased}"  # noqa: S608
            ids = rows_as_json([link_id] for link_id in changes.erased_links)
            statements.append(Statement(sql, {**chain_values(chain), "erased": ids}))
        return statements

    def _money(self, chain: Chain, money: Mapping[MoneyKey, Money]) -> list[Statement]:
        if not money:
            return []
        rows = [(*key, str(row.amount), row.events, row.links) for key, row in money.items()]
        replacing = "DO UPDATE SET amount = excluded.amount, events = excluded.events, links = excluded.links"
        key = "span, start_us, currency, link_type, agent_id"
        return [self._insert(chain, "outcome_money", _MONEY, rows, key, replacing)]

    def _estimates(self, chain: Chain, changes: Changes) -> list[Statement]:
        statements = []
        if changes.estimates:
            statements.append(
                self._insert(
                    chain,
                    "outcome_estimates",
                    (("decision_id", "TEXT"), ("exposure", "TEXT"), ("seq", "BIGINT"), ("entries", "BIGINT")),
                    [(key, str(exposure), seq, n) for key, (exposure, seq, n) in changes.estimates.items()],
                    "decision_id",
                    "DO UPDATE SET exposure = excluded.exposure, seq = excluded.seq, "
                    "entries = {table}.entries + excluded.entries",
                )
            )
        stale = [(decision_id, since) for decision_id, since in changes.stale.items() if since is not None]
        fresh = rows_as_json([decision_id] for decision_id, since in changes.stale.items() if since is None)
        if stale:
            statements.append(
                self._insert(
                    chain,
                    "outcome_stale",
                    (("decision_id", "TEXT"), ("since_us", "BIGINT")),
                    stale,
                    "decision_id",
                    "DO UPDATE SET since_us = excluded.since_us",
                )
            )
        if fresh != "[]":
            texts = texts_in(self._database, "fresh")
            sql = f"DELETE FROM outcome_stale WHERE {_CHAIN} AND decision_id IN {texts}"  # noqa: S608
            statements.append(Statement(sql, {**chain_values(chain), "fresh": fresh}))
        return statements

    def _insert(
        self,
        chain: Chain,
        table: str,
        columns: Sequence[tuple[str, ColumnType]],
        rows: Iterable[Sequence[Scalar]],
        key: str = "",
        on_conflict: str = "",
    ) -> Statement:
        names = ", ".join(name for name, _ in columns)
        conflict = ""
        if key:
            conflict = f"ON CONFLICT (org_id, environment, {key}) {on_conflict.format(table=table)}"
        sql = (
            f"INSERT INTO {table} (org_id, environment, {names}) SELECT :org_id, :environment, {names} "  # noqa: S608
            f"FROM ({self._database.select_rows(columns, 'rows')}) AS new WHERE TRUE {conflict}"
        )
        return Statement(sql, {**chain_values(chain), "rows": rows_as_json(rows)})


def _unnamed(row: Row) -> tuple[Scalar, ...]:
    """A row without the chain that it belongs to."""
    return tuple(row[name] for name in sorted(row) if name not in ("org_id", "environment"))
