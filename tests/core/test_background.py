"""Work in the background: repeated whatever it raises, with pauses that grow, and told of in log, metric, readiness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from precipiq_contracts.background import Work
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.background import BACKOFF_MAX_S, BackgroundTasks, pause
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

AWAY = Unavailable("away")
FAULT = KeyError("a fault")
EVENTUALLY_S = 60.0
EVERY_S = 4.0


class World:
    """Tasks whose pauses take no time but move the clock, until ``rounds`` of them are over."""

    def __init__(self, rounds: int = 1) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.background = BackgroundTasks(self.clock, lambda: self.registry, self._pause)
        self.pauses: list[float] = []
        self.events: list[asyncio.Event | None] = []
        self.over = asyncio.Event()
        self._rounds = rounds

    async def _pause(self, seconds: float, wake: asyncio.Event | None) -> None:
        self.pauses.append(seconds)
        self.events.append(wake)
        if len(self.pauses) >= self._rounds:
            self.over.set()
            await asyncio.Event().wait()
        self.clock.advance(seconds)

    async def run(self, *outcomes: BaseException | None, **options: Any) -> list[dict[str, Any]]:
        """Rounds with these outcomes; what was logged."""
        left = list(outcomes)

        async def work() -> None:
            outcome = left.pop(0)
            if outcome is not None:
                raise outcome

        given = {"every_s": EVERY_S, "failing": "it cannot be done", **options}
        with structlog.testing.capture_logs() as lines:
            async with self.background("acme.task", work, **given), asyncio.timeout(EVENTUALLY_S):
                await self.over.wait()
        return [dict(line) for line in lines]

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"task": "acme.task"})

    async def trouble(self, name: str = "acme.task") -> str | None:
        """What the readiness of that task says."""
        try:
            await self.background.pings[name]()
        except Unavailable as error:
            return error.message
        return None


def failing_with(error: Exception) -> Work:
    async def work() -> None:
        raise error

    return work


async def nothing() -> None:
    return


async def for_ever() -> None:
    await asyncio.Event().wait()


async def settle() -> None:
    """Let tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_work_is_repeated_at_its_interval() -> None:
    world = World(rounds=3)
    assert await world.run(None, None, None) == []
    assert world.pauses == [EVERY_S] * 3


async def test_the_first_round_may_wait() -> None:
    world = World()
    await world.run(waits_first=True)
    assert world.pauses == [EVERY_S]


async def test_what_is_expected_is_said_once_and_so_is_its_end() -> None:
    world = World(rounds=6)
    lines = await world.run(AWAY, AWAY, None, AWAY, None, None, again="it can be done again")
    assert [(line["log_level"], line["event"], line.get("reason"), line["task"]) for line in lines] == [
        ("warning", "it cannot be done", "away", "acme.task"),
        ("info", "it can be done again", None, "acme.task"),
    ] * 2
    assert not any("exc_info" in line for line in lines)


async def test_what_nobody_foresaw_is_said_each_time_with_its_traceback() -> None:
    world = World(rounds=4)
    lines = await world.run(FAULT, FAULT, None, None)
    assert [(line["log_level"], line["event"], line.get("exc_info")) for line in lines] == [
        ("error", "it cannot be done", FAULT),
        ("error", "it cannot be done", FAULT),
        ("info", "works again", None),
    ]


async def test_that_something_it_waits_for_is_cancelled_does_not_end_it() -> None:
    world = World(rounds=2)
    lines = await world.run(asyncio.CancelledError(), None)
    assert [line["event"] for line in lines] == ["it cannot be done", "works again"]


@pytest.mark.parametrize(
    ("error", "every_s", "pauses"),
    [
        (FAULT, 1.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, BACKOFF_MAX_S, BACKOFF_MAX_S]),
        (AWAY, 0.5, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        (AWAY, 5.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        (FAULT, 100.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 100.0, 100.0]),
    ],
)
async def test_pauses_grow_within_bounds(error: Exception, every_s: float, pauses: list[float]) -> None:
    world = World(rounds=len(pauses))
    await world.run(*[error] * len(pauses), every_s=every_s)
    assert world.pauses == pytest.approx(pauses)


async def test_a_success_ends_the_growth_of_pauses() -> None:
    world = World(rounds=5)
    await world.run(FAULT, FAULT, None, FAULT, None)
    assert world.pauses == pytest.approx([0.1, 0.2, EVERY_S, 0.1, EVERY_S])


