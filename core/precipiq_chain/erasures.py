"""Which entries lack their payload rightly: those that a redaction entry names, if the sealer made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from precipiq_chain.chain_format import Statement, parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_macs.entry_macs import MacCheck


@dataclass(frozen=True, slots=True)
class Source:
    """A chain to verify, and how. ``macs`` None: entries need not be the sealer's."""

    auditor: EntryAuditor
    chain: Chain
    macs: MacCheck | None


def find_erasures(source: Source, seqs: Sequence[int]) -> dict[int, tuple[str, int | None]]:
    """Those of the entries whose erasure a redaction states: seq -> the hash that it names, and the seq of a redaction
    of that entry that the sealer did not make, if there is one.
    """
    stated: dict[int, tuple[str, int | None]] = {}
    for statement, mac in source.auditor.redactions(source.chain, seqs):
        try:
            said = parse_statement(statement)
            target, target_hash = said.body.get("target_seq"), said.body.get("target_hash")
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        if not isinstance(target, int) or not isinstance(target_hash, str):
            continue
        made_up = stated.get(target, ("", None))[1]
        if made_up is None and not _is_sealed(source, said, sha256(statement).hexdigest(), mac):
            made_up = said.seq
        stated[target] = target_hash, made_up
    return stated


def _is_sealed(source: Source, said: Statement, entry_hash: str, mac: str | None) -> bool:
    """A redaction may stand outside the verified range: without a MAC, it counts only where it says that it is."""
    if source.macs is None:
        return True
    if not isinstance(said.seq, int) or not isinstance(said.timestamp, str):
        return False
    if not source.macs.holds(said.seq, entry_hash, said.timestamp, mac):
        return False
    return mac is not None or list(source.auditor.hashes_at(source.chain, [said.seq])) == [entry_hash]
