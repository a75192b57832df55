"""Whether a stored subscription gives a plan: this deployment wrote its row, and the organisation's chain announces it.

Of each subscription the chain's greatest state counts, so an older row that is put back gives nothing. Entries stand in
the organisation's chain ``live``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from precipiq_billing.kinds import PLAN_SUBSCRIPTION_CHANGED
from precipiq_billing.plans.store import Stored, SubscriptionStore, plan_chain, subscription_body
from precipiq_billing.plans.subscriptions import COUNTING_STATUSES, SubscriptionState
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.ledger import Ledger
from precipiq_macs.announcements import Announcements
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs
from precipiq_macs.row_reports import NOT_OURS, RowReports

Bodies = dict[str, Mapping[str, Any]]
"""Of each subscription the body of the entry with its greatest state."""


class PlanTrust:
    """Compares subscriptions with chains; a value of ``trusted_rows``. An event that waits to be sealed announces too.

    ``on_audit``: awaited with an organisation and the versions that its chain announces, as often as it is audited.
    """

    name = "plan_subscriptions"

    def __init__(self, store: SubscriptionStore, ledger: Ledger, macs: RowMacs) -> None:
        self._store = store
        self._ledger = ledger
        self._macs = macs
        self._announcements = Announcements(ledger, (PLAN_SUBSCRIPTION_CHANGED,), Bodies, _fold)
        self._reports = RowReports("precipiq.billing", "a subscription does not count: it gives no plan")
        self.on_audit: Callable[[str, Mapping[str, str]], Awaitable[None]] = _do_nothing

    async def is_known(self, org_id: str) -> bool:
        """Whether the organisation has an entry: a misspelt one must not become a chain. Raises ``Unavailable``."""
        heads = [await self._ledger.head(Chain(org_id, environment)) for environment in ("live", "test")]
        return heads != [None, None]

    async def announce(self) -> None:
        """Seal the events that wait; one that cannot be sealed now stays."""
        await self._store.events.deliver(self._ledger)

    async def counting(self, rows: Sequence[Stored]) -> list[SubscriptionState]:
        """Those of these that count; what is wrong is logged once. Raises ``Unavailable``.

        The chain is asked about those that can give a plan.
        """
        counted: list[SubscriptionState] = []
        said: dict[str, Bodies] = {}
        for row in rows:
            state = row.state
            if _gives(state) and state.org_id not in said:
                said[state.org_id] = await self._said(state.org_id)
            problem = await self._problem(row, said[state.org_id] if _gives(state) else None)
            if problem is None:
                counted.append(state)
                continue
            fresh, problem = await self._second_look(state.subscription_id)
            if problem is not None:
                finding = RowFinding(ROW_UNANNOUNCED, state.subscription_id, problem)
                self._reports.note(plan_chain(state.org_id), [finding])
            elif fresh is not None:
                counted.append(fresh)
        return counted

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        for org_id in await self._store.organisations():
            yield plan_chain(org_id)

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        if chain != plan_chain(chain.org_id):
            return ()
        findings: list[RowFinding] = []
        for row in await self._store.of_organisation(chain.org_id):
            _, problem = await self._second_look(row.state.subscription_id)
            if problem is not None:
                findings.append(RowFinding(ROW_UNANNOUNCED, row.state.subscription_id, problem))
        bodies = await self._announcements.of(chain)
        await self.on_audit(chain.org_id, {name: str(body.get("version")) for name, body in bodies.items()})
        return findings

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``. Before the MACs no entry told of plans: rows are announced as they were found."""
        after = ""
        while page := await self._store.page(after):
            for row in page:
                is_right = row.mac is not None and self._macs.matches(row.sealed, row.mac)
                if is_right:
                    continue
                if not row.state.org_id or await self.is_known(row.state.org_id):
                    await self._store.adopt(row)
                else:
                    await self._store.adopt_of_nobody(row)
            after = page[-1].state.subscription_id
        await self.announce()

    async def _second_look(self, subscription_id: str) -> tuple[SubscriptionState | None, str | None]:
        """The row as it is now, and why it does not count.

        A row changes before its entry is sealed: read after the entries, it is at least as new as they are.
        """
        first = await self._store.get(subscription_id)
        if first is None:
            return None, None
        said = await self._said(first.state.org_id)
        fresh = await self._store.get(subscription_id)
        if fresh is None or fresh.state.org_id != first.state.org_id:
            return None, None  # it moves just now: the process that moved it announces it
        return fresh.state, await self._problem(fresh, said)

    async def _problem(self, row: Stored, said: Bodies | None) -> str | None:
        """Why the row does not count; ``said`` None: whatever the chain says."""
        if not await self._macs.hold(row.sealed, row.mac):
            return NOT_OURS
        if said is None or row.mac is None or not self._macs.matches(row.sealed, row.mac):
            return None  # or not settled: a server of the version before announces nothing
        return _contradiction(said, row.state)

    async def _said(self, org_id: str) -> Bodies:
        chain = plan_chain(org_id)
        waiting = await self._store.events.fetch_ours(chain) if org_id else []
        said = dict(await self._announcements.of(chain)) if org_id else {}
        for event in waiting:
            if event.kind == PLAN_SUBSCRIPTION_CHANGED:
                _take(said, event.body)
        return said


async def _do_nothing(org_id: str, versions: Mapping[str, str]) -> None:
    """Where no plans are kept in memory."""


def _gives(state: SubscriptionState) -> bool:
    return bool(state.org_id) and not state.is_deleted and state.status in COUNTING_STATUSES


def _contradiction(said: Bodies, state: SubscriptionState) -> str | None:
    if not state.org_id:
        return None
    body = said.get(state.subscription_id)
    if body is None:
        return "no entry of the organisation's chain announces it"
    return None if body == subscription_body(state) else "the chain announces another state of it"


def _fold(said: Bodies, entry: Entry) -> None:
    _take(said, parse_statement(entry.statement).body)


def _take(said: Bodies, body: Mapping[str, Any]) -> None:
    name = str(body.get("subscription_id"))
    if name not in said or str(body.get("version")) >= str(said[name].get("version")):
        said[name] = body