async def test_failures_and_the_last_success_are_metrics() -> None:
    world = World(rounds=4)
    start_s = world.clock.now_us() / 1_000_000
    await world.run(None, AWAY, FAULT, None)
    assert world.metric("precipiq_background_failures_total") == 2
    assert world.metric("precipiq_background_last_success_seconds") == pytest.approx(start_s + EVERY_S + 0.3)


async def test_a_task_that_has_ended_no_round_yet_has_its_metrics_too() -> None:
    world = World()
    async with world.background("acme.task", for_ever, every_s=1.0, failing="x"):
        assert world.metric("precipiq_background_failures_total") == 0
        assert world.metric("precipiq_background_last_success_seconds") == world.clock.now_us() / 1_000_000


@pytest.mark.parametrize("error", [AWAY, FAULT])
async def test_readiness_says_so_when_it_has_failed_for_too_long(error: Exception) -> None:
    clock, resume, broken = ManualClock(), asyncio.Event(), [True]

    async def wait(_: float, __: asyncio.Event | None) -> None:
        await resume.wait()
        resume.clear()

    async def work() -> None:
        if broken:
            raise error

    world = World()
    world.clock, world.background = clock, BackgroundTasks(clock, CollectorRegistry, wait)
    async with world.background("acme.task", work, every_s=1.0, failing="x", overdue_s=30.0):
        await settle()
        clock.advance(30.0)
        assert await world.trouble() is None
        clock.advance(5.0)
        assert await world.trouble() == "it has failed for 35 s"
        resume.set()
        await settle()
        assert await world.trouble() == "it has failed for 35 s", "one more failure ends nothing"
        broken.clear()
        resume.set()
        await settle()
        assert await world.trouble() is None
        clock.advance(10_000.0)
        assert await world.trouble() is None, "its next round is not due, whatever the clock says"


@pytest.mark.parametrize(("every_s", "overdue_s"), [(0.1, 60), (20.0, 60), (100.0, 300)])
async def test_it_is_overdue_after_three_rounds_and_a_minute_at_least(every_s: float, overdue_s: float) -> None:
    world = World()
    async with world.background("acme.task", failing_with(FAULT), every_s=every_s, failing="x"):
        await settle()
        world.clock.advance(overdue_s)
        assert await world.trouble() is None
        world.clock.advance(1)
        assert await world.trouble() is not None


async def test_what_is_tolerated_is_a_warning_and_no_matter_of_readiness() -> None:
    world, work = World(), failing_with(OSError("full"))
    with structlog.testing.capture_logs() as lines:
        async with world.background("acme.task", work, every_s=1.0, failing="x", tolerated=(OSError,)):
            await settle()
            world.clock.advance(10_000.0)
            assert await world.trouble() is None
    assert [(line["log_level"], line["reason"]) for line in lines] == [("warning", "full")]
    assert world.metric("precipiq_background_failures_total") == 1


async def test_a_round_that_never_ends_is_told_of() -> None:
    world = World()
    async with (
        world.background("acme.stuck", for_ever, every_s=1.0, failing="x", round_s_max=20.0),
        world.background("acme.patient", for_ever, every_s=1.0, failing="x", round_s_max=None),
    ):
        await settle()
        world.clock.advance(19.0)
        assert await world.trouble("acme.stuck") is None
        world.clock.advance(2.0)
        assert await world.trouble("acme.stuck") == "it is stuck: one round has taken 21 s"
        assert await world.trouble("acme.patient") is None


async def test_a_task_without_an_interval_ends_when_it_has_succeeded() -> None:
    world = World(rounds=100)
    outcomes: list[Exception | None] = [AWAY, FAULT, None]

    async def work() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    async with world.background("acme.task", work, every_s=None, failing="x"):
        await settle()
        assert outcomes == []
        assert await world.trouble() is None
    assert world.pauses == pytest.approx([0.1, 0.2])


async def test_leaving_cancels_the_work_and_waits_for_its_end() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    world = World()
    async with world.background("acme.task", work, every_s=1.0, failing="x"):
        await settle()
        assert list(world.background.pings) == ["acme.task"]
    assert ended == [True]
    assert list(world.background.pings) == []


@pytest.mark.parametrize("error", [FAULT, None])
async def test_work_that_makes_something_else_of_its_cancellation_ends_all_the_same(error: Exception | None) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    world = World(rounds=100)
    async with asyncio.timeout(EVENTUALLY_S), world.background("acme.task", work, every_s=1.0, failing="x"):
        await settle()
    assert world.pauses == []


