"""The keys of a chain that are not ended, by their end: counting them reads no ended one, however many there are."""

from alembic import op

revision = "auth_keys_0004"
down_revision = "auth_keys_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX api_keys_open ON api_keys (org_id, environment, (CASE "
        "WHEN revoked_us IS NULL THEN COALESCE(expires_us, 9223372036854775807) "
        "WHEN expires_us IS NULL OR expires_us > revoked_us THEN revoked_us ELSE expires_us END)) WHERE is_revoked = 0"
    )


def downgrade() -> None:
    op.execute("DROP INDEX api_keys_open")
