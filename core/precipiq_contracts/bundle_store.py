"""The storage of finished export bundles: whole files, written once, read by ranges, deleted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

BUNDLE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""The pattern of a bundle's whole name: safe as the name of a file and of an object."""


class BundleStore(Protocol):
    """Capability: keeps bundles by name. ``exports`` keeps them in the data directory when no plugin provides one.

    Every method raises ``Unavailable`` when the store cannot answer, and ``InternalError`` for a name that no bundle
    can have (see ``BUNDLE_NAME``).
    """

    is_shared: bool
    """Whether every machine of the deployment reaches the same bundles."""

    async def put(self, name: str, source: Path) -> None:
        """Store the file under that name; ``source`` MAY be moved away.

        MUST be durable on return, and MUST NOT show a part of the bundle under that name at any time. Storing a name
        again replaces the bundle. After a failed or cancelled call has returned, the bundle MUST NOT appear: the
        caller may have deleted its name by then. The remains of a killed process MUST NOT be visible, and MAY stay
        until :meth:`delete` or the store's own upkeep removes them.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Bytes of that bundle, None when there is none."""
        ...

    def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes ``start`` <= index < ``end``, in pieces of bounded size; nothing is read for an empty range.

        Raises ``NotFound`` when there is no such bundle, and ``Unavailable`` when it ends before ``end``: a truncated
        read is an error. MUST release its resources when it is closed early or cancelled.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove that bundle; nothing happens when there is none."""
        ...
