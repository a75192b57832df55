"""Whether a stored key counts: its row has this server's MAC, and its chain announces it and has not ended it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from precipiq_auth_keys.kinds import KEY_CREATED, KEY_REVOKED, KEY_ROTATED
from precipiq_auth_keys.store import KeyRecord, KeyStore
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.ledger import Ledger
from precipiq_macs.announcements import Announcements
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs
from precipiq_macs.row_reports import NOT_OURS, RowReports

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Announced:
    """What the chain says of one key. ``fingerprint`` and ``expires_us``: None in entries of older versions."""

    scopes: tuple[str, ...]
    fingerprint: str | None
    expires_us: int | None
    is_revoked: bool = False
    replaced_by: str | None = None


_ENDED = Announced((), None, None, is_revoked=True)
"""What is kept of all keys that were revoked: a tenant may have made and revoked any number."""


def fingerprint_of(secret_hash: str) -> str:
    """What a chain says of a key's secret: the SHA-256, in hex, of the hash that is stored of it."""
    return sha256(f"precipiq key\n{secret_hash}".encode()).hexdigest()


class KeyTrust:
    """Compares keys with their chains; a value of ``trusted_rows``.

    An event that waits to be sealed announces its key too: a row of the outbox has a MAC as well.
    """

    name = "api_keys"

    def __init__(self, store: KeyStore, ledger: Ledger, macs: RowMacs) -> None:
        self._store = store
        self._ledger = ledger
        self._macs = macs
        self._announcements = Announcements(ledger, (KEY_CREATED, KEY_ROTATED, KEY_REVOKED), _nothing, _fold)
        self._reports = RowReports("precipiq.auth_keys", "an API key does not count: it opens nothing")

    async def counts(self, key: KeyRecord) -> bool:
        """As :meth:`counting`."""
        return bool(await self.counting([key]))

    async def counting(self, keys: Sequence[KeyRecord]) -> list[KeyRecord]:
        """Those of these keys of one chain that count; what is wrong is logged once. Raises ``Unavailable``."""
        problems = await self._problems(keys)
        if problems:
            self._reports.note(keys[0].chain, _findings(problems))
        return [key for key in keys if key.key_id not in problems]

    async def is_ours(self, key: KeyRecord) -> bool:
        """Whether a server of this deployment wrote the row, as it once was; asks no chain. Raises ``Unavailable``."""
        is_ours = await self._macs.hold(key.sealed, key.mac)
        if not is_ours:
            self._reports.note(key.chain, _findings({key.key_id: NOT_OURS}))
        return is_ours

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        async for chain in self._store.chains():
            yield chain

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        return _findings(await self._problems(await self._store.keys(chain)))

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``."""
        await self._store.events.deliver_all(self._ledger)
        after = ""
        while page := await self._store.page(after):
            for key in page:
                if key.mac is None or not self._macs.matches(key.sealed, key.mac):
                    announced = (await self._announcements.of(key.chain)).get(key.key_id)
                    if announced is not None and _contradiction(announced, key) is None:
                        await self._store.adopt(key)
            after = page[-1].key_id

    async def _problems(self, keys: Sequence[KeyRecord]) -> dict[str, str]:
        """Why keys of one chain count for nothing, by their ids."""
        if not keys:
            return {}
        said = await self._said(keys[0].chain, {key.key_id for key in keys})
        found: dict[str, str] = {}
        for number, key in enumerate(keys, start=1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # a tenant may have made any number of keys: others have their turn
            problem = await self._problem(key, said)
            if problem is not None:
                # A row changes before its entry is sealed: read after the entries, it is at least as new as they are.
                fresh = await self._store.key(key.chain, key.key_id)
                problem = None if fresh is None else await self._problem(fresh, said)
            if problem is not None:
                found[key.key_id] = problem
        return found

    async def _problem(self, key: KeyRecord, said: Mapping[str, Announced]) -> str | None:
        if not await self._macs.hold(key.sealed, key.mac):
            return NOT_OURS
        announced = said.get(key.key_id)
        return "no entry of the chain announces it" if announced is None else _contradiction(announced, key)

    async def _said(self, chain: Chain, key_ids: AbstractSet[str]) -> Mapping[str, Announced]:
        """What the chain says of these keys, and of those that it does not name what waits to be sealed."""
        said = await self._announcements.of(chain)
        if key_ids <= said.keys():
            return {key_id: said[key_id] for key_id in key_ids}
        waiting: dict[str, Announced] = {}
        for event in await self._store.events.fetch_ours(chain):
            _take(waiting, event.kind, event.body)
        said = {**waiting, **await self._announcements.of(chain)}  # again: it may have been sealed in between
        return {key_id: said[key_id] for key_id in key_ids & said.keys()}


def _findings(problems: Mapping[str, str]) -> list[RowFinding]:
    return [RowFinding(ROW_UNANNOUNCED, key_id, problem) for key_id, problem in problems.items()]


def _nothing() -> dict[str, Announced]:
    return {}


def _fold(said: dict[str, Announced], entry: Entry) -> None:
    statement = parse_statement(entry.statement)
    _take(said, statement.kind, statement.body)


def _take(said: dict[str, Announced], kind: str, body: Mapping[str, Any]) -> None:
    """A first announcement stands, and an end is final: who has an old event sealed again gains nothing by it."""
    key_id = str(body.get("key_id"))
    if kind == KEY_CREATED:
        said.setdefault(key_id, _announced(body))
    elif kind == KEY_ROTATED:
        new_id = str(body.get("new_key_id"))
        said.setdefault(new_id, _announced(body))
        if key_id in said and not said[key_id].is_revoked:
            said[key_id] = replace(said[key_id], replaced_by=new_id)
    else:
        said[key_id] = _ENDED


def _announced(body: Mapping[str, Any]) -> Announced:
    expires_at = body.get("expires_at")
    return Announced(
        tuple(map(str, body.get("scopes", ()))),
        body.get("fingerprint"),
        None if expires_at is None else parse_timestamp(str(expires_at)),
    )


def _contradiction(said: Announced, key: KeyRecord) -> str | None:
    """Where the row grants more than the chain says. A row that grants less is ahead of an event that waits."""
    if said.is_revoked:
        return None if key.is_revoked else "the chain says that it was revoked"
    if key.scopes != said.scopes:
        return f"the chain gives it the scopes {' '.join(said.scopes)}"
    if said.fingerprint is not None and said.fingerprint != fingerprint_of(key.secret_hash):
        return "the chain announces another secret"
    if said.fingerprint is not None and said.expires_us != key.expires_us:
        return "the chain announces another expiry"
    if said.replaced_by is not None and key.revoked_us is None:
        return f"the chain says that {said.replaced_by} replaced it"
    return None
