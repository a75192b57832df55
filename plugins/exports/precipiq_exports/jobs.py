"""An export as it is stored: its request, owner, progress and result. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Scalar

Status: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled", "expired"]
Format: TypeAlias = Literal["jsonl", "csv"]

BACKOFF_MAX_S = 300.0
"""The longest wait of an export after a failure."""

FORMATS: tuple[Format, ...] = ("jsonl", "csv")


@dataclass(frozen=True, slots=True)
class Request:
    """The request of an export; None where the client said nothing.

    ``start`` (inclusive) and ``end`` (exclusive): timestamps as in the chain. ``after_seq`` < seq <= ``through_seq``.
    ``agent_id`` and ``action_type``: only decisions with these.
    """

    start: str | None = None
    end: str | None = None
    agent_id: str | None = None
    action_type: str | None = None
    after_seq: int | None = None
    through_seq: int | None = None
    formats: tuple[Format, ...] = FORMATS

    @property
    def filters(self) -> dict[str, str | int | None]:
        """The request without its formats, in the contract's words."""
        return {
            "start": self.start,
            "end": self.end,
            "agent_id": self.agent_id,
            "action_type": self.action_type,
            "after_seq": self.after_seq,
            "through_seq": self.through_seq,
        }


@dataclass(frozen=True, slots=True)
class Range:
    """The entries that an export looks at, fixed when it first runs: ``after_seq`` < seq <= ``through_seq``."""

    after_seq: int
    through_seq: int

    @property
    def entries_count(self) -> int:
        return self.through_seq - self.after_seq


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason of a failed export: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """One export. Times in microseconds since the epoch.

    ``attempt`` counts the claims, and fences: the store refuses the writes of an earlier attempt.
    ``failures``: the attempts that ended badly. ``result``: what the finished bundle holds, for the contract's shape.
    """

    export_id: str
    chain: Chain
    status: Status
    request: Request
    actor: str
    created_us: int
    started_us: int | None
    finished_us: int | None
    expires_us: int | None
    attempt: int
    failures: int
    range: Range | None
    progress: float
    size_bytes: int | None
    sha256: str | None
    result: Mapping[str, Any]
    failure: Failure | None

    @property
    def bundle(self) -> str:
        """The name under which this attempt's bundle is stored."""
        return bundle_name(self.export_id, self.attempt)


def bundle_name(export_id: str, attempt: int) -> str:
    """The name of an attempt's file: an abandoned attempt cannot touch the file of another."""
    return f"{export_id}.{attempt}.zip"


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life: another with each renewal of an attempt's lease. ``leases.LeaseObserver`` judges by it."""

    export_id: str
    attempt: int
    beat: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The owner of an attempt: while it gives signs of life, no other process works on the export."""

    export_id: str
    attempt: int
    owner: str

    def values(self, **more: Scalar) -> dict[str, Scalar]:
        return {"export_id": self.export_id, "attempt": self.attempt, "owner": self.owner, **more}
