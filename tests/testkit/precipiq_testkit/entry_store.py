"""The suite for entry store drivers: a driver is good when ``EntryStoreConformance`` passes. It owns no driver.

    class TestMyDriver(EntryStoreConformance):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyDriver(tmp_path / "entries")

Every test opens a fresh store and needs no other test. A test's docstring says what is required and what to look at
when it fails. Tests of an extra are skipped unless the driver declares its capability. A test can be overridden only
to mark it ``xfail`` with a reason; anything else is refused when the class is made, so at collection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from precipiq_contracts.entry_store import EntryStore, EntryStoreDriver
from precipiq_testkit.entry_store_suite.appending import AppendTests
from precipiq_testkit.entry_store_suite.auditing import AuditTests
from precipiq_testkit.entry_store_suite.durability import DurabilityTests
from precipiq_testkit.entry_store_suite.erasure import ErasureTests
from precipiq_testkit.entry_store_suite.finding import FindTests
from precipiq_testkit.entry_store_suite.idempotency import IdempotencyTests
from precipiq_testkit.entry_store_suite.lengths import LengthTests
from precipiq_testkit.entry_store_suite.opening import OpenTests
from precipiq_testkit.entry_store_suite.reading import IsolationTests, ReadTests
from precipiq_testkit.entry_store_suite.redaction import RedactTests
from precipiq_testkit.entry_store_suite.seals import SealTests
from precipiq_testkit.entry_store_suite.support import Reopen
from precipiq_testkit.entry_store_suite.watching import WatchTests
from precipiq_testkit.sealing import Writer

__all__ = ["EntryStoreConformance", "Reopen"]


class EntryStoreConformance(
    AppendTests,
    SealTests,
    IdempotencyTests,
    LengthTests,
    ReadTests,
    IsolationTests,
    FindTests,
    RedactTests,
    ErasureTests,
    WatchTests,
    AuditTests,
    OpenTests,
    DurabilityTests,
):
    """Every MUST of ``precipiq_contracts.entry_store``.

    Fill ``driver``; fill ``reopen`` if the data can last, and ``storage`` if it lies in files of this machine.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refused = [name for name in standard_tests() if name in vars(cls) and not _expected_to_fail(vars(cls)[name])]
        if refused:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(refused)}: a standard test may only be overridden to mark it "
                "@pytest.mark.xfail(reason=...)"
            )

    @pytest.fixture
    def driver(self) -> EntryStoreDriver:
        """The driver under test, on fresh data."""
        raise NotImplementedError("fill the fixture `driver` with an EntryStoreDriver on fresh data")

    @pytest.fixture
    def reopen(self) -> Reopen | None:
        """A function that opens the data of ``driver`` once more, as another process would; None: not tested."""
        return None

    @pytest.fixture
    def storage(self) -> Path | None:
        """The folder with every file of ``driver``'s data and nothing else; None: there is none on this machine.

        This process must write the files: what a server or a child process writes is that one's matter.
        """
        return None

    @pytest.fixture
    async def store(self, driver: EntryStoreDriver) -> AsyncIterator[EntryStore]:
        """The open store."""
        async with driver.open() as store:
            yield store

    @pytest.fixture
    def writer(self, store: EntryStore) -> Writer:
        """Writes made-up entries to the store."""
        return Writer(store)


def standard_tests() -> list[str]:
    """The names of all tests of the suite, in the order of its parts."""
    parts = reversed(EntryStoreConformance.__mro__)
    return list(dict.fromkeys(name for part in parts for name in vars(part) if name.startswith("test_")))


def _expected_to_fail(test: object) -> bool:
    marks: Iterable[pytest.Mark] = getattr(test, "pytestmark", ())
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
