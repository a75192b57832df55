"""The sealer's MAC beside each entry."""

from alembic import op

from precipiq_sqlite.entries import mac_schema

revision = "ledger_0002"
down_revision = "ledger_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for statement in mac_schema.STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER entries_are_never_changed")
    op.execute("ALTER TABLE entries DROP COLUMN mac")
