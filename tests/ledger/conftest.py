"""What the ledger's tests on PostgreSQL share."""

from __future__ import annotations

import pytest

from precipiq_testkit.postgres import PostgresDatabase
from tests.ledger.intruders import core_database, migration


@pytest.fixture(scope="module")
def migrated(shared_postgres: PostgresDatabase) -> PostgresDatabase:
    """A module's database, with the ledger's tables: ``core_database`` of it need not migrate."""
    core_database(shared_postgres).migrate([migration("postgresql")])
    return shared_postgres
