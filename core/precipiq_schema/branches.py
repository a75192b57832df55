"""Plugins' schemas as Alembic branches, for any database: finds the missing steps, and takes one.

Each branch has a version table of its own, so that a plugin can be switched off without its tables becoming unknown.
A revision file may set ``phase = "post"``: that step is taken when no process of the previous version runs any more.
All other steps must leave that version able to read and write.

Alembic and SQLAlchemy take longer to import than everything else together, so a current schema is found without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from precipiq_contracts.database import Migration
from precipiq_schema.revision_files import stated_heads
from precipiq_schema.steps import Step


def missing_steps(migration: Migration, versions: Sequence[str]) -> list[Step]:
    """The steps to take, in order, when the branch's version table holds ``versions``.

    Raises ``DeploymentError`` when the table holds a revision that the code does not know, or a phase is misspelt.
    """
    if versions and frozenset(versions) == stated_heads(migration.location):
        return []
    from precipiq_schema.alembic_scripts import steps_after

    return steps_after(migration, versions)


def take_step(connection: Any, migration: Migration, revision: str = "heads", *, roles: object = None) -> None:
    """Run a branch's revisions up to that one on a SQLAlchemy connection, inside its transaction.

    ``roles``: those of PostgreSQL, which a revision finds in the attributes of its context's configuration.
    """
    from precipiq_schema.alembic_scripts import upgrade

    upgrade(connection, migration, revision, roles)
