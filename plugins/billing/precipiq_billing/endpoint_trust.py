"""Whether a stored Stripe endpoint counts: this deployment wrote its row, and its chain announces it as it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from precipiq_billing.endpoint_store import EndpointStore, StripeEndpoint
from precipiq_billing.kinds import ENDPOINT_CREATED, ENDPOINT_DELETED, ENDPOINT_SECRET_SET
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.ledger import Ledger
from precipiq_macs.announcements import Announcements
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs
from precipiq_macs.row_reports import NOT_OURS, RowReports


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """What the chain says of one endpoint. Fingerprints: None without a secret, and in entries of older versions.

    ``known``: those of all secrets that it ever had; ``previous_until_us``: how long the one before is good.
    ``is_doubtful``: somebody took the idempotency key from an entry about it, so that its event can be sealed again.
    """

    fingerprint: str | None = None
    previous: str | None = None
    previous_until_us: int = -1
    known: frozenset[str] = frozenset()
    is_deleted: bool = False
    is_doubtful: bool = False


class EndpointTrust:
    """Compares endpoints with their chains; a value of ``trusted_rows``.

    An event that waits to be sealed announces too: a row of the outbox has a MAC as well. One that was sealed and is
    put back into the outbox does not: its secret is known.
    """

    name = "stripe_endpoints"

    def __init__(self, store: EndpointStore, ledger: Ledger, macs: RowMacs) -> None:
        self._store = store
        self._ledger = ledger
        self._macs = macs
        kinds = (ENDPOINT_CREATED, ENDPOINT_SECRET_SET, ENDPOINT_DELETED)
        self._announcements = Announcements(ledger, kinds, dict[str, AnnouncedEndpoint], _fold)
        self._reports = RowReports("precipiq.billing", "a Stripe endpoint does not count: it takes no delivery")

    async def counting(self, endpoints: Sequence[StripeEndpoint]) -> list[StripeEndpoint]:
        """Those of these endpoints of one chain that count; what is wrong is logged once. Raises ``Unavailable``."""
        counted, findings = await self._judge(endpoints)
        if findings:
            self._reports.note(endpoints[0].chain, findings)
        return counted

    async def is_ours(self, endpoint: StripeEndpoint) -> bool:
        """Whether a server of this deployment wrote the row, as it once was; asks no chain. Raises ``Unavailable``."""
        return await self._macs.hold(endpoint.sealed, endpoint.mac)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        async for chain in self._store.chains():
            yield chain

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        return (await self._judge(await self._store.of_chain(chain)))[1]

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``. The secret is taken as it was found: older entries do not say which it is."""
        await self._store.events.deliver_all(self._ledger)
        after = ""
        while page := await self._store.page(after):
            for old in page:
                said = (await self._announcements.of(old.chain)).get(old.endpoint_id)
                if said is not None and not said.is_deleted and not self._matches(old):
                    previous = None if old.previous_secret is None else said.previous
                    new = replace(old, secret_fingerprint=said.fingerprint, previous_fingerprint=previous)
                    await self._store.adopt(old, new)
            after = page[-1].endpoint_id

    def _matches(self, endpoint: StripeEndpoint) -> bool:
        return endpoint.mac is not None and self._macs.matches(endpoint.sealed, endpoint.mac)

    async def _judge(self, endpoints: Sequence[StripeEndpoint]) -> tuple[list[StripeEndpoint], list[RowFinding]]:
        counted: list[StripeEndpoint] = []
        findings: list[RowFinding] = []
        said: Mapping[str, AnnouncedEndpoint] | None = None
        for endpoint in endpoints:
            found: StripeEndpoint | None = endpoint
            if not await self.is_ours(endpoint):
                findings.append(RowFinding(ROW_UNANNOUNCED, endpoint.endpoint_id, NOT_OURS))
                continue
            said = said or await self._said(endpoint.chain)
            problem = self._contradiction(said.get(endpoint.endpoint_id), endpoint)
            if problem is not None:
                # A row changes before its entry is sealed: read after the entries, it is at least as new as they are.
                said = await self._said(endpoint.chain)
                found = await self._store.by_id(endpoint.endpoint_id)
                if found is not None:
                    is_ours = await self.is_ours(found)
                    problem = self._contradiction(said.get(found.endpoint_id), found) if is_ours else NOT_OURS
            if found is not None and problem is not None:
                findings.append(RowFinding(ROW_UNANNOUNCED, found.endpoint_id, problem))
            elif found is not None:
                counted.append(found)
        return counted, findings

    async def _said(self, chain: Chain) -> Mapping[str, AnnouncedEndpoint]:
        """What the chain says of its endpoints, and what waits to be sealed."""
        waiting = await self._store.events.fetch_ours(chain)
        said = dict(await self._announcements.of(chain))  # after them: one may have been sealed in between
        for event in waiting:
            is_news = event.kind != ENDPOINT_CREATED or event.body.get("endpoint_id") not in said
            if event.kind == ENDPOINT_SECRET_SET:
                announced = said.get(str(event.body.get("endpoint_id")), AnnouncedEndpoint())
                is_news = event.body.get("secret_fingerprint") not in announced.known
            if is_news:
                _take(said, event.kind, event.body)
        return said

    def _contradiction(self, said: AnnouncedEndpoint | None, endpoint: StripeEndpoint) -> str | None:
        if said is None:
            return "no entry of the chain announces it"
        if said.is_deleted:
            return "the chain says that it was deleted"
        if said.is_doubtful:
            return "an entry about it has lost its idempotency key"
        if not self._matches(endpoint):
            return None  # not settled: a server of the version before sets secrets without their fingerprints
        if endpoint.secret_fingerprint != said.fingerprint:
            return "the chain announces another secret"
        if endpoint.previous_secret is not None and (
            endpoint.previous_fingerprint != said.previous
            or (endpoint.previous_expires_us or 0) > said.previous_until_us
        ):
            return "the chain does not say that its previous secret is still good"
        return None


def _fold(said: dict[str, AnnouncedEndpoint], entry: Entry) -> None:
    statement = parse_statement(entry.statement)
    _take(said, statement.kind, statement.body)
    if entry.idempotency_key is None:
        endpoint_id = str(statement.body.get("endpoint_id"))
        said[endpoint_id] = replace(said[endpoint_id], is_doubtful=True)


def _take(said: dict[str, AnnouncedEndpoint], kind: str, body: Mapping[str, Any]) -> None:
    endpoint_id = str(body.get("endpoint_id"))
    before = said.get(endpoint_id, AnnouncedEndpoint())
    fingerprint, until = body.get("secret_fingerprint"), body.get("previous_good_until")
    if kind == ENDPOINT_DELETED:
        said[endpoint_id] = replace(before, is_deleted=True)
    elif kind in (ENDPOINT_CREATED, ENDPOINT_SECRET_SET):
        said[endpoint_id] = AnnouncedEndpoint(
            fingerprint,
            None if until is None else before.fingerprint,
            -1 if until is None else parse_timestamp(str(until)),
            before.known | ({fingerprint} if fingerprint is not None else set()),
            before.is_deleted,
            before.is_doubtful,
        )
