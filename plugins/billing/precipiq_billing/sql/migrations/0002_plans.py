"""The subscriptions that say who has which plan, and how often they changed."""

from alembic import op

revision = "billing_0002"
down_revision = "billing_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE plan_subscriptions (
            subscription_id  TEXT PRIMARY KEY,
            org_id           TEXT NOT NULL,
            status           TEXT NOT NULL,
            price_ids        TEXT NOT NULL,
            period_start_s   BIGINT NOT NULL,
            period_end_s     BIGINT NOT NULL,
            event_created_s  BIGINT NOT NULL,
            event_rank       BIGINT NOT NULL,
            is_deleted       BIGINT NOT NULL,
            event_id         TEXT NOT NULL,
            version          TEXT NOT NULL,
            change           BIGINT NOT NULL
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX plan_subscriptions_change ON plan_subscriptions (change)")
    op.execute("CREATE TABLE plan_changes (id INTEGER PRIMARY KEY CHECK (id = 1), changes BIGINT NOT NULL)")
    op.execute("INSERT INTO plan_changes (id, changes) VALUES (1, 0)")


def downgrade() -> None:
    for table in ("plan_changes", "plan_subscriptions"):
        op.execute(f"DROP TABLE {table}")
