"""Whether a stored signing key counts: its row has this server's MAC, and its chain announces that public key.

A key that the chain says was replaced is retired, whatever its row says; the current key is the last that is announced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.ledger import Ledger
from precipiq_exports.kinds import KEY_CREATED, KEY_ROTATED
from precipiq_exports.signer import fingerprint
from precipiq_exports.signing_key_store import SigningKey, SigningKeyStore
from precipiq_macs.announcements import Announcements
from precipiq_macs.row_macs import KEY_UNANCHORED, RowFinding, RowMacs
from precipiq_macs.row_reports import NOT_OURS, RowReports

UNANNOUNCED = "no entry of the chain announces it"


@dataclass(frozen=True, slots=True)
class AnnouncedKey:
    """What the chain says of one key. ``seq``: of its entry. ``retired_us``, ``replaced_by``: None for the current."""

    fingerprint: str
    seq: int
    retired_us: int | None = None
    replaced_by: str | None = None


@dataclass(slots=True)
class AnnouncedKeys:
    """What a chain says of its keys. ``current``: the id of the one that was announced last."""

    by_id: dict[str, AnnouncedKey] = field(default_factory=dict)
    current: str | None = None

    def awaits(self, key: SigningKey) -> bool:
        """Whether the key may be the next that the chain announces; that its row is ours is another question."""
        return key.key_id not in self.by_id and key.retired_us is None and key.replaces == self.current


class SigningKeyTrust:
    """Compares signing keys with their chains; a value of ``trusted_rows``."""

    name = "signing_keys"

    def __init__(self, store: SigningKeyStore, ledger: Ledger, macs: RowMacs) -> None:
        self._store = store
        self._macs = macs
        self._announcements = Announcements(ledger, (KEY_CREATED, KEY_ROTATED), AnnouncedKeys, _fold)
        self._reports = RowReports("precipiq.exports", "a signing key does not count: it signs and proves nothing")

    async def said(self, chain: Chain) -> AnnouncedKeys:
        """What the chain says now. Raises ``Unavailable``."""
        said = await self._announcements.of(chain)
        return AnnouncedKeys(dict(said.by_id), said.current)

    async def is_ours(self, key: SigningKey) -> bool:
        """Whether a server of this deployment wrote the row, as it once was. Raises ``Unavailable``."""
        return await self._macs.hold(key.sealed, key.mac)

    async def published(self, keys: Sequence[SigningKey]) -> list[SigningKey]:
        """Those of these keys that count, in their order, each retired as its chain says. Raises ``Unavailable``."""
        counted: list[SigningKey] = []
        announced: dict[Chain, Mapping[str, AnnouncedKey]] = {}
        for key in keys:
            if key.chain not in announced:
                announced[key.chain] = (await self.said(key.chain)).by_id
            said = announced[key.chain].get(key.key_id)
            if said is None or not await self.is_ours(key) or said.fingerprint != fingerprint(key.public_key):
                continue
            counted.append(replace(key, announced_seq=said.seq, retired_us=key.retired_us or said.retired_us))
        return counted

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        async for chain in self._store.chains():
            yield chain

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``. A row changes before its entry is sealed: read after the entries, it is as new."""
        said = await self.said(chain)
        keys = await self._store.of_chain(chain)
        findings = [
            RowFinding(KEY_UNANCHORED, key.key_id, problem)
            for key in keys
            if (problem := await self._problem(key, said)) is not None
        ]
        if findings and said.by_id != (await self.said(chain)).by_id:
            return await self.audit(chain)  # announced in between
        if said.current is not None and said.current not in {key.key_id for key in keys}:
            findings.append(RowFinding(KEY_UNANCHORED, said.current, "the chain announces it, and its row is gone"))
        return findings

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``. A key that was stored and not announced yet is taken as it was found."""
        after = ""
        while page := await self._store.page(after):
            for key in page:
                if key.mac is None or not self._macs.matches(key.sealed, key.mac):
                    said = await self.said(key.chain)
                    if said.awaits(key) or _contradiction(said, key) is None:
                        await self._store.adopt(key)
            after = page[-1].key_id

    async def report(self, key: SigningKey, said: AnnouncedKeys) -> str:
        """Log why this key, which may not sign, does not count; gives that sentence."""
        problem = await self._problem(key, said) or "the chain's current key is another"
        self._reports.note(key.chain, [RowFinding(KEY_UNANCHORED, key.key_id, problem)])
        return problem

    async def _problem(self, key: SigningKey, said: AnnouncedKeys) -> str | None:
        if not await self.is_ours(key):
            return NOT_OURS
        return None if said.awaits(key) else _contradiction(said, key)


def _contradiction(said: AnnouncedKeys, key: SigningKey) -> str | None:
    announced = said.by_id.get(key.key_id)
    if announced is None:
        return UNANNOUNCED
    if announced.fingerprint != fingerprint(key.public_key):
        return "the chain announces another public key"
    if announced.replaced_by is not None and key.retired_us is None:
        return f"the chain says that {announced.replaced_by} replaced it"
    return None


def _fold(said: AnnouncedKeys, entry: Entry) -> None:
    statement = parse_statement(entry.statement)
    key_id = str(statement.body.get("key_id"))
    if said.current is not None:
        at_us = parse_timestamp(statement.timestamp)
        said.by_id[said.current] = replace(said.by_id[said.current], retired_us=at_us, replaced_by=key_id)
    said.by_id[key_id] = AnnouncedKey(str(statement.body.get("fingerprint")), entry.seq)
    said.current = key_id
