"""The ledger's domain: sealing drafts, finding entries, erasing payloads. Knows no HTTP, no database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from precipiq_chain.canonical import Json, NotCanonical
from precipiq_chain.chain_format import (
    ID_RANDOM_BYTES,
    SALT_BYTES,
    parse_statement,
    prepare,
    seal_entries,
    statement_kind,
)
from precipiq_chain.entry_record import parts_of
from precipiq_contracts.chain import ADOPTION, SYSTEM, Chain, Draft, Entry, EntryKind, Head, PreparedDraft
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.entry_store import (
    Appended,
    EntryPage,
    EntryQuery,
    EntryStore,
)
from precipiq_contracts.errors import IdempotencyConflict, NotFound, Unavailable, ValidationFailed
from precipiq_ledger.clock_watch import ClockLimits, ClockWatch
from precipiq_ledger.drafts import refuse_too_long, same_contents
from precipiq_ledger.errors import AlreadyRedacted, EntryTooLarge, NothingToRedact, UnknownKind
from precipiq_ledger.records import decision_json
from precipiq_ledger.sealing import EntrySealer
from precipiq_ledger.statements import statements_of
from precipiq_ledger.stored_bytes import STATEMENT_OVERHEAD_BYTES, StoredBytes
from precipiq_work.off_loop import LIGHT_BYTES, OffLoop, is_light

T = TypeVar("T")

REDACTION = "redaction"
RESTORE = "restore"

_FEW_DRAFTS = 16
_ADOPTION_KEY = "ledger:adoption"
_ADOPTION_NOTE = "no server proved that it made the entries before this one: they are older than the sealer's MACs"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one entry may cost: bytes of statement and payload, levels of nesting."""

    entry_bytes_max: int
    depth_max: int


