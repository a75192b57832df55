"""Which entries count: those that a sealer of this deployment made, and those that were adopted once.

An installation from before the MACs is adopted when its upgrade is over: each of its chains gets an entry that names
the last one before. Until then, entries without a MAC are let pass, and verdicts say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

import structlog

from precipiq_chain.chain_format import parse_statement, statement_kind, statement_prev_hash, statement_timestamp
from precipiq_contracts.chain import ADOPTION, Chain, Entry, Head
from precipiq_contracts.entry_store import EntryAuditor, EntryStore, UpgradingStore
from precipiq_contracts.errors import PrecipiqError
from precipiq_ledger.adoption_marks import AdoptionMarks
from precipiq_macs.entry_macs import ALL, MacCheck

log = structlog.get_logger("precipiq.ledger")

_CHAINS_REMEMBERED_MAX = 100_000
_PAGE_ENTRIES = 500
_ADOPTIONS_MAX = 10
_SCANNED_AT_ONCE = 1000

Adopt = Callable[[Chain], Awaitable[Entry]]


class Authenticity:
    """The rules for each chain, and the adoption. ``store``: gives the open store. ``root``: of the MACs' keys."""

    def __init__(self, store: Callable[[], EntryStore], root: Callable[[], bytes], marks: AdoptionMarks) -> None:
        self._store = store
        self._root = root
        self._marks = marks
        self._is_settled = False
        self._has_warned = False
        self._checks: dict[Chain, MacCheck] = {}
        self._refused: set[Chain] = set()

    async def check_of(self, chain: Chain) -> MacCheck:
        """The check of that chain's MACs. Raises ``Unavailable``."""
        known = self._checks.get(chain)
        if known is not None:
            return known
        root = await asyncio.to_thread(self._root)
        is_settled = await self._look_whether_settled()  # first: an adoption is stored before its marks
        adoption = await self._find_adoption(chain, root)
        if adoption is None and not is_settled:
            return MacCheck(root, ALL)
        check = MacCheck(root, 0 if adoption is None else adoption.seq - 1)
        if len(self._checks) >= _CHAINS_REMEMBERED_MAX:
            self._checks.clear()
        self._checks[chain] = check
        return check

    async def first_unauthentic(self, chain: Chain, entries: Sequence[Entry]) -> Entry | None:
        """See ``precipiq_contracts.ledger.Ledger.first_unauthentic``."""
        if not entries:
            return None
        check = await self.check_of(chain)
        times = [_timestamp(entry) for entry in entries]
        hashes, macs = [entry.hash for entry in entries], [entry.mac for entry in entries]
        if check.all_hold([entry.seq for entry in entries], hashes, times, macs):
            return None
        return next(
            entry
            for entry, time in zip(entries, times, strict=True)
            if not check.holds(entry.seq, entry.hash, time, entry.mac)
        )

    async def may_sign(self, chain: Chain, after_seq: int, head: Head) -> bool:
        """Whether the sealer made each entry after that seq, up to that head; logs the first time that it did not.

        Entries that need no MAC are passed over.
        """
        seq = max(after_seq, min((await self.check_of(chain)).exempt_through, head.seq))
        last: Entry | None = None
        while seq < head.seq:
            page = [entry for entry in await self._store().read(chain, seq, _PAGE_ENTRIES) if entry.seq <= head.seq]
            wrong = _first_loose(seq, last, page) or await self.first_unauthentic(chain, page)
            if not page or wrong is not None:
                return self._refuse(chain, seq + 1 if wrong is None else wrong.seq)
            last, seq = page[-1], page[-1].seq
        if last is not None and last.hash != head.hash:
            return self._refuse(chain, head.seq)
        self._refused.discard(chain)
        return True

    async def settle(self, adopt: Adopt) -> None:
        """Adopt every chain from before the MACs, once in an installation's life. ``adopt`` appends the entry.

        Raises the first error at the end; what was adopted stays so, and the next call goes on.
        """
        if self._is_settled:
            return
        if not await self._marks.are_there():
            store = self._store()
            if isinstance(store, UpgradingStore) and not await store.is_upgrade_over():
                if not self._has_warned:
                    log.warning("entries without a sealer's MAC pass until `precipiq migrate --post` ends the upgrade")
                self._has_warned = True
                return
            await self._adopt_all(adopt)
        await self._marks.complete()
        self._is_settled = True

    async def _adopt_all(self, adopt: Adopt) -> None:
        failure: PrecipiqError | None = None
        async for chain in self._store().chains():
            try:
                if await self._needs_adoption(chain):
                    entry = await adopt(chain)
                    log.warning("a chain from before the sealer's MACs was adopted", org_id=chain.org_id,
                                environment=chain.environment, seq=entry.seq)  # fmt: skip
            except PrecipiqError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def _needs_adoption(self, chain: Chain) -> bool:
        """Whether an entry lacks a MAC and no adoption covers it. In an old chain that is the first one."""
        if await self._find_adoption(chain, await asyncio.to_thread(self._root)) is not None:
            return False
        seq = 0
        while page := await self._store().read(chain, seq, 1 if seq == 0 else _PAGE_ENTRIES):
            if any(entry.mac is None for entry in page):
                return True
            seq = page[-1].seq
        return False

    async def _look_whether_settled(self) -> bool:
        self._is_settled = self._is_settled or await self._marks.are_there()
        return self._is_settled

    async def _find_adoption(self, chain: Chain, root: bytes) -> Entry | None:
        """The chain's genuine adoption, which cannot be forged and so may be found by any way."""
        store = self._store()
        try:
            found = await store.read(chain, 0, _ADOPTIONS_MAX, ADOPTION)
        except Exception:  # noqa: BLE001  (a damaged store fails in any way; its auditor reads what is left)
            found = await asyncio.to_thread(_scan_for_adoptions, store.auditor(), chain)
        return next((entry for entry in found if is_adoption(root, chain, entry)), None)

    def _refuse(self, chain: Chain, seq: int) -> bool:
        if chain not in self._refused:
            if len(self._refused) >= _CHAINS_REMEMBERED_MAX:
                self._refused.clear()
            self._refused.add(chain)
            log.critical("no checkpoint of the chain is signed: no server of this deployment made an entry of it",
                         org_id=chain.org_id, environment=chain.environment, seq=seq)  # fmt: skip
        return False


