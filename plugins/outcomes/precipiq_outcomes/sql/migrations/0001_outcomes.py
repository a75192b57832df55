"""What the chain's entries add up to: rebuilt from them at any time. Amounts are whole ten-thousandths, as text."""

from alembic import op

revision = "outcomes_0001"
down_revision = None
branch_labels = ("outcomes",)
depends_on = None

_CHAIN = "org_id TEXT NOT NULL, environment TEXT NOT NULL"
_KEY = "org_id, environment"

_TABLES = {
    "outcome_cursors": f"{_CHAIN}, name TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY ({_KEY}, name)",
    "outcome_groups": f"""
        {_CHAIN}, group_id TEXT NOT NULL, agent_id TEXT NOT NULL, action_type TEXT NOT NULL,
        low_confidence BIGINT NOT NULL, human_in_loop BIGINT NOT NULL, decisions BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, group_id)""",
    "outcome_decisions": f"""
        {_CHAIN}, decided_us BIGINT NOT NULL, group_id TEXT NOT NULL, PRIMARY KEY ({_KEY}, decided_us)""",
    "outcome_decision_spans": f"""
        {_CHAIN}, span TEXT NOT NULL, start_us BIGINT NOT NULL, group_id TEXT NOT NULL, decisions BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, span, start_us, group_id)""",
    "outcome_agent_days": f"""
        {_CHAIN}, agent_id TEXT NOT NULL, start_us BIGINT NOT NULL, decisions BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, agent_id, start_us)""",
    "outcome_links": f"""
        {_CHAIN}, link_id TEXT NOT NULL, seq BIGINT NOT NULL, decision_id TEXT NOT NULL, event_id TEXT NOT NULL,
        decided_us BIGINT NOT NULL, occurred_us BIGINT NOT NULL, agent_id TEXT NOT NULL, action_type TEXT NOT NULL,
        low_confidence BIGINT NOT NULL, human_in_loop BIGINT NOT NULL, amount TEXT NOT NULL, currency TEXT NOT NULL,
        link_type TEXT NOT NULL, strength TEXT NOT NULL, method TEXT NOT NULL, notes TEXT, score TEXT,
        request_key TEXT, status TEXT NOT NULL, created_us BIGINT NOT NULL, confirmed_us BIGINT, rejected_us BIGINT,
        deleted_us BIGINT, entries BIGINT NOT NULL, PRIMARY KEY ({_KEY}, link_id)""",
    "outcome_money": f"""
        {_CHAIN}, span TEXT NOT NULL, start_us BIGINT NOT NULL, currency TEXT NOT NULL, link_type TEXT NOT NULL,
        agent_id TEXT NOT NULL, amount TEXT NOT NULL, events BIGINT NOT NULL, links BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, span, start_us, currency, link_type, agent_id)""",
    "outcome_losses": f"""
        {_CHAIN}, agent_id TEXT NOT NULL, action_type TEXT NOT NULL, decisions BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, agent_id, action_type)""",
    "outcome_estimates": f"""
        {_CHAIN}, decision_id TEXT NOT NULL, exposure TEXT NOT NULL, seq BIGINT NOT NULL, entries BIGINT NOT NULL,
        PRIMARY KEY ({_KEY}, decision_id)""",
    "outcome_stale": f"""
        {_CHAIN}, decision_id TEXT NOT NULL, since_us BIGINT NOT NULL, PRIMARY KEY ({_KEY}, decision_id)""",
}
_INDEXES = {
    "outcome_links_decision": f"outcome_links ({_KEY}, decision_id)",
    "outcome_links_event": f"outcome_links ({_KEY}, event_id)",
    "outcome_links_seq": f"outcome_links ({_KEY}, seq)",
    "outcome_links_occurred": f"outcome_links ({_KEY}, occurred_us)",
    "outcome_stale_since": "outcome_stale (since_us)",
}


def upgrade() -> None:
    for table, columns in _TABLES.items():
        op.execute(f"CREATE TABLE {table} ({columns})")
    for index, columns in _INDEXES.items():
        op.execute(f"CREATE INDEX {index} ON {columns}")
    op.execute(
        f"CREATE INDEX outcome_links_request ON outcome_links ({_KEY}, request_key) WHERE request_key IS NOT NULL"
    )
    op.execute(
        f"CREATE INDEX outcome_links_answered ON outcome_links ({_KEY}, agent_id) "
        "WHERE confirmed_us IS NOT NULL OR rejected_us IS NOT NULL"
    )


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE {table}")
