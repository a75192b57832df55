"""The terms of migrations: a step is one revision of a branch, taken before or after the old version has ended."""

from __future__ import annotations

from dataclasses import dataclass

from precipiq_contracts.database import Migration

PRE, POST = "pre", "post"


@dataclass(frozen=True, slots=True)
class Step:
    """One revision of a branch. ``is_post``: whether it waits until no process of the previous version runs."""

    migration: Migration
    revision: str
    is_post: bool


def version_table(branch: str) -> str:
    """The table that holds the branch's revision."""
    return f"alembic_version_{branch}"
