"""The table of entries."""

from alembic import op

from precipiq_ledger.drivers.sqlite_schema import ENTRIES_TABLE, INDEXES, TRIGGERS

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (ENTRIES_TABLE, *INDEXES, *TRIGGERS):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("DROP TABLE entries")
