"""A position in a chain, and reading on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from precipiq_chain.chain_format import statement_prev_hash
from precipiq_contracts.chain import GENESIS_HASH, Chain, Entry, Head
from precipiq_contracts.ledger import Ledger
from precipiq_ws_stream.errors import CannotResume


@dataclass(frozen=True, slots=True)
class Position:
    """The position after the entry with that seq and hash. ``hash`` None: any hash."""

    seq: int
    hash: str | None


START = Position(0, GENESIS_HASH)


def position_of(head: Head | None) -> Position:
    """The end of a chain."""
    return START if head is None else Position(head.seq, head.hash)


async def read_after(ledger: Ledger, chain: Chain, position: Position, limit: int) -> tuple[Position, Sequence[Entry]]:
    """The position with its hash, and up to ``limit`` entries after it, oldest first.

    The entry at the position is read again each time, so that a rewritten chain is never taken for its continuation:
    raises ``CannotResume`` when that entry is gone, has another hash, or the next entry does not link to it, or when no
    server of this deployment made one of them.
    """
    if position.seq == 0:
        if position.hash not in (None, GENESIS_HASH):
            raise CannotResume("before the first entry, the hash is 64 zeros")
        position, entries = START, await ledger.read(chain, 0, limit)
        read = entries
    else:
        read = found = await ledger.read(chain, position.seq - 1, limit + 1)
        if not found or found[0].seq != position.seq:
            raise CannotResume(f"the chain has no entry {position.seq}; reload")
        if position.hash not in (None, found[0].hash):
            raise CannotResume(f"entry {position.seq} has another hash now; reload")
        position, entries = Position(position.seq, found[0].hash), found[1:]
    _check_links(position, entries)
    foreign = await ledger.first_unauthentic(chain, read)
    if foreign is not None:
        raise CannotResume(f"no server of this deployment made entry {foreign.seq}")
    return position, entries


def _check_links(position: Position, entries: Sequence[Entry]) -> None:
    seq, entry_hash = position.seq, position.hash
    for entry in entries:
        if entry.seq != seq + 1 or not _follows(entry, entry_hash):
            raise CannotResume(f"the chain is broken after entry {seq}")
        seq, entry_hash = entry.seq, entry.hash


def _follows(entry: Entry, prev_hash: str | None) -> bool:
    if sha256(entry.statement).hexdigest() != entry.hash:
        return False
    return statement_prev_hash(entry.statement) == prev_hash
