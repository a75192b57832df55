"""The table of entries."""

from alembic import op

from precipiq_sqlite.entries import schema

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (schema.ENTRIES_TABLE, *schema.INDEXES, *schema.TRIGGERS):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("DROP TABLE entries")
