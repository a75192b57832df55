"""The owner of all work in the background: repeats it, backs off, and reports failures in log, metric and readiness.

One object for each application. Independent of the content of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Unpack

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from precipiq_contracts.background import ROUND_S_MAX, TaskOptions, Work
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import DeploymentError, PrecipiqError, Unavailable
from precipiq_core.system import SystemClock

BACKOFF_S = 0.1
"""The pause after a first failure; it doubles with each further one."""
BACKOFF_EXPECTED_MAX_S = 1.0
"""The longest pause after a ``PrecipiqError``, unless rounds are further apart: work resumes soon."""
BACKOFF_MAX_S = 60.0
"""The same for unforeseen exceptions, which are logged with their traceback each time."""
OVERDUE_MIN_S = 60.0
_OVERDUE_ROUNDS = 3
END_S_MAX = 15.0
"""How long a stop waits for a task that is cancelled, and for its last step; then it goes on without them."""

Pause = Callable[[float, asyncio.Event | None], Awaitable[None]]


async def pause(seconds: float, wake: asyncio.Event | None) -> None:
    """Wait for that time, or until ``wake`` is set."""
    await asyncio.sleep(0)  # a task that wakes itself must let others run
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await (wake or asyncio.Event()).wait()


@dataclass(eq=False, slots=True)
class _Task:
    """A task and its state. ``failures``: consecutive ones; ``failing_since_s``: without the tolerated ones."""

    name: str
    work: Work
    every_s: float | None
    failing: str
    again: str = "works again"
    wake: asyncio.Event | None = None
    waits_first: bool = False
    overdue_s: float | None = None
    round_s_max: float | None = ROUND_S_MAX
    tolerated: tuple[type[Exception], ...] = ()
    final: Work | None = None
    runner: asyncio.Task[None] | None = None
    failures: int = 0
    is_warned: bool = False
    failing_since_s: float | None = None
    round_since_s: float | None = None

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        logger: structlog.stdlib.BoundLogger = structlog.get_logger(f"precipiq.{self.name.partition('.')[0]}")
        return logger

    def is_expected(self, error: BaseException) -> bool:
        return isinstance(error, (PrecipiqError, *self.tolerated))

    def backoff_s(self, error: BaseException) -> float:
        most_s = BACKOFF_EXPECTED_MAX_S if self.is_expected(error) else BACKOFF_MAX_S
        return float(min(BACKOFF_S * 2 ** min(self.failures - 1, 30), max(self.every_s or 0.0, most_s)))

    def trouble(self, now_s: float) -> str | None:
        """The reason why the operator should look at it, if there is one."""
        overdue_s = max(OVERDUE_MIN_S, _OVERDUE_ROUNDS * (self.every_s or 0.0))
        if self.overdue_s is not None:
            overdue_s = self.overdue_s
        if self.failing_since_s is not None and now_s - self.failing_since_s > overdue_s:
            return f"it has failed for {now_s - self.failing_since_s:.0f} s"
        if self.round_since_s is not None and self.round_s_max is not None:
            round_s = now_s - self.round_since_s
            if round_s > self.round_s_max:
                return f"it is stuck: one round has taken {round_s:.0f} s"
        if self.runner is not None and self.runner.done() and self.every_s is not None:
            return "it has ended"
        return None


class BackgroundTasks:
    """See ``precipiq_contracts.background.Background``. ``pause``: waits between rounds.

    ``registry``: called when the first task starts, because a plugin may provide it.
    """

    def __init__(self, clock: Clock, registry: Callable[[], CollectorRegistry], pause: Pause = pause) -> None:
        self._clock = clock
        self._registry = registry
        self._pause = pause
        self._tasks: dict[str, _Task] = {}

    @cached_property
    def _failed(self) -> Counter:
        return Counter(
            "precipiq_background_failures",
            "failed rounds of work in the background",
            ("task",),
            registry=self._registry(),
        )

    @cached_property
    def _succeeded_at(self) -> Gauge:
        return Gauge(
            "precipiq_background_last_success_seconds",
            "when a task in the background last succeeded or was started, in seconds since the epoch",
            ("task",),
            registry=self._registry(),
            multiprocess_mode="livemin",
        )

    @property
    def pings(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """See ``Background.pings``."""
        return {name: partial(self._ping, task) for name, task in self._tasks.items()}

    async def _ping(self, task: _Task) -> None:
        trouble = task.trouble(self._clock.monotonic_s())
        if trouble is not None:
            raise Unavailable(trouble)

    @asynccontextmanager
    async def __call__(
        self,
        name: str,
        work: Work,
        *,
        every_s: float | None,
        failing: str,
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[None]:
        """See ``Background.__call__``."""
        if name in self._tasks:
            raise DeploymentError([f"two tasks in the background are called {name}"])
        task = self._tasks[name] = _Task(name, work, every_s, failing, **options)
        self._failed.labels(name)
        self._note_success(task)
        task.runner = asyncio.create_task(self._repeat(task), name=name)
        try:
            yield
        finally:
            task.runner.cancel()
            try:
                _, running = await asyncio.wait([task.runner], timeout=END_S_MAX)
            finally:
                del self._tasks[name]
            if running:
                task.log.error("a task in the background does not end", task=name, after_s=END_S_MAX)
            error = None if task.final is None else await _attempt(partial(_finish, task.final))
            if error is not None:
                self._failed.labels(name).inc()
                _log_final(task, error)

    async def _repeat(self, task: _Task) -> None:
        if task.waits_first and task.every_s is not None:
            await self._pause(task.every_s, task.wake)
        while True:
            if task.wake is not None:
                task.wake.clear()
            task.round_since_s = self._clock.monotonic_s()
            error = await _attempt(task.work)
            task.round_since_s = None
            if error is None:
                self._note_success(task)
            else:
                self._note_failure(task, error)
            if _is_cancelled():  # the work may have replaced the cancellation by another exception
                return
            if error is not None:
                await self._pause(task.backoff_s(error), None)
            elif task.every_s is None:
                return
            else:
                await self._pause(task.every_s, task.wake)

    def _note_success(self, task: _Task) -> None:
        if task.failures:
            task.log.info(task.again, after=task.failing, task=task.name)
        task.failures, task.is_warned, task.failing_since_s = 0, False, None
        self._succeeded_at.labels(task.name).set(self._clock.now_us() / 1_000_000)

    def _note_failure(self, task: _Task, error: BaseException) -> None:
        task.failures += 1
        self._failed.labels(task.name).inc()
        if task.failing_since_s is None and not isinstance(error, task.tolerated):
            task.failing_since_s = self._clock.monotonic_s()
        if not task.is_expected(error):
            names = {"error": type(error).__name__, "reason": _reason(error)}
            task.log.error(task.failing, task=task.name, exc_info=error, **names)
        elif not task.is_warned:
            task.is_warned = True
            task.log.warning(task.failing, task=task.name, reason=_reason(error))


def standalone_background() -> BackgroundTasks:
    """For a part that runs outside of an application: its metrics and its readiness are not exposed."""
    return BackgroundTasks(SystemClock(), CollectorRegistry)


async def _finish(final: Work) -> None:
    async with asyncio.timeout(END_S_MAX):
        await final()


async def _attempt(work: Work) -> BaseException | None:
    """Its exception. A cancellation of the current task is raised; one inside the work counts as a failure."""
    try:
        await work()
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return error
    except GeneratorExit:
        raise  # the event loop is gone
    except BaseException as error:  # noqa: BLE001  (a fault must not silently end the work; SystemExit is one here)
        return error
    return None


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _log_final(task: _Task, error: BaseException) -> None:
    event = "the last step of a task in the background failed"
    if task.is_expected(error):
        task.log.warning(event, task=task.name, reason=_reason(error))
    else:
        names = {"error": type(error).__name__, "reason": _reason(error)}
        task.log.error(event, task=task.name, exc_info=error, **names)


def _reason(error: BaseException) -> str:
    """Whole: what is cut before it is scrubbed may hide a secret from the scrubber."""
    try:
        return error.message if isinstance(error, PrecipiqError) else str(error)
    except Exception as failure:  # noqa: BLE001  (a plugin's own exception may fail in any way)
        return f"{type(error).__name__}, whose text cannot be had: {type(failure).__name__}"
