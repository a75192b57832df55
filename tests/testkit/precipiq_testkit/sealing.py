"""Drafts and seals for tests: the ledger plugin's work before it calls an entry store, without its policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from time import sleep

from precipiq_chain.chain_format import ID_RANDOM_BYTES, SALT_BYTES, parse_statement, prepare, seal_entries
from precipiq_contracts.chain import Chain, Draft, Entry, Head, PreparedDraft
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.entry_store import Appended, EntryStore
from precipiq_macs.entry_macs import PURPOSE, entry_mac, epoch_key, epoch_of
from precipiq_testkit.clock import ManualClock, SeededRandomness

DECISION = "decision"
REDACTION = "redaction"

ROOT = sha256(PURPOSE.encode()).digest()
"""The root of the MACs' keys: what a master key of no secrecy derives that hashes the purpose."""

_SEAL_S = 0.002
"""How long a :class:`WatchedSealer` takes, so that another call can meet it."""


class SealRefused(Exception):
    """The error of a :class:`RefusingSealer`; no driver knows it, so none can have swallowed it on purpose."""


@dataclass(slots=True)
class Sealer:
    """A seal that records its calls: ``heads[i]`` and ``drafts[i]`` are the arguments of call ``i``.

    ``root``: of the MACs' keys; None for entries without MACs, as a version before sealed them.
    """

    chain: Chain
    clock: Clock
    randomness: Randomness
    heads: list[Head | None] = field(default_factory=list)
    drafts: list[tuple[PreparedDraft, ...]] = field(default_factory=list)
    sealed: list[tuple[Entry, ...]] = field(default_factory=list)
    root: bytes | None = ROOT

    def __call__(self, head: Head | None, drafts: Sequence[PreparedDraft]) -> Sequence[Entry]:
        self.heads.append(head)
        self.drafts.append(tuple(drafts))
        randomness = self.randomness.bytes(ID_RANDOM_BYTES * len(drafts))
        mac = None if self.root is None else self._mac
        entries = seal_entries(self.chain, head, drafts, now_us=self.clock.now_us(), randomness=randomness, mac=mac)
        self.sealed.append(tuple(entries))
        return entries

    def _mac(self, time_us: int, entry_hash: str) -> str:
        return entry_mac(epoch_key(self.root or b"", epoch_of(time_us)), entry_hash)

    def drafts_seen(self) -> list[PreparedDraft]:
        """The drafts of the last call, which is the one that counts."""
        return list(self.drafts[-1]) if self.drafts else []


class RefusingSealer(Sealer):
    """Seals, then raises :class:`SealRefused`: the append must leave no trace."""

    def __call__(self, head: Head | None, drafts: Sequence[PreparedDraft]) -> Sequence[Entry]:
        Sealer.__call__(self, head, drafts)
        raise SealRefused


class WatchedSealer:
    """A seal that notices how it is called: ``at_once_max`` times at once, ``late_count`` times after :meth:`end`."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._lock = Lock()
        self._running_count = 0
        self._has_ended = False
        self.at_once_max = 0
        self.late_count = 0

    def __call__(self, head: Head | None, drafts: Sequence[PreparedDraft]) -> Sequence[Entry]:
        with self._lock:
            self._running_count += 1
            self.at_once_max = max(self.at_once_max, self._running_count)
            self.late_count += self._has_ended
        try:
            sleep(_SEAL_S)
            return self._sealer(head, drafts)
        finally:
            with self._lock:
                self._running_count -= 1

    def end(self) -> None:
        """The append has returned or raised; a call that still runs is late too."""
        with self._lock:
            self._has_ended = True
            self.late_count += self._running_count


class Writer:
    """Writes made-up entries to a store. One per test: ids are unique because all come from its random source.

    ``root``: of the MACs' keys; None for entries without MACs.
    """

    def __init__(
        self, store: EntryStore, clock: ManualClock | None = None, seed: int = 0, root: bytes | None = ROOT
    ) -> None:
        self.store = store
        self.root = root
        self.clock = clock or ManualClock()
        self._randomness = SeededRandomness(seed)

    def draft(
        self,
        agent_id: str = "agent",
        *,
        kind: str = DECISION,
        key: str | None = None,
        body: Mapping[str, object] | None = None,
        payload: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        erasable: bool = True,
    ) -> PreparedDraft:
        """A draft in the shape of a decision. ``erasable=False``: one without a payload."""
        fields: dict[str, object] = {
            "agent_id": agent_id,
            "action_type": "email_send",
            "confidence": 0.5,
            "human_in_loop": False,
            "external_id": key,
        }
        content: dict[str, object] = {
            "inputs": {},
            "outputs": {},
            "alternatives": None,
            "metadata": dict(metadata or {}),
        }
        content |= dict(payload or {})
        whole = Draft(kind, "system", fields | dict(body or {}), content if erasable else None, key)
        return prepare(whole, self._randomness.bytes(SALT_BYTES))

    def redaction(self, target: Entry, reason: str = "asked for") -> PreparedDraft:
        """The draft that the ledger plugin writes to erase ``target``."""
        body: dict[str, object] = {
            "target_seq": target.seq,
            "target_id": entry_id(target),
            "target_hash": target.hash,
            "reason": reason,
        }
        return prepare(Draft(REDACTION, "system", body, None, f"{REDACTION}:{target.seq}"), b"")

    def seal(self, chain: Chain) -> Sealer:
        """A seal for one append to that chain."""
        return Sealer(chain, self.clock, self._randomness, root=self.root)

    def refusing_seal(self, chain: Chain) -> RefusingSealer:
        """A seal that raises :class:`SealRefused`."""
        return RefusingSealer(chain, self.clock, self._randomness, root=self.root)

    def watched_seal(self, chain: Chain, *, refuses: bool = False) -> WatchedSealer:
        """A seal that notices how it is called."""
        return WatchedSealer(self.refusing_seal(chain) if refuses else self.seal(chain))

    async def append(self, chain: Chain, *drafts: PreparedDraft) -> Appended:
        """Append these drafts, or one made-up draft."""
        return await self.store.append(chain, drafts or (self.draft(),), self.seal(chain))

    async def fill(self, chain: Chain, count: int, agent_id: str = "agent") -> list[Entry]:
        """Append ``count`` entries in one batch."""
        appended = await self.append(chain, *(self.draft(agent_id) for _ in range(count)))
        return list(appended.entries)

    async def redact(self, chain: Chain, target: Entry) -> Entry:
        """Erase the target's payload."""
        return await self.store.redact(chain, target, self.redaction(target), self.seal(chain))

    def on(self, store: EntryStore) -> Writer:
        """The same clock and random source, another store."""
        other = Writer(store, self.clock, root=self.root)
        other._randomness = self._randomness
        return other


def entry_id(entry: Entry) -> str:
    """The id in the entry's statement."""
    return parse_statement(entry.statement).id
