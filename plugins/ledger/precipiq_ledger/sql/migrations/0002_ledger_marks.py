"""What has happened once in an installation, with the ledger's MAC."""

from alembic import op

revision = "request_keys_0002"
down_revision = "request_keys_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE ledger_marks (name TEXT PRIMARY KEY, mac TEXT NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE ledger_marks")
