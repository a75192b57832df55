"""The exposure of a decision that may turn out wrong. Pure, exact.

``min(base x confidence x human x max(loss rate, 0.10), cap)``: base by the type of action, twice for a confidence below
one half, one and a half times without a human in the loop; the loss rate is the share of the agent's decisions of that
type that have a cost or liability link, 0.5 while there are fewer than five.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from precipiq_outcomes.amounts import round_amount

DECISIONS_LEAST = 5
LOW_CONFIDENCE = 0.5

_LOSS_RATE_LEAST = Decimal("0.10")
_LOSS_RATE_UNKNOWN = Decimal("0.5")


@dataclass(frozen=True, slots=True)
class RiskModel:
    """``bases``: by type of action; ``base``: of any other; ``cap``: the most one decision is estimated at."""

    bases: Mapping[str, Decimal]
    base: Decimal
    cap: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The facts of an estimate. ``past_decisions``, ``past_losses``: of the agent and type of action, so far."""

    action_type: str
    low_confidence: bool
    human_in_loop: bool
    past_decisions: int
    past_losses: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """The exposure with its factors. ``low`` and ``high``: half and twice of it."""

    exposure: Decimal
    base: Decimal
    confidence_factor: Decimal
    human_factor: Decimal
    loss_rate: Decimal

    @property
    def low(self) -> Decimal:
        return round_amount(self.exposure / 2)

    @property
    def high(self) -> Decimal:
        return round_amount(self.exposure * 2)


def estimate(model: RiskModel, facts: Circumstances) -> Estimate:
    """The estimate under these circumstances, to the cent."""
    base = model.bases.get(facts.action_type, model.base)
    confidence = Decimal(2 if facts.low_confidence else 1)
    human = Decimal("1") if facts.human_in_loop else Decimal("1.5")
    rate = _LOSS_RATE_UNKNOWN
    if facts.past_decisions >= DECISIONS_LEAST:
        rate = Decimal(facts.past_losses) / facts.past_decisions
    exposure = round_amount(min(base * confidence * human * max(rate, _LOSS_RATE_LEAST), model.cap))
    return Estimate(exposure, base, confidence, human, round(rate, 6))
