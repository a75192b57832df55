"""The table of entries."""

from alembic import op

from precipiq_core.database.postgres_roles import quoted
from precipiq_ledger.drivers import postgres_schema, sqlite_schema

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in (sqlite_schema.ENTRIES_TABLE, *sqlite_schema.INDEXES, *sqlite_schema.TRIGGERS):
            connection.exec_driver_sql(statement)
        return
    system = quoted(op.get_context().config.attributes["roles"].system)
    for statement in postgres_schema.STATEMENTS:
        connection.exec_driver_sql(statement.replace("{system}", system))


def downgrade() -> None:
    op.execute("DROP TABLE entries")
