"""A clock that was once ahead, or behind, is told in log, metric, readiness and verdict; far off, nothing is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from precipiq_contracts.chain import Chain, Draft, EntryKind, Head
from precipiq_contracts.errors import Unavailable
from precipiq_core.background import BackgroundTasks
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.clock_watch import ClockLimits, ClockMetrics, ClockWatch
from precipiq_ledger.errors import ClockUntrusted
from precipiq_ledger.records import verdict_record
from precipiq_ledger.sealing import EntrySealer, MasterEpochKeys
from precipiq_ledger.service import LedgerService, Limits
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_testkit.clock import START_US, ManualClock, SeededRandomness
from precipiq_testkit.memory import MemoryDriver

pytestmark = pytest.mark.anyio

CHAIN, OTHER = Chain("org_alpha", "test"), Chain("org_beta", "test")
NOTE = EntryKind("note", "a note")
LIMITS = ClockLimits(ahead_warn_s=5, ahead_max_s=300, step_max_s=2, interval_s=1)
HOUR_S = 3600.0


class Machine:
    """A server process with a clock of its own, over a store that others may share."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.watch = ClockWatch(self.clock, LIMITS, ClockMetrics(self.registry))
        self.ledger = LedgerService(
            self.clock, SeededRandomness(), Limits(10_000, 64), self.watch, EntrySealer(MasterEpochKeys(Signing()))
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    async def seal(self, chain: Chain = CHAIN, key: str | None = None) -> Any:
        appended = await self.ledger.append(chain, [Draft("note", "key", {}, None, key)])
        return appended.entries[0]

    async def trouble(self) -> str | None:
        try:
            await self.watch.look()
        except ClockUntrusted as error:
            return error.message
        return None


@pytest.fixture
async def machines() -> Any:
    one, two = Machine(), Machine()
    async with MemoryDriver().open() as store:
        for machine in (one, two):
            machine.ledger.start(store, {"note": NOTE})
        yield one, two


async def test_a_chain_far_ahead_of_the_clock_takes_nothing_until_the_clock_is_there(machines: Any) -> None:
    wrong, right = machines
    wrong.clock.step(HOUR_S)
    await wrong.seal()
    with structlog.testing.capture_logs() as lines, pytest.raises(ClockUntrusted, match="3600 s ahead") as refused:
        await right.seal()
    assert (refused.value.code, refused.value.retry_after_s) == ("clock_untrusted", HOUR_S - 300)
    assert [(line["log_level"], line["org_id"], line["ahead_s"]) for line in lines] == [("critical", "org_alpha", 3600)]
    assert right.metric("precipiq_clock_refused_seals_total") == 1
    assert await right.trouble() == "the newest entry of a chain is 3600 s ahead of this server's clock"
    assert right.metric("precipiq_clock_head_ahead_seconds") == HOUR_S
    await right.seal(OTHER)  # other chains go on
    right.clock.advance(HOUR_S - 300)
    assert (await right.seal()).seq == 2
    right.clock.advance(300)
    assert await right.trouble() is None
    assert right.metric("precipiq_clock_head_ahead_seconds") == 0


async def test_nothing_was_stored_and_a_known_draft_is_answered_all_the_same(machines: Any) -> None:
    wrong, right = machines
    wrong.clock.step(HOUR_S)
    first = await wrong.seal(key="once")
    with pytest.raises(ClockUntrusted):
        await right.seal(key="twice")
    assert (await right.ledger.head(CHAIN)).seq == 1
    assert await right.seal(key="once") == first


@pytest.mark.parametrize(("ahead_s", "is_warned"), [(4.9, False), (6.0, True), (299.0, True)])
async def test_a_smaller_distance_is_a_warning_once_a_minute(machines: Any, ahead_s: float, is_warned: bool) -> None:
    wrong, right = machines
    wrong.clock.step(ahead_s)
    await wrong.seal()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await right.seal()
    assert [line["log_level"] for line in lines] == ["warning"] * is_warned
    assert await right.trouble() is None
    assert (right.metric("precipiq_clock_head_ahead_seconds") or 0) > 0 if is_warned else True
    if ahead_s == 299.0:
        right.clock.advance(61)
        with structlog.testing.capture_logs() as lines:
            await right.seal()
        assert len(lines) == 1


async def test_the_head_of_an_idle_chain_is_noticed_too(machines: Any) -> None:
    _, right = machines
    right.watch.note_head(CHAIN, Head(7, "0" * 64, START_US + 400_000_000))
    assert await right.trouble() == "the newest entry of a chain is 400 s ahead of this server's clock"
    right.watch.note_head(CHAIN, None)


@pytest.mark.parametrize(("by_s", "direction"), [(2.5, "forward"), (-HOUR_S, "back"), (HOUR_S, "forward")])
async def test_a_step_of_the_clock_is_told(machines: Any, by_s: float, direction: str) -> None:
    machine, _ = machines
    machine.clock.advance(60)
    machine.clock.step(by_s)
    with structlog.testing.capture_logs() as lines:
        trouble = await machine.trouble()
    assert [(line["log_level"], line["by_s"]) for line in lines] == [("critical", by_s)]
    assert machine.metric("precipiq_clock_steps_total", direction=direction) == 1
    assert trouble == (f"this server's clock was set by {by_s:+.0f} s" if abs(by_s) > 300 else None)
    machine.clock.advance(301)
    with structlog.testing.capture_logs() as lines:
        assert await machine.trouble() is None
    assert lines == []


async def test_what_passes_is_no_step(machines: Any) -> None:
    """Time goes on, the machine sleeps, NTP slews by half a thousandth."""
    machine, _ = machines
    with structlog.testing.capture_logs() as lines:
        for seconds in (1, 8 * HOUR_S, 60):
            machine.clock.advance(seconds)
            machine.clock.step(min(seconds * 0.0005, 1.9))
            assert await machine.trouble() is None
    assert lines == []


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_the_clock_is_compared_with_the_databases(machines: Any, by_s: float) -> None:
    """A machine that is ahead refuses to seal, before it pins a chain; one that is behind can pin none."""
    machine, other = machines

    async def now_us() -> int:
        return int(other.clock.now_us())

    machine.watch.reference = now_us
    machine.clock.step(by_s)
    await machine.trouble()
    machine.clock.advance(301)
    other.clock.advance(301)
    where = "ahead of" if by_s > 0 else "behind"
    assert await machine.trouble() == f"this server's clock is 3600 s {where} the database's"
    if by_s > 0:
        with pytest.raises(ClockUntrusted, match="ahead of the database's"):
            await machine.seal()
    else:
        await machine.seal()
    machine.clock.step(-by_s)
    await machine.trouble()
    machine.clock.advance(301)
    other.clock.advance(301)
    assert await machine.trouble() is None
    await machine.seal()


async def test_a_database_that_is_away_is_no_wrong_clock(machines: Any) -> None:
    machine, _ = machines

    async def now_us() -> int:
        raise Unavailable

    machine.watch.reference = now_us
    assert await machine.trouble() is None


async def test_readiness_names_the_clock_at_once(machines: Any) -> None:
    machine, _ = machines
    machine.watch.note_head(CHAIN, Head(1, "0" * 64, START_US + 400_000_000))
    background = BackgroundTasks(machine.clock, lambda: machine.registry)
    async with machine.watch.run(background):
        for _ in range(20):
            await _yield()
        machine.clock.advance(0.001)
        with pytest.raises(Unavailable):
            await background.pings["ledger.clock"]()


async def test_a_verdict_says_that_times_are_ahead(machines: Any, tmp_path: Path) -> None:
    wrong, right = machines
    wrong.clock.step(HOUR_S)
    await wrong.seal()
    limits = VerifierLimits(10, 1, 100, 1, 10)
    for machine, doubts in ((right, 1), (wrong, 0)):
        verifier = Verifier(Signing(), CheckpointFiles(tmp_path), limits, machine.watch)
        verdict = await verifier.verify(machine.ledger.store.auditor(), CHAIN)
        assert verdict.is_valid
        about_times = [each for each in verdict_record(verdict, machine.clock.now_us())["unchecked"] if "times" in each]
        assert len(about_times) == doubts
    assert about_times == []
    assert verdict_record(verdict, machine.clock.now_us())["is_valid"]


class Signing:
    def derive(self, purpose: str) -> bytes:
        return purpose.encode().ljust(32, b"0")[:32]


async def _yield() -> None:
    import asyncio

    await asyncio.sleep(0)
