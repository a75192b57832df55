"""The store that the shelf's faults in keeping files are made of keeps the whole contract without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from precipiq_testkit.broken_drivers.files import FilingDriver
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen


class TestFilingDriver(EntryStoreConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        return tmp_path / "entries"

    @pytest.fixture
    def driver(self, storage: Path) -> FilingDriver:
        return FilingDriver(storage)

    @pytest.fixture
    def reopen(self, storage: Path) -> Reopen:
        return FilingDriver(storage).open
