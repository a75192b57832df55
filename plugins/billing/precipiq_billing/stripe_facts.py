"""What events of Stripe told of one object, and the total that follows from all of it. Pure.

Stripe tells totals that can fall: a refund that fails takes back what a charge had refunded. So no single event says
what a register must have reached; all of them together do, in whatever order they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Total:
    """A snapshot: the total was ``now``, and ``before`` until then; None when the event does not say."""

    now: int
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A refund failed, or was canceled: that much is refunded no more."""

    refund_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A dispute's balance transactions by then: (id, amount, fee) each, negative where money was withdrawn."""

    transactions: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A dispute took ``amount``, or gave it back where it is negative; told without balance transactions."""

    amount: int


Told: TypeAlias = Total | Failure | Moved | Withdrawn


@dataclass(frozen=True, slots=True)
class Fact:
    """What one event told, and when it happened, seconds since the epoch."""

    created_s: int
    told: Told


_TOLD: Mapping[str, type[Told]] = {"total": Total, "failure": Failure, "moved": Moved, "withdrawn": Withdrawn}
_NAMES = {kind: name for name, kind in _TOLD.items()}
# Changes of one second that are put in order by trying; more of them are added up.
_TRIED_MAX = 8


def write_told(told: Told) -> str:
    """For storing. Amounts and ids, nothing else: there is nothing in it that somebody may want erased."""
    return json.dumps([_NAMES[type(told)], asdict(told)], separators=(",", ":"))


def read_told(text: str) -> Told:
    name, members = json.loads(text)
    if name == "moved":
        return Moved(tuple((str(each[0]), int(each[1]), int(each[2])) for each in members["transactions"]))
    return _TOLD[name](**members)


def resolve_payment(facts: Iterable[Fact]) -> int:
    """What was received: Stripe never lowers it, so the highest total is the last one."""
    return max((fact.told.now for fact in facts if isinstance(fact.told, Total)), default=0)


def resolve_refund(facts: Sequence[Fact]) -> int:
    """What is refunded of a charge after all that is known: the newest snapshot less the failures after it."""
    changes: list[tuple[int, Total | Failure]] = [
        (fact.created_s, fact.told) for fact in facts if isinstance(fact.told, Total)
    ]
    failures: dict[str, tuple[int, Failure]] = {}
    for fact in facts:
        if isinstance(fact.told, Failure):
            known = failures.get(fact.told.refund_id)
            if known is None or (fact.created_s, fact.told.amount) < (known[0], known[1].amount):
                failures[fact.told.refund_id] = (fact.created_s, fact.told)
    total = 0
    changes.extend(failures.values())
    ordered = sorted(changes, key=lambda change: (change[0], _rank(change[1])))
    for _, group in groupby(ordered, key=lambda change: change[0]):
        total = _after(total, [change for _, change in group])
    return total


def resolve_dispute(facts: Sequence[Fact]) -> int | None:
    """What a dispute has withdrawn by all of its balance transactions; without any, by the events that moved funds.

    None when neither was told of.
    """
    told = sorted(each for fact in facts if isinstance(fact.told, Moved) for each in fact.told.transactions)
    if told:
        return -sum({transaction_id: amount for transaction_id, amount, _ in told}.values())
    moved = {fact.told for fact in facts if isinstance(fact.told, Withdrawn)}
    return sum(each.amount for each in moved) if moved else None


def _rank(change: Total | Failure) -> tuple[int, int, int]:
    """An order that is the same whatever the order of telling, and tries what is likely first."""
    if isinstance(change, Failure):
        return (1, change.amount, 0)
    return (0, change.now, -1 if change.before is None else change.before)


def _after(total: int, changes: Sequence[Total | Failure]) -> int:
    """The total after the changes of one second, which began at ``total`` if all before it is known.

    The order is one in which each snapshot begins where the change before it ended. When there is none, an event of
    earlier is missing, and snapshots count for themselves.
    """
    snapshots = [change for change in changes if isinstance(change, Total)]
    failures = [change for change in changes if isinstance(change, Failure)]
    failed = sum(each.amount for each in failures)
    if not snapshots:
        return max(0, total - failed)
    once = list(dict.fromkeys(snapshots))
    begins = [each.before for each in once if each.before is not None]
    if len(changes) > _TRIED_MAX:
        risen = sum(each.now for each in once) - sum(begins)
        return max(0, total + risen - failed) if len(begins) == len(once) else _newest(once)
    starts = [total, *begins, *(begin + each.amount for begin in begins for each in failures)]
    for tried in (snapshots, once):  # Stripe may tell one change by two events
        for start in starts:
            end = _walk(start, [*tried, *failures])
            if end is not None:
                return end
    return _newest(once)


def _walk(start: int, edges: Sequence[Total | Failure]) -> int | None:
    """Where a way from ``start`` through each of the edges ends; None when there is no such way."""
    dead: set[tuple[int, int]] = set()
    everything = (1 << len(edges)) - 1

    def walk(at: int, used: int) -> int | None:
        if used == everything:
            return at
        if (at, used) in dead:
            return None
        for index, edge in enumerate(edges):
            if not used >> index & 1 and (following := _follow(at, edge)) is not None:
                end = walk(following, used | 1 << index)
                if end is not None:
                    return end
        dead.add((at, used))
        return None

    return walk(start, 0)


def _follow(at: int, edge: Total | Failure) -> int | None:
    """The total after that change, if it can be the next. A snapshot that does not say raised what it found."""
    if isinstance(edge, Failure):
        return at - edge.amount if at >= edge.amount else None
    return edge.now if edge.before == at or (edge.before is None and at < edge.now) else None


def _newest(snapshots: Sequence[Total]) -> int:
    """The total that no other snapshot begins with; the highest where that does not say."""
    begun = {each.before for each in snapshots}
    return max([each.now for each in snapshots if each.now not in begun] or [each.now for each in snapshots])