class LedgerService:
    """The capability ``Ledger`` over the deployment's entry store. ``on_append`` is called with a chain that grew.

    ``sealer`` None: entries get no MAC, for tests alone. ``authenticate``: see ``Ledger.first_unauthentic``.
    """

    def __init__(
        self,
        clock: Clock,
        randomness: Randomness,
        limits: Limits,
        watch: ClockWatch | None = None,
        sealer: EntrySealer | None = None,
        off_loop: OffLoop | None = None,
    ) -> None:
        self._sealer = sealer
        self._off_loop = off_loop or OffLoop()
        self._watch = watch or ClockWatch(clock, ClockLimits())
        self._randomness = randomness
        self._limits = limits
        self._store: EntryStore | None = None
        self._kinds: Mapping[str, EntryKind] = {}
        self.usage = StoredBytes(None, None)
        self.on_append: Callable[[Chain], None] = lambda chain: None
        self.authenticate: Callable[[Chain, Sequence[Entry]], Awaitable[Entry | None]] | None = None

    def start(self, store: EntryStore, kinds: Mapping[str, EntryKind]) -> None:
        """Serve from that store."""
        self._store, self._kinds = store, kinds

    def stop(self) -> None:
        self._store = None

    @property
    def store(self) -> EntryStore:
        """The open store. Raises ``Unavailable`` before the start and after the end."""
        if self._store is None:
            raise Unavailable("the ledger is not open")
        return self._store

    async def ping(self) -> None:
        await self.store.ping()

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> Appended:
        """See ``precipiq_contracts.ledger.Ledger.append``."""
        if self.usage.limit_of(chain) is not None:
            await self.usage.load(chain)
        few = len(drafts) <= _FEW_DRAFTS  # looking at many takes as long as the hop to a thread
        light = few and is_light([part for draft in drafts for part in (draft.body, draft.payload)])
        prepared = await self._work(chain, light, partial(self._prepare, chain, drafts))
        appended = await self.store.append(chain, prepared, self._seal(chain, prepared))
        self.usage.note(chain, appended.entries, appended.created)
        self.on_append(chain)
        if not all(appended.created) and not await self._work(chain, light, partial(same_contents, prepared, appended)):
            raise IdempotencyConflict
        return appended

    async def append_request(self, chain: Chain, drafts: Sequence[Draft], key: str | None) -> Appended:
        """Append the drafts of one request; its ``Idempotency-Key`` covers the request as a whole.

        A draft that has an idempotency key of its own (a decision's ``external_id``) keeps it.
        Raises ``IdempotencyConflict`` when the key was used with other content, or with more or fewer drafts.
        """
        if key is None:
            return await self.append(chain, drafts)
        keyed = [
            draft
            if draft.idempotency_key is not None
            else Draft(draft.kind, draft.actor, draft.body, draft.payload, request_key(key, index))
            for index, draft in enumerate(drafts)
        ]
        appended = await self.append(chain, keyed)
        if not any(appended.created):
            await self._refuse_shorter_retry(chain, key, appended.entries)
        return appended

    async def _refuse_shorter_retry(self, chain: Chain, key: str, entries: Sequence[Entry]) -> None:
        after = await self.store.read(chain, entries[-1].seq, 1)
        if after and after[0].idempotency_key == request_key(key, len(entries)):
            raise IdempotencyConflict

    async def head(self, chain: Chain) -> Head | None:
        return await self.store.head(chain)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return await self.store.read(chain, after_seq, limit, kind)

    async def statements(self, chain: Chain, after_seq: int, limit: int, bytes_max: int) -> tuple[Sequence[bytes], int]:
        """See :func:`precipiq_ledger.statements.statements_of`."""
        return await statements_of(self.store, chain, after_seq, limit, bytes_max)

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        return await self.store.get(chain, entry_id)

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        return await self.store.find(chain, query, before_seq, limit)

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        return self.store.watch(chain)

    async def redact(self, chain: Chain, entry_id: str, kind: str, reason: str, actor: str) -> Entry:
        """Erase the payload of that entry; gives the redaction entry.

        Raises ``NotFound`` (no entry of that kind), ``NothingToRedact`` and ``AlreadyRedacted``.
        """
        target = await self.store.get(chain, entry_id)
        if target is None or statement_kind(target.statement) != kind:
            raise NotFound
        if target.payload is None:
            if parts_of(target.statement).payload_hash == b"null":
                raise NothingToRedact
            raise AlreadyRedacted
        body: dict[str, Json] = {
            "target_seq": target.seq,
            "target_id": entry_id,
            "target_hash": target.hash,
            "reason": reason,
        }
        draft = Draft(REDACTION, actor, body, None, f"{REDACTION}:{target.seq}")
        prepared = self._prepare(chain, [draft])
        entry = await self.store.redact(chain, target, prepared[0], self._seal(chain, prepared))
        self.usage.note(chain, [entry], [True], erased=target)
        self.on_append(chain)
        told = parse_statement(entry.statement)
        if (told.actor, told.body) != (actor, body):  # of a request that was faster
            raise AlreadyRedacted
        return entry

    async def adopt(self, chain: Chain) -> Entry:
        """Append the entry that adopts the chain's entries so far; a second call gives the first one's entry.

        Raises ``ClockUntrusted`` and ``Unavailable``.
        """
        drafts = self._prepare(chain, [Draft(ADOPTION, SYSTEM, {}, None, _ADOPTION_KEY)])
        seal = self._seal(chain, drafts)

        def seal_after(head: Head | None, new: Sequence[PreparedDraft]) -> list[Entry]:
            """The body names the head, which is known under the chain's lock alone."""
            if head is None or not new:
                return []
            body: dict[str, Json] = {"head_seq": head.seq, "head_hash": head.hash, "note": _ADOPTION_NOTE}
            return seal(head, self._prepare(chain, [Draft(ADOPTION, SYSTEM, body, None, _ADOPTION_KEY)]))

        appended = await self.store.append(chain, drafts, seal_after)
        self.on_append(chain)
        return appended.entries[0]

    async def first_unauthentic(self, chain: Chain, entries: Sequence[Entry]) -> Entry | None:
        """See ``precipiq_contracts.ledger.Ledger.first_unauthentic``."""
        return None if self.authenticate is None else await self.authenticate(chain, entries)

    async def present_decisions(self, chain: Chain, entries: Sequence[Entry]) -> list[bytes]:
        """Decisions as the REST interface shows them. See ``precipiq_contracts.chain.Present``."""
        erased = [entry.seq for entry in entries if entry.payload is None]
        redaction_ids = await self.redaction_ids(chain, erased)

        def show() -> list[bytes]:
            return [decision_json(entry, redaction_ids.get(entry.seq)) for entry in entries]

        light = sum([len(entry.payload or b"") for entry in entries]) <= LIGHT_BYTES
        return await self._work(chain, light, show)

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """See ``precipiq_contracts.entry_store.EntryReader.redaction_ids``."""
        return await self.store.redaction_ids(chain, target_seqs) if target_seqs else {}

    async def _work(self, chain: Chain, light: bool, work: Callable[[], T]) -> T:
        return work() if light else await self._off_loop.run(chain, work)

    def _prepare(self, chain: Chain, drafts: Sequence[Draft]) -> list[PreparedDraft]:
        salts = self._randomness.bytes(SALT_BYTES * len(drafts))
        prepared: list[PreparedDraft] = []
        for index, draft in enumerate(drafts):
            if draft.kind not in self._kinds:
                raise UnknownKind(f"no enabled plugin registers entries of kind {draft.kind!r}")
            refuse_too_long(chain, draft)
            salt = salts[index * SALT_BYTES : (index + 1) * SALT_BYTES]
            try:
                item = prepare(draft, salt, max_depth=self._limits.depth_max)
            except NotCanonical as error:
                path = ".".join(map(str, _draft_path(error.path, index, len(drafts))))
                raise ValidationFailed(details={path: [error.problem]}) from None
            size = len(item.body) + len(item.payload or b"") + STATEMENT_OVERHEAD_BYTES
            if size > self._limits.entry_bytes_max:
                where = f"decisions.{index}" if len(drafts) > 1 else "body"
                problem = f"is larger than {self._limits.entry_bytes_max} bytes"
                raise EntryTooLarge(details={where: [problem]})
            prepared.append(item)
        return prepared

    def _seal(self, chain: Chain, prepared: Sequence[PreparedDraft]) -> _Sealer:
        return _Sealer(
            chain,
            len([item for item in prepared if is_request_key(item.idempotency_key)]),
            self._watch,
            self._randomness,
            self._sealer,
            self.usage,
        )