async def test_the_last_step_comes_once_after_the_work() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("the work ended")

    async def final() -> None:
        steps.append("the last step")

    world = World()
    with pytest.raises(RuntimeError, match="of the body"):
        async with world.background("acme.task", work, every_s=1.0, failing="x", final=final):
            await settle()
            raise RuntimeError("of the body")
    assert steps == ["the work ended", "the last step"]


@pytest.mark.parametrize(("error", "level"), [(AWAY, "warning"), (FAULT, "error")])
async def test_what_the_last_step_raises_is_logged_and_goes_no_further(error: Exception, level: str) -> None:
    world, final = World(), failing_with(error)
    with structlog.testing.capture_logs() as lines:
        async with world.background("acme.task", nothing, every_s=1.0, failing="x", final=final):
            pass
    assert [(line["log_level"], line["event"], line["task"]) for line in lines] == [
        (level, "the last step of a task in the background failed", "acme.task")
    ]
    assert world.metric("precipiq_background_failures_total") == 1


async def test_a_second_stop_does_not_wait_for_the_last_step() -> None:
    world, begun = World(), asyncio.Event()

    async def final() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def live() -> None:
        async with world.background("acme.task", nothing, every_s=1.0, failing="x", final=final):
            pass

    life = asyncio.create_task(live())
    await asyncio.wait_for(begun.wait(), EVENTUALLY_S)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life


async def test_a_name_is_used_once_at_a_time() -> None:
    world = World()
    async with world.background("acme.task", nothing, every_s=1.0, failing="x"):
        with pytest.raises(DeploymentError, match=r"acme\.task"):
            async with world.background("acme.task", nothing, every_s=1.0, failing="x"):
                pass
        assert list(world.background.pings) == ["acme.task"]
    async with world.background("acme.task", nothing, every_s=1.0, failing="x"):
        pass


async def test_a_pause_ends_early_when_the_task_is_woken() -> None:
    wake = asyncio.Event()
    waiting = asyncio.create_task(pause(3600.0, wake))
    await settle()
    assert not waiting.done()
    wake.set()
    await asyncio.wait_for(waiting, EVENTUALLY_S)
    await asyncio.wait_for(pause(0.001, None), EVENTUALLY_S)


async def test_news_begin_a_round_but_hurry_none_after_a_failure() -> None:
    wake = asyncio.Event()
    wake.set()
    world = World(rounds=3)
    await world.run(None, FAULT, None, wake=wake)
    assert world.events == [wake, None, wake]
    assert not wake.is_set(), "what was set before a round is no news after it"


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "fault",
    [Wordless(), SystemExit(5), BaseExceptionGroup("group", [asyncio.CancelledError()])],
    ids=repr,
)
async def test_whatever_a_round_raises_the_task_goes_on(fault: BaseException) -> None:
    world = World(rounds=2)
    lines = await world.run(fault, None)
    assert [line["event"] for line in lines] == ["it cannot be done", "works again"]
    assert lines[0]["error"] == type(fault).__name__


async def test_a_reason_is_told_whole_so_that_it_is_scrubbed_whole() -> None:
    [line] = await World(rounds=1).run(OSError("x" * 300 + " redis://user:word@host"))
    assert line["reason"].endswith("redis://user:word@host")


@pytest.mark.parametrize("stuck", ["round", "final"])
async def test_what_does_not_end_keeps_no_stop_waiting(stuck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precipiq_core.background.END_S_MAX", 0.05)
    let_go = asyncio.Event()

    async def hang() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                if stuck == "final":
                    raise

    async def nothing() -> None: ...

    background = BackgroundTasks(ManualClock(), CollectorRegistry)
    work, final = (hang, None) if stuck == "round" else (nothing, hang)
    with structlog.testing.capture_logs() as lines:
        async with asyncio.timeout(EVENTUALLY_S):
            async with background("acme.task", work, every_s=EVERY_S, failing="it fails", final=final):
                await asyncio.sleep(0.01)
    words = {
        "round": "a task in the background does not end",
        "final": "the last step of a task in the background failed",
    }
    assert [line["event"] for line in lines] == [words[stuck]]
    let_go.set()
    await asyncio.sleep(0.05)


async def test_a_last_step_that_is_no_coroutine_keeps_no_stop_from_ending() -> None:
    def fail() -> None:
        raise KeyError("at once")

    async def nothing() -> None: ...

    background = BackgroundTasks(ManualClock(), CollectorRegistry)
    with structlog.testing.capture_logs() as lines:
        async with background("acme.task", nothing, every_s=EVERY_S, failing="it fails", final=fail):  # type: ignore[arg-type]
            pass
    assert [line["error"] for line in lines] == ["KeyError"]
