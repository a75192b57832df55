"""The book of plans: each organisation's limits, from subscriptions kept in memory. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import groupby

import structlog

from precipiq_billing.plans.config import PlansConfig
from precipiq_billing.plans.store import Kept, SubscriptionStore
from precipiq_billing.plans.subscriptions import (
    COUNTING_STATUSES,
    NO_ORGANISATION,
    Standing,
    SubscriptionState,
    plan_of,
    standing_of,
    state_of,
)
from precipiq_billing.plans.trust import PlanTrust
from precipiq_contracts.background import Background
from precipiq_contracts.clock import Clock
from precipiq_contracts.plans import NO_LIMITS, PlanLimits

DUPLICATE = "duplicate event; already processed"
OUTDATED = "a later state of the subscription is known"
UNKNOWN_ORGANISATION = "the organisation that the subscription names has no entry yet: nothing can announce its plan"

_ROWS_AT_ONCE = 1000
_REASONS: Mapping[Kept, str | None] = {"kept": None, "known": DUPLICATE, "outdated": OUTDATED}

log = structlog.get_logger("precipiq.billing")


class UnlimitedPlans:
    """``Plans`` of a deployment that has none: its own settings apply to every organisation."""

    def limits_of(self, org_id: str) -> PlanLimits:
        """No limits of a plan: the settings apply."""
        return NO_LIMITS

    def of(self, org_id: str) -> Standing | None:
        """None: the deployment has no plans."""
        return None


@dataclass(frozen=True, slots=True)
class _Resolved:
    standing: Standing
    limits: PlanLimits


@dataclass(frozen=True, slots=True)
class Account:
    """An organisation as the operator sees it: its plan, and each subscription with the plan it gives now."""

    org_id: str
    standing: Standing
    subscriptions: Sequence[tuple[SubscriptionState, Standing | None]]


class PlanBook:
    """``Plans`` from Stripe's subscriptions. Holds in memory the subscriptions that can give a plan."""

    def __init__(self, store: SubscriptionStore, trust: PlanTrust, config: PlansConfig, clock: Clock) -> None:
        self._store = store
        self._trust = trust
        trust.on_audit = self._drop_outdated
        self._config = config
        self._clock = clock
        self._default = _Resolved(Standing(config.default, None), config.tiers[config.default].limits)
        self._org_of: dict[str, str] = {}
        self._states: dict[str, dict[str, SubscriptionState]] = {}
        self._resolved: dict[str, _Resolved] = {}
        self._seen_change = 0
        self._refreshing = asyncio.Lock()

    def limits_of(self, org_id: str) -> PlanLimits:
        """See ``Plans.limits_of``."""
        return self._resolve(org_id).limits

    def of(self, org_id: str) -> Standing:
        """The organisation's plan, and its known end."""
        return self._resolve(org_id).standing

    async def take(self, event: object) -> str | None:
        """Apply one verified event of Stripe. None: the change is durable and counts here; else why nothing changed.

        Raises ``NotAStripeEvent`` and ``Unavailable``.
        """
        state = state_of(event)
        if isinstance(state, str):
            return state
        is_unknown = bool(state.org_id) and not await self._trust.is_known(state.org_id)
        kept = await self._store.keep(replace(state, org_id="") if is_unknown else state)
        if kept == "kept":
            await self._trust.announce()
            await self.refresh()
            self._note(state)
        if is_unknown:
            return UNKNOWN_ORGANISATION
        if not state.org_id:
            return NO_ORGANISATION
        return _REASONS[kept]

    async def refresh(self) -> None:
        """Take in the states that any process stored since the last refresh. Raises ``Unavailable``."""
        async with self._refreshing:
            while True:
                changed = await self._store.changed_after(self._seen_change, _ROWS_AT_ONCE)
                for state in await self._trust.counting(changed.rows):
                    self._put(state)
                self._seen_change = changed.change
                if len(changed.rows) < _ROWS_AT_ONCE:
                    return

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Refresh while the context is entered. While that fails the last known plans apply."""
        return background(
            "billing.plans", self.refresh, every_s=self._config.refresh_s, failing="plans cannot be looked at"
        )

    async def accounts(self) -> list[Account]:
        """Every organisation that ever had a subscription, by id; read from the database."""
        now_s = self._now_s()
        counting = await self._trust.counting(await self._store.all_of_organisations())
        return [
            self._account(org_id, list(states), now_s)
            for org_id, states in groupby(counting, lambda state: state.org_id)
        ]

    async def _drop_outdated(self, org_id: str, versions: Mapping[str, str]) -> None:
        """Forget what the chain says to have changed, where its row is hidden from this process."""
        await self.refresh()  # a row changes before its entry is sealed: what is not hidden is here now
        held = self._states.get(org_id, {})
        for state in [each for each in held.values() if each.version < versions.get(each.subscription_id, "")]:
            self._put(replace(state, is_deleted=True))

    def _account(self, org_id: str, states: Sequence[SubscriptionState], now_s: int) -> Account:
        given = [(state, standing_of(state, now_s, self._config)) for state in states]
        return Account(org_id, plan_of(states, now_s, self._config), given)

    def _resolve(self, org_id: str) -> _Resolved:
        resolved = self._resolved.get(org_id)
        if resolved is None:
            return self._default
        until_s = resolved.standing.valid_until_s
        if until_s is None or self._clock.now_us() < until_s * 1_000_000:
            return resolved
        return self._compute(org_id)

    def _compute(self, org_id: str) -> _Resolved:
        states: Iterable[SubscriptionState] = self._states.get(org_id, {}).values()
        standing = plan_of(states, self._now_s(), self._config)
        resolved = _Resolved(standing, self._config.tiers[standing.plan].limits)
        if org_id in self._states:
            self._resolved[org_id] = resolved
        else:
            self._resolved.pop(org_id, None)
        return resolved

    def _put(self, state: SubscriptionState) -> None:
        """Replace the subscription's state; drop a state that gives no plan and never will."""
        subscription_id = state.subscription_id
        before = self._org_of.pop(subscription_id, None)
        if before is not None:
            del self._states[before][subscription_id]
            if not self._states[before]:
                del self._states[before]
        if state.org_id and not state.is_deleted and state.status in COUNTING_STATUSES:
            self._org_of[subscription_id] = state.org_id
            self._states.setdefault(state.org_id, {})[subscription_id] = state
        for org_id in {before, state.org_id} - {None, ""}:
            assert org_id is not None
            self._compute(org_id)

    def _note(self, state: SubscriptionState) -> None:
        if not state.org_id:
            return
        names = {"org_id": state.org_id, "subscription_id": state.subscription_id, "status": state.status}
        log.info("subscription changed", plan=self.of(state.org_id).plan, **names)
        if not state.is_deleted and not any(price in self._config.tier_of_price for price in state.price_ids):
            log.warning("a subscription has prices of no plan", price_ids=list(state.price_ids), **names)

    def _now_s(self) -> int:
        return self._clock.now_us() // 1_000_000
