"""Run by Alembic: migrates on the connection that a database's plugin opened, inside its transaction.

Reads no ini file and leaves the logging configuration alone.
"""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
