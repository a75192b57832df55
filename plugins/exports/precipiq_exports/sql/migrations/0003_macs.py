"""Proof that this deployment wrote a signing key, an event or an export; older rows get it when they are adopted.

``result_mac``: of what came of an export.
"""

from alembic import op

revision = "exports_0003"
down_revision = "exports_0002"
branch_labels = None
depends_on = None

_COLUMNS = (("signing_keys", "mac"), ("export_events", "mac"), ("exports", "mac"), ("exports", "result_mac"))


def upgrade() -> None:
    for table, column in _COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")


def downgrade() -> None:
    for table, column in _COLUMNS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
