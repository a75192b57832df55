"""No server of the version before runs any more: nothing is appended without the sealer's MAC."""

from alembic import op

from precipiq_postgres.entries import mac_schema, schema

revision = "ledger_0003"
down_revision = "ledger_0002"
branch_labels = None
depends_on = None

phase = "post"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(mac_schema.DROP_APPEND_WITHOUT_MACS)


def downgrade() -> None:
    op.get_bind().exec_driver_sql(schema.APPEND_ENTRIES)
