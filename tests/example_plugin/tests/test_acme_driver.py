"""The entry store driver of the example plugin: storage that is not SQL keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from acme_plugin.driver import JsonlDriver, JsonlLimits
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen

LIMITS = JsonlLimits(find_scan_entries_max=25, watch_poll_s=0.05)


class TestJsonlDriver(EntryStoreConformance):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> JsonlDriver:
        return JsonlDriver(tmp_path / "entries", LIMITS)

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return JsonlDriver(tmp_path / "entries", LIMITS).open
