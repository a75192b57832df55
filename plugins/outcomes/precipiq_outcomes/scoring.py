"""How likely a decision led to an event of money: four parts from 0 to 1, their weights, and their sum. Pure.

- temporal: halves with every half-life between the decision and the event.
- metadata: the share of common values in both metadata (Jaccard index).
- prior: the share of confirmed ones among the worker's answered links of that agent: (confirmed + 1) / (answered + 2).
- amount: 1 when the amount stands among the decision's inputs and outputs, else 0.5.
An event whose metadata name the decision's id is as good as certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

CERTAIN = 1.0
REFERENCE_NAMES = ("decision_id", "precipiq_decision_id")
"""Names of metadata that tell which decision an event belongs to."""

_NODES_MAX = 2000
_TEXT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Weights:
    """Parts of 1."""

    temporal: float
    metadata: float
    prior: float
    amount: float


@dataclass(frozen=True, slots=True)
class Money:
    """An event as it is scored. Times in microseconds; ``amount``: signed."""

    occurred_us: int
    amount: Decimal
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A decision as it is scored. ``content``: its inputs and outputs. ``answers``: confirmed and all, of its agent."""

    decision_id: str
    decided_us: int
    metadata: Mapping[str, Any]
    content: object
    answers: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Score:
    """The parts and their weighted sum, each rounded to four digits; ``reference``: the event names the decision."""

    temporal: float
    metadata: float
    prior: float
    amount: float
    total: float
    reference: bool

    def as_json(self, weights: Weights) -> dict[str, Any]:
        """The score in the link's entry: each part with its weight."""
        return {
            "total": self.total,
            "reference": self.reference,
            "parts": {
                name: {"score": getattr(self, name), "weight": getattr(weights, name)}
                for name in ("temporal", "metadata", "prior", "amount")
            },
        }


def score(money: Money, candidate: Candidate, weights: Weights, half_life_us: int) -> Score:
    """How likely that decision led to that event."""
    age = max(0, money.occurred_us - candidate.decided_us)
    temporal = round(0.5 ** (age / half_life_us), 4)
    metadata = round(_overlap(money.metadata, candidate.metadata), 4)
    good, answered = candidate.answers
    prior = round((good + 1) / (answered + 2), 4)
    amount = 1.0 if _holds_amount(candidate.content, abs(money.amount)) else 0.5
    total = weights.temporal * temporal + weights.metadata * metadata + weights.prior * prior + weights.amount * amount
    is_named = any(str(money.metadata.get(name)) == candidate.decision_id for name in REFERENCE_NAMES)
    return Score(temporal, metadata, prior, amount, CERTAIN if is_named else round(total, 4), is_named)


def _overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    one, other = set(_values(first)), set(_values(second))
    return len(one & other) / len(one | other) if one and other else 0.0


def _values(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Scalars as texts, without their names, which differ between systems. Flags are left out: they tell nothing."""
    for value in _scalars(metadata):
        if not isinstance(value, bool) and value is not None:
            yield str(value)[:_TEXT_CHARACTERS_MAX]


def _holds_amount(content: object, amount: Decimal) -> bool:
    if amount == 0:
        return False
    for value in _scalars(content):
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 24:
            continue
        try:
            if abs(Decimal(str(value))) == amount:
                return True
        except InvalidOperation:
            continue
    return False


def _scalars(value: object) -> Iterator[object]:
    """Every scalar in nested objects and arrays, within the bounds of the walk."""
    stack, left = [value], _NODES_MAX
    while stack and left:
        left -= 1
        node = stack.pop()
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
        else:
            yield node
