"""The testkit's suite over the entry store of the example database."""

from __future__ import annotations

from pathlib import Path

import pytest

from folder_database.entries.driver import FolderDriver
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen

OPTIONS = DriverOptions(find_scan_rows_max=7, watch_poll_s=0.05)
"""Searches come in small pages, and what other processes append is seen soon."""


class TestFolderDriver(EntryStoreConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        return tmp_path / "entries"

    @pytest.fixture
    def driver(self, storage: Path) -> FolderDriver:
        return FolderDriver(storage, OPTIONS)

    @pytest.fixture
    def reopen(self, storage: Path) -> Reopen:
        return FolderDriver(storage, OPTIONS).open
