"""Downloads of bundles: the entry of each, and what was asked for and sent under it."""

from alembic import op

revision = "exports_0002"
down_revision = "exports_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE export_downloads (
            download_id  TEXT PRIMARY KEY,
            export_id    TEXT NOT NULL,
            org_id       TEXT NOT NULL,
            environment  TEXT NOT NULL CHECK (environment IN ('live', 'test')),
            actor        TEXT NOT NULL,
            opened_us    BIGINT NOT NULL,
            entry_id     TEXT,
            entry_seq    BIGINT,
            requests     BIGINT NOT NULL DEFAULT 0,
            asked_bytes  BIGINT NOT NULL DEFAULT 0,
            sent_bytes   BIGINT NOT NULL DEFAULT 0
        )
        """
    )
    op.execute("CREATE INDEX export_downloads_export ON export_downloads (export_id, actor, download_id)")
    op.execute("CREATE INDEX export_downloads_chain ON export_downloads (org_id, environment, download_id)")
    op.execute("CREATE UNIQUE INDEX export_downloads_new ON export_downloads (export_id, actor) WHERE entry_id IS NULL")


def downgrade() -> None:
    op.execute("DROP TABLE export_downloads")