def is_adoption(root: bytes, chain: Chain, entry: Entry) -> bool:
    """Whether the sealer made this entry to adopt that chain's entries before it; wherever it was found."""
    try:
        said = parse_statement(entry.statement)
        before = said.body.get("head_seq"), said.body.get("head_hash")
        return (
            (said.org_id, said.environment, said.seq, said.kind)
            == (chain.org_id, chain.environment, entry.seq, ADOPTION)
            and before == (entry.seq - 1, said.prev_hash)
            and sha256(entry.statement).hexdigest() == entry.hash
            and MacCheck(root).holds(entry.seq, entry.hash, said.timestamp, entry.mac)
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _first_loose(seq: int, last: Entry | None, page: Sequence[Entry]) -> Entry | None:
    """The first entry that does not follow the one before it, or is not what was hashed."""
    for entry in page:
        seq += 1
        try:
            follows = last is None or statement_prev_hash(entry.statement) == last.hash
        except ValueError:
            follows = False
        if entry.seq != seq or not follows or sha256(entry.statement).hexdigest() != entry.hash:
            return entry
        last = entry
    return None


def _timestamp(entry: Entry) -> str:
    try:
        return statement_timestamp(entry.statement)
    except ValueError:
        return ""


def _scan_for_adoptions(auditor: EntryAuditor, chain: Chain) -> list[Entry]:
    found: list[Entry] = []
    for batch in auditor.batches(chain, 0, None, _SCANNED_AT_ONCE):
        for seq, hash_, statement, mac in zip(batch.seqs, batch.hashes, batch.statements, batch.macs, strict=True):
            if b'"kind":"adoption"' in statement and _is_adoption_kind(statement):
                found.append(Entry(chain, seq, hash_, statement, None, None, mac))
    return found[:_ADOPTIONS_MAX]


def _is_adoption_kind(statement: bytes) -> bool:
    try:
        return statement_kind(statement) == ADOPTION
    except (ValueError, TypeError, RecursionError):
        return False
