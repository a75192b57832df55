"""Work that is repeated says once that it cannot be done, and once that it can again."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from precipiq_contracts.errors import Unavailable
from precipiq_core.periodic import repeat

pytestmark = pytest.mark.anyio


async def test_a_failure_is_said_once_and_so_is_its_end() -> None:
    away, fault = Unavailable("away"), RuntimeError("a fault")
    outcomes = [None, away, away, None, None, fault, fault, None]
    done = asyncio.Event()

    async def work() -> None:
        if not outcomes:
            done.set()
            return
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with structlog.testing.capture_logs() as lines:
        task = asyncio.create_task(repeat(work, 0.001, "it cannot be done"))
        await asyncio.wait_for(done.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    said = [(line["log_level"], line["event"], line.get("reason"), line.get("exc_info")) for line in lines]
    again = ("info", "works again", None, None)
    assert said == [
        ("warning", "it cannot be done", "away", None),
        again,
        ("error", "it cannot be done", None, fault),
        again,
    ]


async def test_it_ends_when_it_is_cancelled() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(repeat(work, 0.001, "x"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
