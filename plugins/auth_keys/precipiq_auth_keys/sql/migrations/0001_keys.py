"""Organisations, API keys, and the key events that wait to be sealed."""

from alembic import op

revision = "auth_keys_0001"
down_revision = None
branch_labels = ("auth_keys",)
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE organisations (
            org_id      TEXT PRIMARY KEY,
            name        TEXT NOT NULL,
            created_us  BIGINT NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE api_keys (
            key_id        TEXT PRIMARY KEY,
            org_id        TEXT NOT NULL REFERENCES organisations (org_id),
            environment   TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            secret_hash   TEXT NOT NULL UNIQUE,
            prefix        TEXT NOT NULL,
            last_four     TEXT NOT NULL,
            scopes        TEXT NOT NULL,
            created_us    BIGINT NOT NULL,
            expires_us    BIGINT,
            revoked_us    BIGINT,
            replaced_by   TEXT,
            last_used_us  BIGINT
        )
        """
    )
    op.execute("CREATE INDEX api_keys_chain ON api_keys (org_id, environment, created_us)")
    op.execute(
        """
        CREATE TABLE key_events (
            event_id     TEXT PRIMARY KEY,
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL,
            kind         TEXT NOT NULL,
            actor        TEXT NOT NULL,
            body         TEXT NOT NULL
        )
        """
    )
    op.execute("CREATE TABLE api_key_changes (id INTEGER PRIMARY KEY CHECK (id = 1), changes BIGINT NOT NULL)")
    op.execute("INSERT INTO api_key_changes (id, changes) VALUES (1, 0)")


def downgrade() -> None:
    for table in ("api_key_changes", "key_events", "api_keys", "organisations"):
        op.execute(f"DROP TABLE {table}")
