"""The table of entries."""

from alembic import op

from precipiq_postgres.entries import schema
from precipiq_postgres.roles import quoted

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    system = quoted(op.get_context().config.attributes["roles"].system)
    for statement in schema.STATEMENTS:
        connection.exec_driver_sql(statement.replace("{system}", system))


def downgrade() -> None:
    op.execute("DROP TABLE entries")
