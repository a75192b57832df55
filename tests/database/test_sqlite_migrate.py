"""Migrations: each once, all or none, whoever runs them at the same time."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_sqlite.migrate import migrate, pending_revisions


def write_revision(location: Path, branch: str, number: int, body: str) -> None:
    location.mkdir(exist_ok=True)
    before = None if number == 1 else f"{branch}_{number - 1:04}"
    labels = (branch,) if number == 1 else None
    (location / f"{number:04}_step.py").write_text(
        f"from alembic import op\nrevision, down_revision, branch_labels = {f'{branch}_{number:04}'!r}, {before!r}, "
        f"{labels!r}\ndepends_on = None\ndef upgrade():\n    {body}\n"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "precipiq.db"


@pytest.fixture
def branches(tmp_path: Path) -> list[Migration]:
    made = []
    for branch in ("notes", "members"):
        write_revision(tmp_path / branch, branch, 1, f'op.execute("CREATE TABLE {branch} (x)")')
        made.append(Migration(branch, tmp_path / branch, {}))
    return made


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def test_migrating_twice_applies_once(path: Path, branches: list[Migration]) -> None:
    assert pending_revisions(path, branches) == ["notes_0001", "members_0001"]
    assert migrate(path, branches) == ["notes_0001", "members_0001"]
    assert migrate(path, branches) == []
    assert pending_revisions(path, branches) == []
    assert {"notes", "members"} <= tables(path)


def test_a_later_revision_is_applied_to_an_existing_file(path: Path, branches: list[Migration]) -> None:
    migrate(path, branches)
    write_revision(branches[0].location, "notes", 2, 'op.execute("CREATE TABLE later (x)")')
    assert pending_revisions(path, branches) == ["notes_0002"]
    assert migrate(path, branches) == ["notes_0002"]
    assert "later" in tables(path)


def test_migrations_at_the_same_time_apply_once(path: Path, branches: list[Migration]) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(path, branches))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(applied) == [[]] * 5 + [["notes_0001", "members_0001"]]


def test_a_migration_that_fails_leaves_nothing_of_any_branch(path: Path, branches: list[Migration]) -> None:
    write_revision(branches[1].location, "members", 2, 'op.execute("CREATE TABLE half (x)"); 1 / 0')
    with pytest.raises(ZeroDivisionError):
        migrate(path, branches)
    assert not tables(path) & {"notes", "members", "half"}
    write_revision(branches[1].location, "members", 2, 'op.execute("CREATE TABLE half (x)")')
    assert migrate(path, branches) == ["notes_0001", "members_0001", "members_0002"]


def test_a_database_that_is_newer_than_the_program_is_refused(path: Path, branches: list[Migration]) -> None:
    write_revision(branches[0].location, "notes", 2, "pass")
    migrate(path, branches)
    (branches[0].location / "0002_step.py").unlink()
    for attempt in (pending_revisions, migrate):
        with pytest.raises(DeploymentError, match="newer"):
            attempt(path, branches)


def test_a_branch_that_is_switched_off_does_not_hinder_the_others(path: Path, branches: list[Migration]) -> None:
    migrate(path, branches)
    assert pending_revisions(path, branches[:1]) == []
    assert migrate(path, branches[:1]) == []


def test_migrating_leaves_the_logging_configuration_alone(path: Path, branches: list[Migration]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    other = logging.getLogger("someone.else")
    migrate(path, branches)
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before
    assert not other.disabled
