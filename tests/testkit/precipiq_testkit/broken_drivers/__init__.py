"""The shelf: drivers that are broken on purpose, each with the test of the suite that must catch it.

The kit's own tests run every fault against its test, and show that every test of the suite can fail.
"""

from __future__ import annotations

from pathlib import Path

from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_testkit.broken_drivers import appending, auditing, files, lengths, reading, redacting, sealing
from precipiq_testkit.broken_drivers.fault import BrokenDriver, Fault
from precipiq_testkit.broken_drivers.files import FilingDriver, FilingFault

__all__ = ["SHELF", "Fault", "FilingFault", "broken_driver"]

SHELF: tuple[type[Fault], ...] = tuple(
    item
    for module in (appending, sealing, lengths, reading, redacting, auditing, files)
    for name, item in vars(module).items()
    if isinstance(item, type) and issubclass(item, Fault) and "caught_by" in vars(item) and not name.startswith("_")
)


def broken_driver(fault: type[Fault], folder: Path) -> EntryStoreDriver:
    """A driver with that fault, on fresh data; those that keep files keep them in that folder."""
    return FilingDriver(folder, fault) if issubclass(fault, FilingFault) else BrokenDriver(fault)
