"""Plugins' schemas as Alembic branches, whatever the database: which steps are missing, and taking one.

Each branch has a version table of its own, so that a plugin can be switched off without its tables becoming unknown.
A revision file may say ``phase = "post"``: that step comes when no process of the version before runs any more. All
others must leave that version able to read and write.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from precipiq_core.contracts.database import Migration
from precipiq_core.errors import DeploymentError

PRE, POST = "pre", "post"
OLDEST = "oldest revision of a server that may run: "

_SCRIPTS = Path(__file__).parent / "alembic"


@dataclass(frozen=True, slots=True)
class Step:
    """One revision of a branch. ``is_post``: whether it waits for the version before to be gone."""

    migration: Migration
    revision: str
    is_post: bool


def version_table(branch: str) -> str:
    """The table that holds the branch's revision."""
    return f"alembic_version_{branch}"


def missing_steps(migration: Migration, versions: Sequence[str]) -> list[Step]:
    """What is to be done, in order, when the branch's version table holds ``versions``.

    Raises ``DeploymentError`` when it holds a revision that the code does not know, or a phase is misspelt.
    """
    scripts = ScriptDirectory.from_config(_config(migration))
    try:
        if versions:
            scripts.get_revisions(tuple(versions))
        steps = list(scripts.iterate_revisions("heads", tuple(versions) or "base"))
    except CommandError as error:
        raise DeploymentError(
            [f"the database's tables of {migration.branch} are newer than this program knows: {error}"]
        ) from error
    missing = [step for step in reversed(steps) if step.revision not in versions]
    phases = {step.revision: getattr(step.module, "phase", PRE) for step in missing}
    wrong = [
        f"migration {revision} of {migration.branch}: phase must be {PRE!r} or {POST!r}, not {phase!r}"
        for revision, phase in phases.items()
        if phase not in (PRE, POST)
    ]
    if wrong:
        raise DeploymentError(wrong)
    return [Step(migration, revision, phase == POST) for revision, phase in phases.items()]


def take_step(connection: Any, migration: Migration, revision: str = "heads", *, roles: object = None) -> None:
    """Run a branch's revisions up to that one on a SQLAlchemy connection, inside its transaction.

    ``roles``: those of PostgreSQL, which a revision finds in the attributes of its context's configuration.
    """
    config = _config(migration)
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(migration.branch)
    config.attributes["roles"] = roles
    command.upgrade(config, revision)


def _config(migration: Migration) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(_SCRIPTS))
    config.set_main_option("version_locations", _escaped(migration.location))
    config.set_main_option("path_separator", "os" if os.pathsep not in str(migration.location) else "newline")
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
