"""The last entry of every chain, in few questions where the store can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.entry_store import EntryStore


@runtime_checkable
class HeadLister(Protocol):
    """An ``EntryStore`` that tells many heads at once. ``heads``: as ``chains``; None for a head that is damaged."""

    def heads(self) -> AsyncIterator[tuple[Chain, Head | None]]: ...


async def heads_of(store: EntryStore) -> AsyncIterator[tuple[Chain, Head | None]]:
    """Each chain of the store and its head; None: ask for it, and be told what is wrong. Raises ``Unavailable``."""
    if isinstance(store, HeadLister):
        async for found in store.heads():
            yield found
    else:
        async for chain in store.chains():
            yield chain, None
