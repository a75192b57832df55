"""The ledger as other plugins see it: append drafts, read entries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from precipiq_core.contracts.chain import Chain, Draft, Entry, Head
from precipiq_core.contracts.entry_store import Appended, EntryPage, EntryQuery


class Ledger(Protocol):
    """Capability: the chains of this deployment. Provided by the plugin ``ledger``."""

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> Appended:
        """Seal and store drafts, all or none; durable on return.

        Raises ``ValidationFailed`` (not JSON as the chain needs it, unknown kind, too large), ``IdempotencyConflict``
        (a known key with other content) and ``Unavailable``.
        """
        ...

    async def head(self, chain: Chain) -> Head | None:
        """The last entry of the chain, None when it is empty."""
        ...

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """Entries with seq > ``after_seq``, oldest first."""
        ...

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """The entry with that id in that chain."""
        ...

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """Entries that match, newest first; see ``EntryPage`` for pages that are not full."""
        ...

    async def redact(self, chain: Chain, entry_id: str, kind: str, reason: str, actor: str) -> Entry:
        """Erase the payload of the entry with that id and kind; the redaction entry that says so.

        Raises ``NotFound``, ``Conflict`` (there is no payload, or it was erased before) and ``Unavailable``.
        """
        ...

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Wake-ups after appends; may be spurious."""
        ...
