"""The shelf: drivers that are broken on purpose, each with the test of the suite that must catch it.

The kit's own tests run every fault against its test, and show that every test of the suite can fail.
"""

from __future__ import annotations

from precipiq_testkit.broken_drivers import appending, auditing, reading, redacting
from precipiq_testkit.broken_drivers.fault import BrokenDriver, Fault

__all__ = ["SHELF", "BrokenDriver", "Fault"]

SHELF: tuple[type[Fault], ...] = tuple(
    item
    for module in (appending, reading, redacting, auditing)
    for name, item in vars(module).items()
    if isinstance(item, type) and issubclass(item, Fault) and item is not Fault and not name.startswith("_")
)
