"""Export jobs, signing keys, and the events that wait to be sealed."""

from alembic import op

revision = "exports_0001"
down_revision = None
branch_labels = ("exports",)
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE exports (
            export_id          TEXT PRIMARY KEY,
            org_id             TEXT NOT NULL,
            environment        TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            status             TEXT NOT NULL CHECK (status IN
                ('pending', 'running', 'completed', 'failed', 'cancelled', 'expired')),
            request            TEXT NOT NULL,
            actor              TEXT NOT NULL,
            idempotency_key    TEXT,
            created_us         BIGINT NOT NULL,
            started_us         BIGINT,
            finished_us        BIGINT,
            expires_us         BIGINT,
            attempt            BIGINT NOT NULL DEFAULT 0,
            failures           BIGINT NOT NULL DEFAULT 0,
            not_before_us      BIGINT NOT NULL DEFAULT 0,
            lease_owner        TEXT,
            lease_until_us     BIGINT,
            after_seq          BIGINT,
            through_seq        BIGINT,
            steps_done         BIGINT NOT NULL DEFAULT 0,
            steps_total        BIGINT NOT NULL DEFAULT 0,
            has_files          BIGINT NOT NULL DEFAULT 0,
            size_bytes         BIGINT,
            sha256             TEXT,
            result             TEXT,
            error_code         TEXT,
            error_message      TEXT
        )
        """
    )
    op.execute("CREATE INDEX exports_chain ON exports (org_id, environment, export_id)")
    op.execute("CREATE INDEX exports_open ON exports (created_us) WHERE status IN ('pending', 'running')")
    op.execute("CREATE INDEX exports_completed ON exports (expires_us) WHERE status = 'completed'")
    op.execute("CREATE INDEX exports_files ON exports (export_id) WHERE has_files = 1")
    op.execute("CREATE UNIQUE INDEX exports_idempotency ON exports (org_id, environment, idempotency_key)")
    op.execute(
        """
        CREATE TABLE signing_keys (
            key_id         TEXT PRIMARY KEY,
            org_id         TEXT NOT NULL,
            environment    TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            public_key     TEXT NOT NULL,
            wrapped_key    TEXT,
            created_us     BIGINT NOT NULL,
            retired_us     BIGINT,
            replaces       TEXT,
            announced_seq  BIGINT
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX signing_keys_active ON signing_keys (org_id, environment) WHERE retired_us IS NULL")
    op.execute("CREATE INDEX signing_keys_chain ON signing_keys (org_id, created_us)")
    op.execute(
        """
        CREATE TABLE export_events (
            event_id     TEXT PRIMARY KEY,
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL,
            kind         TEXT NOT NULL,
            actor        TEXT NOT NULL,
            body         TEXT NOT NULL
        )
        """
    )
    op.execute("CREATE TABLE export_claims (id INTEGER PRIMARY KEY CHECK (id = 1), claims BIGINT NOT NULL)")
    op.execute("INSERT INTO export_claims (id, claims) VALUES (1, 0)")


def downgrade() -> None:
    for table in ("export_claims", "export_events", "signing_keys", "exports"):
        op.execute(f"DROP TABLE {table}")
