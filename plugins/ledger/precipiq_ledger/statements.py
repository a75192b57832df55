"""Statements alone: what folds a chain needs no payloads, hashes or MACs, and a read without them costs a fraction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryStore
from precipiq_core.entry_pages import read_page


@runtime_checkable
class StatementReader(Protocol):
    """An ``EntryStore`` that reads statements without the rest of their rows."""

    async def statements(
        self, chain: Chain, after_seq: int, limit: int, bytes_max: int
    ) -> tuple[Sequence[bytes], int] | None:
        """As :func:`statements_of`; None when a row is not as a server writes it, and each is to be read by itself."""
        ...


async def statements_of(
    store: EntryStore, chain: Chain, after_seq: int, limit: int, bytes_max: int
) -> tuple[Sequence[bytes], int]:
    """Up to ``limit`` statements with seq > ``after_seq``, in order, and the seq of the last; none at the chain's end.

    Fewer where they are larger than ``bytes_max`` together, but one in any case. Raises ``Unavailable``.
    """
    if isinstance(store, StatementReader):
        found = await store.statements(chain, after_seq, limit, bytes_max)
        if found is not None:
            return found
    entries, _ = await read_page(partial(store.read, chain), after_seq, limit, bytes_max)
    return [entry.statement for entry in entries], entries[-1].seq if entries else after_seq
