"""A batch's changes of the sums as SQL: one statement for each table, whatever the number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import ColumnType, Database, Scalar, Statement
from precipiq_core.chain_columns import chain_values
from precipiq_outcomes import link_rows
from precipiq_outcomes.fold import Changes, Money, MoneyKey
from precipiq_outcomes.json_rows import rows_as_json, texts_in

_CHAIN = "org_id = :org_id AND environment = :environment"
MONEY: tuple[tuple[str, ColumnType], ...] = (
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


class ChangesSql:
    """Makes the statements; executes none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def statements(self, chain: Chain, changes: Changes, money: Mapping[MoneyKey, Money]) -> list[Statement]:
        """What stores the changes. ``money``: the new sums. Takes a while for many: call it in a thread."""
        return [
            *self._decisions(chain, changes),
            *self._links(chain, changes),
            *self._money(chain, money),
            *self._estimates(chain, changes),
        ]

    def _decisions(self, chain: Chain, changes: Changes) -> list[Statement]:
        if not changes.decisions:
            return []
        adding = "DO UPDATE SET decisions = {table}.decisions + excluded.decisions"
        counts = changes.group_counts
        groups = [
            (group_id, agent_id, action_type, int(low_confidence), int(human_in_loop), counts[group_id])
            for group_id, (agent_id, action_type, low_confidence, human_in_loop) in changes.groups.items()
        ]
        spans = [(*key, count) for key, count in changes.decision_spans.items()]
        return [
            # Two decisions at one time, of which no server made one: the chain's other sums must go on.
            self._insert(
                chain,
                "outcome_decisions",
                (("decided_us", "BIGINT"), ("group_id", "TEXT")),
                changes.decisions,
                "decided_us",
                "DO NOTHING",
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
        return [self._insert(chain, "outcome_money", MONEY, rows, key, replacing)]

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
