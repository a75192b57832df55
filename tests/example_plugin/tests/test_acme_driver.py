"""The entry store driver of the example plugin: storage that is not SQL keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from acme_plugin.driver import JsonlDriver, JsonlLimits
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen

LIMITS = JsonlLimits(find_scan_entries_max=25, watch_poll_s=0.05)


class TestJsonlDriver(EntryStoreConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        return tmp_path / "entries"

    @pytest.fixture
    def driver(self, storage: Path) -> JsonlDriver:
        return JsonlDriver(storage, LIMITS)

    @pytest.fixture
    def reopen(self, storage: Path) -> Reopen:
        return JsonlDriver(storage, LIMITS).open
