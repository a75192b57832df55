"""Proof that this deployment wrote a row of money, an endpoint or a subscription, and what registers began with.

Older rows get theirs when they are adopted. Fingerprints: of an endpoint's secrets, as its chain says them.
"""

from alembic import op

revision = "billing_0004"
down_revision = "billing_0003"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("stripe_endpoints", "mac", "TEXT"),
    ("stripe_endpoints", "secret_fingerprint", "TEXT"),
    ("stripe_endpoints", "previous_fingerprint", "TEXT"),
    ("stripe_registers", "mac", "TEXT"),
    ("stripe_registers", "base", "BIGINT"),
    ("stripe_deliveries", "mac", "TEXT"),
    ("billing_events", "mac", "TEXT"),
    ("plan_subscriptions", "mac", "TEXT"),
)


def upgrade() -> None:
    for table, column, kind in _COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def downgrade() -> None:
    for table, column, _ in reversed(_COLUMNS):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
