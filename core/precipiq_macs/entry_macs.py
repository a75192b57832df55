"""The sealer's MAC: beside each entry, proof that a process of this deployment sealed it. Pure.

``mac`` = HMAC-SHA256(``K``, ``"precipiq entry\\n"`` + hash) in hex; ``K`` = HMAC-SHA256(root, epoch in decimal digits).
The epoch is the hour of the statement's timestamp since 1970, so that a key seals the entries of its hour alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from precipiq_contracts.clock import parse_timestamp

PURPOSE = "ledger entry sealing, version 1"
"""For ``MasterKey.derive``, which gives the root."""

ALL = 2**63
"""As ``MacCheck.exempt_through``: no entry need have a MAC, because the installation's upgrade has not ended."""

_HOUR_US = 3600 * 1_000_000
_PREFIX = b"precipiq entry\n"
_INNER_PAD, _OUTER_PAD = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))
_HOUR = slice(0, 13)  # of a timestamp: YYYY-MM-DDTHH


def epoch_of(time_us: int) -> int:
    """The epoch of that time, microseconds since 1970."""
    return time_us // _HOUR_US


def epoch_key(root: bytes, epoch: int) -> bytes:
    """The key that seals the entries of that epoch."""
    return hmac.digest(root, str(epoch).encode(), "sha256")


class EntryMacs:
    """The MACs of one epoch's entries. Both pads of HMAC (RFC 2104) are hashed once.

    Unlike ``hmac.digest``, :meth:`of` keeps the interpreter: a thread that seals would wait to get it back each time.
    """

    def __init__(self, key: bytes) -> None:
        """``key``: 64 bytes at most."""
        block = key.ljust(64, b"\0")
        self._inner, self._outer = sha256(block.translate(_INNER_PAD) + _PREFIX), sha256(block.translate(_OUTER_PAD))

    def of(self, entry_hash: str) -> str:
        """The MAC of the entry with that hash: 64 hex digits."""
        first, second = self._inner.copy(), self._outer.copy()
        first.update(entry_hash.encode())
        second.update(first.digest())
        return second.hexdigest()


def entry_mac(key: bytes, entry_hash: str) -> str:
    """The MAC of the entry with that hash, under its epoch's key: 64 hex digits."""
    return EntryMacs(key).of(entry_hash)


@dataclass(frozen=True, slots=True)
class MacCheck:
    """The check of one chain's MACs. ``exempt_through``: up to this entry none need have one; one that is there counts.

    The entry after these, if there are any, is the adoption; nowhere else may a chain have an entry of that kind.
    """

    root: bytes
    exempt_through: int = 0

    def holds(self, seq: int, entry_hash: str, timestamp: str, mac: object) -> bool:
        """Whether the entry with that seq, hash and timestamp may have that MAC."""
        if mac is None:
            return seq <= self.exempt_through
        key = self._key(timestamp)
        is_text = isinstance(mac, str) and mac.isascii()
        return key is not None and is_text and hmac.compare_digest(str(mac), entry_mac(key, entry_hash))

    def all_hold(
        self, seqs: Sequence[int], hashes: Sequence[str], timestamps: Sequence[str], macs: Sequence[object]
    ) -> bool:
        """:meth:`holds` of consecutive entries in the order of their times."""
        if not len(macs) == len(seqs) == len(timestamps) == len(hashes) > 0:
            return False
        if macs.count(None) == len(macs):
            return seqs[-1] <= self.exempt_through
        key = self._key(timestamps[0])
        is_one_hour = key is not None and timestamps[0][_HOUR] == timestamps[-1][_HOUR]
        if key is not None and is_one_hour and list(map(EntryMacs(key).of, hashes)) == list(macs):
            return True
        return all(map(self.holds, seqs, hashes, timestamps, macs))

    def allows_adoption(self, seq: int) -> bool:
        """Whether an entry of the kind ``adoption`` may stand there."""
        return seq == self.exempt_through + 1 > 1

    def _key(self, timestamp: str) -> bytes | None:
        try:
            return epoch_key(self.root, epoch_of(parse_timestamp(timestamp)))
        except ValueError:
            return None
