"""What the ledger's tests on PostgreSQL share."""

from __future__ import annotations

import pytest

from precipiq_testkit.postgres import PostgresDatabase
from tests.databases import POSTGRES_ENTRIES
from tests.ledger.intruders import core_database


@pytest.fixture(scope="module")
def migrated(shared_postgres: PostgresDatabase) -> PostgresDatabase:
    """A module's database, with the ledger's tables: ``core_database`` of it need not migrate."""
    core_database(shared_postgres).migrate([POSTGRES_ENTRIES])
    return shared_postgres
