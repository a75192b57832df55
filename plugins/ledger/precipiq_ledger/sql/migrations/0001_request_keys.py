"""Which request each `Idempotency-Key` was first used for."""

from alembic import op

revision = "request_keys_0001"
down_revision = None
branch_labels = ("request_keys",)
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE request_keys (
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            name         TEXT NOT NULL,
            content      TEXT NOT NULL,
            created_us   BIGINT NOT NULL,
            PRIMARY KEY (org_id, environment, name)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE request_keys")
