"""What the upkeep deletes of exports: bundles of attempts that do not count, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_exports.jobs import Job, Request, Status, bundle_name
from precipiq_exports.upkeep import Upkeep
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

EXPORT_ID = "exp_" + "0" * 32


@dataclass
class Exports:
    """Store, service and bundle store of one export that left something behind."""

    left: list[Job]
    deleted: list[str] = field(default_factory=list)

    async def deliver_events(self) -> None:
        return

    async def expire(self, now_us: int) -> None:
        return

    async def with_leftovers(self, limit: int) -> list[Job]:
        return self.left

    async def note_tidied(self, job: Job) -> None:
        self.left.remove(job)

    async def delete(self, name: str) -> None:
        self.deleted.append(name)


@pytest.mark.parametrize(
    ("status", "gone"), [("completed", [1, 2]), ("failed", [1, 2, 3]), ("cancelled", [1, 2, 3]), ("expired", [1, 2, 3])]
)
async def test_bundles_of_attempts_that_do_not_count_are_deleted(
    status: Status, gone: list[int], tmp_path: Path
) -> None:
    times = (1, None, None, None)
    job = Job(
        EXPORT_ID, Chain("org_1", "test"), status, Request(), "key_1", *times, 3, 0, None, 0.0, None, None, {}, None
    )
    exports = Exports([job])
    await Upkeep(exports, exports, exports, ManualClock(), tmp_path, 1.0).look()  # type: ignore[arg-type]
    assert exports.deleted == [bundle_name(EXPORT_ID, attempt) for attempt in gone]
    assert exports.left == []
