"""Work that is repeated says once that it cannot be done, and once that it can again."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from precipiq_core.errors import Unavailable
from precipiq_core.periodic import repeat

pytestmark = pytest.mark.anyio


async def test_a_failure_is_said_once_and_so_is_its_end() -> None:
    outcomes = [
        None,
        Unavailable("away"),
        Unavailable("away"),
        None,
        None,
        Unavailable("away"),
        RuntimeError("a fault"),
    ]
    done = 0

    async def work() -> None:
        nonlocal done
        outcome = outcomes[done]
        done += 1
        if outcome is not None:
            raise outcome

    with structlog.testing.capture_logs() as lines, pytest.raises(RuntimeError, match="a fault"):
        await repeat(work, 0.001, "it cannot be done")
    assert done == len(outcomes)
    said = [(line["log_level"], line["event"], line.get("reason")) for line in lines]
    failing = ("warning", "it cannot be done", "away")
    assert said == [failing, ("info", "works again", None), failing]


async def test_it_ends_when_it_is_cancelled() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(repeat(work, 0.001, "x"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
