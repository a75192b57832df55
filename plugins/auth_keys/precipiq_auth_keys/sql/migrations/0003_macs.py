"""Proof that this deployment wrote a key, or an event of one; older rows get it when they are adopted."""

from alembic import op

revision = "auth_keys_0003"
down_revision = "auth_keys_0002"
branch_labels = None
depends_on = None

_TABLES = ("api_keys", "key_events")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN mac TEXT")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN mac")
