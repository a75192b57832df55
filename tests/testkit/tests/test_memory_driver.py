"""The store in memory keeps the whole contract."""

from __future__ import annotations

import pytest

from precipiq_contracts.entry_store import MULTI_WRITER
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen
from precipiq_testkit.memory import MemoryDriver


class SharedMemoryDriver(MemoryDriver):
    """Within one event loop the stores of one driver do share their chains, so the extra can be tried here."""

    capabilities = frozenset((MULTI_WRITER,))


class TestMemoryDriver(EntryStoreConformance):
    @pytest.fixture
    def driver(self) -> MemoryDriver:
        return SharedMemoryDriver()

    @pytest.fixture
    def reopen(self, driver: MemoryDriver) -> Reopen:
        return driver.open
