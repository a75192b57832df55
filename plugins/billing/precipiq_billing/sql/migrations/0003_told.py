"""What each event of Stripe told, and how often a register changed: its total may fall as well as rise.

All new columns may be left out: the version before writes rows without them.
"""

from alembic import op

revision = "billing_0003"
down_revision = "billing_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE stripe_registers ADD COLUMN version BIGINT NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE stripe_deliveries ADD COLUMN version BIGINT")
    op.execute("ALTER TABLE stripe_deliveries ADD COLUMN created_s BIGINT")
    op.execute("ALTER TABLE stripe_deliveries ADD COLUMN told TEXT")


def downgrade() -> None:
    for column in ("told", "created_s", "version"):
        op.execute(f"ALTER TABLE stripe_deliveries DROP COLUMN {column}")
    op.execute("ALTER TABLE stripe_registers DROP COLUMN version")
