"""The only module that imports Alembic. It is imported when a step is missing or only Alembic can read a branch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_schema.steps import POST, PRE, Step, version_table

_SCRIPTS = Path(__file__).parent / "alembic"


def heads(migration: Migration) -> frozenset[str]:
    """The branch's newest revisions."""
    return frozenset(ScriptDirectory.from_config(_config(migration)).get_heads())


def steps_after(migration: Migration, versions: Sequence[str]) -> list[Step]:
    """See ``branches.missing_steps``."""
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


def upgrade(connection: Any, migration: Migration, revision: str, roles: object) -> None:
    """See ``branches.take_step``."""
    config = _config(migration)
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(migration.branch)
    config.attributes["roles"] = roles
    command.upgrade(config, revision)


def _config(migration: Migration) -> Config:
    config = Config()
    config.set_main_option("script_location", _escape(_SCRIPTS))
    config.set_main_option("version_locations", _escape(migration.location))
    config.set_main_option("path_separator", "os" if os.pathsep not in str(migration.location) else "newline")
    return config


def _escape(path: Path) -> str:
    return str(path).replace("%", "%%")
