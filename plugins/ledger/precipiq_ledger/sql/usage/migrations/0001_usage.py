"""How many bytes each chain stores."""

from alembic import op

revision = "ledger_usage_0001"
down_revision = None
branch_labels = ("ledger_usage",)
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE ledger_usage (
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            bytes        BIGINT NOT NULL,
            PRIMARY KEY (org_id, environment)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE ledger_usage")