@dataclass(frozen=True, slots=True)
class _Sealer:
    """Seals under the chain's lock; refuses known with new drafts, too many bytes, and all while a clock is wrong."""

    chain: Chain
    request_drafts: int
    watch: ClockWatch
    randomness: Randomness
    sealer: EntrySealer | None
    usage: StoredBytes

    def __call__(self, head: Head | None, drafts: Sequence[PreparedDraft]) -> list[Entry]:
        new = sum(is_request_key(item.idempotency_key) for item in drafts)
        if new not in (0, self.request_drafts):
            raise IdempotencyConflict
        if not drafts:
            return []
        self.usage.refuse_beyond(self.chain, drafts)
        now_us = self.watch.time_of_seal(self.chain, head)
        randomness = self.randomness.bytes(ID_RANDOM_BYTES * len(drafts))
        mac = None if self.sealer is None else self.sealer.mac
        return seal_entries(self.chain, head, drafts, now_us=now_us, randomness=randomness, mac=mac)


def request_key(key: str, index: int) -> str:
    """The idempotency key of a request's draft."""
    return f"request:{index}:{key}"


def is_request_key(key: str | None) -> bool:
    return key is not None and key.startswith("request:")


def _draft_path(path: Sequence[str | int], index: int, count: int) -> list[str | int]:
    return [*([index] if count > 1 else []), *path]
