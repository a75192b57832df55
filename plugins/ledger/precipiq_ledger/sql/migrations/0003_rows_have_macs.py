"""No server of the version before runs any more: every row that grants something is written with its MAC."""

from alembic import op

revision = "request_keys_0003"
down_revision = "request_keys_0002"
branch_labels = None
depends_on = None

phase = "post"


def upgrade() -> None:
    op.execute("INSERT INTO ledger_marks (name, mac) VALUES ('rows_have_macs', '') ON CONFLICT (name) DO NOTHING")


def downgrade() -> None:
    op.execute("DELETE FROM ledger_marks WHERE name = 'rows_have_macs'")
