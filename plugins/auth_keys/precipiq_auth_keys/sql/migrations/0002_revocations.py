"""Whether a key is revoked, apart from the time: a node whose clock is behind must refuse it too."""

from alembic import op

revision = "auth_keys_0002"
down_revision = "auth_keys_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN is_revoked BIGINT NOT NULL DEFAULT 0")
    op.execute("UPDATE api_keys SET is_revoked = 1 WHERE revoked_us IS NOT NULL AND replaced_by IS NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE api_keys DROP COLUMN is_revoked")
