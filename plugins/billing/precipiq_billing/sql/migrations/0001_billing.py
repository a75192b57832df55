"""Stripe endpoints, what Stripe delivered, how much of each object is booked, and events that wait to be sealed."""

from alembic import op

revision = "billing_0001"
down_revision = None
branch_labels = ("billing",)
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE stripe_endpoints (
            endpoint_id          TEXT PRIMARY KEY,
            org_id               TEXT NOT NULL,
            environment          TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            description          TEXT,
            secret               TEXT,
            secret_hint          TEXT,
            previous_secret      TEXT,
            previous_expires_us  BIGINT,
            created_us           BIGINT NOT NULL,
            secret_set_us        BIGINT,
            idempotency_key      TEXT
        )
        """
    )
    op.execute("CREATE INDEX stripe_endpoints_chain ON stripe_endpoints (org_id, environment, created_us)")
    op.execute(
        "CREATE UNIQUE INDEX stripe_endpoints_idempotency ON stripe_endpoints (org_id, environment, idempotency_key)"
    )
    op.execute(
        """
        CREATE TABLE stripe_registers (
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL,
            register     TEXT NOT NULL,
            booked       BIGINT NOT NULL,
            PRIMARY KEY (org_id, environment, register)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE stripe_deliveries (
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL,
            event_id     TEXT NOT NULL,
            register     TEXT NOT NULL,
            total        BIGINT NOT NULL,
            difference   BIGINT NOT NULL,
            draft        TEXT,
            entry_id     TEXT,
            received_us  BIGINT NOT NULL,
            PRIMARY KEY (org_id, environment, event_id)
        )
        """
    )
    op.execute("CREATE INDEX stripe_deliveries_register ON stripe_deliveries (org_id, environment, register)")
    op.execute("CREATE INDEX stripe_deliveries_unsealed ON stripe_deliveries (received_us) WHERE draft IS NOT NULL")
    op.execute(
        """
        CREATE TABLE billing_events (
            event_id     TEXT PRIMARY KEY,
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL,
            kind         TEXT NOT NULL,
            actor        TEXT NOT NULL,
            body         TEXT NOT NULL
        )
        """
    )


def downgrade() -> None:
    for table in ("billing_events", "stripe_deliveries", "stripe_registers", "stripe_endpoints"):
        op.execute(f"DROP TABLE {table}")
