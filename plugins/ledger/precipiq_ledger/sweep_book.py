"""What a sweep knows of each chain: how far it checked, when, and what it found. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from precipiq_chain.verify import GENESIS, Anchor
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.ledger import ChainBreak, CheckpointComparison
from precipiq_ledger.anchors import Compared
from precipiq_macs.row_macs import RowFinding
from precipiq_schema.schema_state import SchemaState


@dataclass(frozen=True, slots=True)
class Pass:
    """A check of a whole chain that ended well: ``checked_count`` entries up to ``seq``, in microseconds of time."""

    began_us: int
    ended_us: int
    checked_count: int
    seq: int
    hash: str


@dataclass(slots=True)
class Swept:
    """What is known of one chain.

    ``tail``: everything new was checked up to there, at ``tail_us``. ``at``: how far the pass that is under way came,
    ``began_us``: when it began, 0 without one. ``last``: the last whole pass; ``compared``: the checkpoints at its end,
    None where an older version made it; ``exempt_through``: see ``MacCheck``, as it was then. ``broken``: the fault
    found, at ``broken_us``. ``seen_us``: when the chain was first seen.
    By the monotonic clock, since the time of day may be set: ``since_s``, when the last whole pass began, else when the
    chain was first seen; ``again_s``, when a broken chain may be looked at again.
    """

    seen_us: int
    tail: Anchor = GENESIS
    tail_us: int = 0
    at: Anchor = GENESIS
    began_us: int = 0
    last: Pass | None = None
    compared: Compared | None = None
    exempt_through: int = 0
    broken: ChainBreak | None = None
    broken_us: int = 0
    since_s: float = 0.0
    again_s: float = 0.0

    def age_s(self, now_s: float) -> float:
        """Seconds since the last whole pass began, or since the chain was first seen."""
        return now_s - self.since_s

    def is_due(self, now_s: float, within_s: float) -> bool:
        """Whether the next pass should begin, so that it ends in time: half way, since the machine may be busy."""
        return self.last is None or bool(self.began_us) or self.age_s(now_s) >= within_s / 2


@dataclass(slots=True)
class SweepBook:
    """All chains that were swept. ``written_us``: when this was last put on record.

    ``schema``: the database's, each definition as its SHA-256, as it was when it was recorded. ``drift``: the names of
    what differs from that now. ``rows``: of each chain those that grant what it does not say, if any.
    """

    chains: dict[Chain, Swept] = field(default_factory=dict)
    written_us: int = 0
    schema: SchemaState | None = None
    drift: tuple[str, ...] = ()
    rows: dict[Chain, tuple[RowFinding, ...]] = field(default_factory=dict)

    def broken(self) -> dict[Chain, ChainBreak]:
        """The chains with a fault."""
        return {chain: swept.broken for chain, swept in self.chains.items() if swept.broken is not None}

    def due(self, now_s: float, within_s: float) -> list[Chain]:
        """The chains whose pass is under way or should begin, the longest unchecked first."""
        waiting = [
            chain
            for chain, swept in self.chains.items()
            if swept.broken is None and swept.tail.seq and swept.is_due(now_s, within_s)
        ]
        return sorted(waiting, key=lambda chain: (self.chains[chain].since_s, chain.org_id, chain.environment))

    def stale(self, now_s: float, within_s: float) -> int:
        """How many chains were not checked whole in time."""
        return sum(swept.broken is None and swept.age_s(now_s) > within_s for swept in self.chains.values())

    def count_since(self, now_us: int, now_s: float, within_s: float) -> None:
        """Go on with a book that was read. A pass has half its time left: the time of day may have been set."""
        for swept in self.chains.values():
            began_us = swept.seen_us if swept.last is None else swept.last.began_us
            swept.since_s = now_s - min(max(now_us - began_us, 0) / 1e6, within_s / 2)

    def to_json(self) -> dict[str, Any]:
        """The book as JSON has it."""
        schema = self.schema
        described = None
        if schema is not None:
            described = {
                "revisions": sorted(schema.revisions),
                "guards": dict(schema.guards),
                "indexes": dict(schema.indexes),
            }
        chains = [
            {"org_id": chain.org_id, "environment": chain.environment, **_kept(swept)}
            for chain, swept in sorted(self.chains.items(), key=lambda item: (item[0].org_id, item[0].environment))
        ]
        rows = [
            {"org_id": chain.org_id, "environment": chain.environment, "findings": [asdict(each) for each in findings]}
            for chain, findings in self.rows.items()
        ]
        drift = list(self.drift)
        return {"written_us": self.written_us, "chains": chains, "schema": described, "drift": drift, "rows": rows}


def _kept(swept: Swept) -> dict[str, Any]:
    """Without what belongs to this process's clock."""
    return {name: value for name, value in asdict(swept).items() if name not in ("since_s", "again_s")}


def book_of(content: Mapping[str, Any]) -> SweepBook:
    """The book in that JSON. Raises ``ValueError`` where it is none."""
    try:
        schema = content["schema"]
        return SweepBook(
            dict(map(_row, content["chains"])),
            content["written_us"],
            None
            if schema is None
            else SchemaState(frozenset(schema["revisions"]), schema["guards"], schema["indexes"]),
            tuple(content["drift"]),
            {_chain(row): tuple(RowFinding(**each) for each in row["findings"]) for row in content.get("rows", ())},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the record of sweeps is not readable") from error


def _chain(row: Mapping[str, Any]) -> Chain:
    return Chain(str(row["org_id"]), cast("Environment", row["environment"]))


def _row(row: dict[str, Any]) -> tuple[Chain, Swept]:
    chain = _chain(row)
    last, broken, compared = row["last"], row["broken"], row.get("compared")
    return chain, Swept(
        row["seen_us"],
        Anchor(**row["tail"]),
        row["tail_us"],
        Anchor(**row["at"]),
        row["began_us"],
        None if last is None else Pass(**last),
        None if compared is None else _compared(**compared),
        row.get("exempt_through", 0),
        None if broken is None else ChainBreak(**broken),
        row["broken_us"],
    )


def _compared(comparison: dict[str, Any], unchecked: list[str]) -> Compared:
    """Of a chain that is not failed: the findings are of age alone."""
    findings = tuple(ChainBreak(**finding) for finding in comparison["findings"])
    return Compared(CheckpointComparison(**{**comparison, "findings": findings}), tuple(unchecked))
