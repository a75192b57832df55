"""The parent of several workers on one socket: starts, watches, restarts and ends them. Serves nothing itself.

The parent stops a worker through its channel rather than by a signal: a signal would kill a worker that is still
starting. The first worker starts alone, so that one-time steps (a key file, a schema, a first organisation) happen in
one process.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.serving import EXIT_CRASHED, EXIT_OK, EXIT_START_FAILED
from precipiq_hypercorn.worker import READY, STOP, Seat

log = structlog.get_logger("precipiq.workers")

DEATHS_MAX = 5
DEATHS_WINDOW_S = 60.0
STOP_MARGIN_S = 20.0

_BACKOFF_S = 0.1
_KILL_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Running:
    process: asyncio.subprocess.Process
    channel: socket.socket
    ready: bool = False

    def read(self) -> bytes | None:
        """The worker's message: empty when it has closed the channel, None when there is nothing to read."""
        try:
            return self.channel.recv(1)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def ask_to_stop(self) -> None:
        with suppress(OSError):
            self.channel.send(STOP)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """``settings.workers`` processes of ``command``, each with ``--worker SEAT`` added, until SIGTERM or SIGINT.

    ``on_ready``: called once, when all of them serve. ``on_death``: called with the number of a worker that has died,
    before it is restarted. ``stop_margin_s``: a worker's time beyond the drain before it is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        listening: socket.socket,
        settings: HypercornConfig,
        *,
        on_ready: Callable[[], None],
        on_death: Callable[[int], None],
        stop_margin_s: float = STOP_MARGIN_S,
    ) -> None:
        self._command = command
        self._environment = environment
        self._listening = listening
        self._settings = settings
        self._on_ready = on_ready
        self._on_death = on_death
        self._stop_margin_s = stop_margin_s
        self._running: dict[int, _Running] = {}
        self._deaths_s: deque[float] = deque(maxlen=DEATHS_MAX)
        self._verdict: int | None = None
        self._killing = False
        self._stop = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._all_ready = asyncio.Event()

    async def run(self) -> int:
        """The exit code: 0 when every worker ended with 0, 2 when one could not start, else the highest of theirs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        keepers = [asyncio.create_task(self._keep(1))]
        try:
            if await self._wait_unless_stopped(self._first_ready):
                keepers += [asyncio.create_task(self._keep(number)) for number in range(2, self._settings.workers + 1)]
                if await self._wait_unless_stopped(self._all_ready):
                    self._on_ready()
            await self._stop.wait()
            self._listening.close()
            return await self._end(keepers)
        finally:
            self._kill_all()

    async def _end(self, keepers: Sequence[asyncio.Task[int]]) -> int:
        timeout_s = self._settings.drain_timeout_s
        log.info("stopping", drain_timeout_s=timeout_s, workers=len(self._running))
        _, late = await asyncio.wait(keepers, timeout=timeout_s + self._stop_margin_s)
        if late:
            log.critical("workers did not end in time and are killed", numbers=sorted(self._running))
            self._conclude(EXIT_CRASHED)
            self._kill_all()
            await asyncio.wait(late, timeout=_KILL_TIMEOUT_S)
        codes = [keeper.result() if keeper.done() else EXIT_CRASHED for keeper in keepers]
        worst = max(EXIT_CRASHED if code < 0 else code for code in codes)
        code = worst if self._verdict is None else self._verdict
        if code == EXIT_OK:
            log.info("stopped")
        else:
            log.critical("ended", exit_code=code)
        return code

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("stopped at once")
            self._conclude(EXIT_CRASHED)
            self._kill_all()
        self._begin_stop()

    def _begin_stop(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            for worker in self._running.values():
                worker.ask_to_stop()

    def _conclude(self, code: int) -> None:
        """End with that code, unless an earlier failure has decided it."""
        self._verdict = self._verdict or code
        self._begin_stop()

    def _kill_all(self) -> None:
        self._killing = True
        for worker in self._running.values():
            worker.kill()

    async def _wait_unless_stopped(self, event: asyncio.Event) -> bool:
        waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return not self._stop.is_set()

    async def _keep(self, number: int) -> int:
        """Run that worker, and another one in its place when it dies, until the stop. The last one's exit code."""
        try:
            has_served = False
            while True:
                code, was_ready = await self._run_once(number)
                has_served = has_served or was_ready
                if self._stop.is_set() or not self._goes_on(number, code, has_served):
                    return code
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BACKOFF_S * 2 ** len(self._deaths_s)):
                        await self._stop.wait()
                        return code
        except Exception as error:
            log.critical("crashed", error=type(error).__name__, exc_info=True)
            self._conclude(EXIT_CRASHED)
            return EXIT_CRASHED

    def _goes_on(self, number: int, code: int, has_served: bool) -> bool:
        """Whether the worker that ended unasked is to be started again."""
        if not has_served:
            log.critical("a worker could not start", number=number, **_describe_exit(code))
            self._conclude(EXIT_START_FAILED if code == EXIT_START_FAILED else EXIT_CRASHED)
            return False
        log.critical("a worker died", number=number, **_describe_exit(code))
        self._on_death(number)
        now_s = asyncio.get_running_loop().time()
        while self._deaths_s and now_s - self._deaths_s[0] > DEATHS_WINDOW_S:
            self._deaths_s.popleft()
        self._deaths_s.append(now_s)
        if len(self._deaths_s) < DEATHS_MAX:
            return True
        log.critical("too many workers died: giving up", deaths=DEATHS_MAX, window_s=DEATHS_WINDOW_S)
        self._conclude(EXIT_CRASHED)
        return False

    async def _run_once(self, number: int) -> tuple[int, bool]:
        """One life of that worker: its exit code, and whether it was ready."""
        try:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    process = await self._spawn(Seat(number, self._listening.fileno(), theirs.fileno()))
                ours.setblocking(False)
                return await self._watch(number, _Running(process, ours))
        except OSError as error:
            log.critical("a worker's process cannot be made", number=number, reason=error.strerror)
            return EXIT_CRASHED, False

    async def _spawn(self, seat: Seat) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--worker",
            str(seat),
            stdin=subprocess.DEVNULL,
            env=self._environment,
            pass_fds=(seat.listening, seat.channel),
            process_group=0,  # Ctrl-C in a terminal is for the parent
        )

    async def _watch(self, number: int, worker: _Running) -> tuple[int, bool]:
        loop = asyncio.get_running_loop()
        self._running[number] = worker
        loop.add_reader(worker.channel, self._on_message, worker)
        if self._stop.is_set():
            worker.ask_to_stop()
        if self._killing:
            worker.kill()
        try:
            code = await worker.process.wait()
            return code, worker.ready or worker.read() == READY  # its end may be known before its last message is read
        finally:
            loop.remove_reader(worker.channel)
            del self._running[number]

    def _on_message(self, worker: _Running) -> None:
        message = worker.read()
        if message == b"":
            asyncio.get_running_loop().remove_reader(worker.channel)
        if message != READY:
            return
        worker.ready = True
        self._first_ready.set()
        if sum(each.ready for each in self._running.values()) == self._settings.workers:
            self._all_ready.set()


def _describe_exit(code: int) -> dict[str, int | str]:
    if code >= 0:
        return {"exit_code": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:
        return {"signal": str(-code)}
