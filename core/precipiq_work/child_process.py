"""A child process for work that this one must not do: hold keys in plain, or block the event loop.

The child is spawned, never forked, so that it has none of this process's memory, and gets its servant, a picklable
object without a secret, over a pipe. It serves one call at a time, and may call back during a call. It dumps no core,
other processes of the same user cannot trace it, and it ends with the process that started it.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable
from precipiq_work.child_process_main import ASKED, FAULT, LENGTH_BYTES, RESULT, TELLS_FAULTS, TOLD, frame
from precipiq_work.turns import Turns

# -P: no module of the working folder may replace another in a process that holds secrets.
_COMMAND = (sys.executable, "-P", "-m", "precipiq_work.child_process_main")
_MESSAGE_BYTES_MAX = 1024 * 1024
_WAITING_MAX = 1_000

Callback: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Role:
    """The purpose of a child process: its name in the log and the message to a caller when no answer comes.

    ``tells_faults``: its errors may be logged with their traceback; never in a process that holds secrets.
    """

    name: str
    no_answer: str
    log: structlog.stdlib.BoundLogger
    tells_faults: bool = True


SECRETS = Role(
    "a process that holds secrets",
    "the process that holds secrets did not answer; try again",
    structlog.get_logger("precipiq.secrets"),
    tells_faults=False,
)


class _Gone(Exception):
    """The process cannot be started, has ended, or is silent."""


class ChildProcess:
    """Calls methods of ``servant`` in a process of its own, started at the first call.

    ``servant``: picklable; its package must be installed. ``timeout_s``: the longest wait for a message
    of it; then it is replaced. ``waiting_max``: calls that wait for others. To be used from one event loop, in a
    thread that outlives the process.
    """

    def __init__(
        self, servant: object, role: Role = SECRETS, *, timeout_s: float = 30.0, waiting_max: int = _WAITING_MAX
    ) -> None:
        self._servant = pickle.dumps(servant)
        self._role = role
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turns = Turns(1, waiting_max, f"too many calls of {role.name} are waiting; try again")

    @property
    def pid(self) -> int | None:
        """The pid of the process, while there is one."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def call(self, method: str, *arguments: object, chain: Chain | None = None, **callbacks: Callback) -> Any:
        """The result of ``servant.method(*arguments, **callbacks)`` in the child.

        ``chain``: whose work it is; organisations take turns. A call that is cancelled before its turn is never sent.

        For a callback that is a coroutine function the servant waits for its result from here. For any other the
        servant does not wait. An exception of a callback is raised here, and ends the process.

        A ``PrecipiqError`` of the servant is raised here; another error becomes ``InternalError``. Raises
        ``Unavailable`` when the process cannot be started, dies, or is silent too long, and when too many calls wait.
        The next call starts another.
        """
        await self._turns.take(chain)
        task = asyncio.ensure_future(self._exchange(method, arguments, callbacks))
        task.add_done_callback(lambda task: self._note_end(task, chain))
        try:
            return await asyncio.shield(task)  # survives its caller, so that the next answer is the next call's
        except DeploymentError as error:
            # Known too late for the boot: to the caller, a part of the server is unavailable.
            raise Unavailable("; ".join(error.problems)) from None

    async def call_and_end(self, method: str, *arguments: object, **callbacks: Callback) -> Any:
        """As :meth:`call`, for a single call: the process ends with it, and at once when the caller is cancelled."""
        async with self._turns.of(None):
            try:
                return await self._exchange(method, arguments, callbacks)
            finally:
                await self._end()

    async def close(self) -> None:
        """End the process, after the waiting calls were answered. A later call would start another."""
        while True:
            async with self._turns.of(None):
                if self._turns.is_idle:
                    await self._end()
                    return

    def _note_end(self, task: asyncio.Task[Any], chain: Chain | None) -> None:
        self._turns.give_back(chain)
        if not task.cancelled():
            task.exception()  # the caller may have left: without this, asyncio would log the error as never retrieved

    async def _exchange(self, method: str, arguments: tuple[object, ...], callbacks: dict[str, Callback]) -> Any:
        kinds = {name: iscoroutinefunction(callback) for name, callback in callbacks.items()}
        message = pickle.dumps((method, arguments, kinds))
        try:
            process = await self._start()
            await self._send(process, message)
            kind, value = await self._answer(process, callbacks)
        except _Gone as error:
            code = await self._end()
            self._role.log.error(f"{self._role.name} ended", error=str(error), exit_code=code)
            raise Unavailable(self._role.no_answer) from None
        except BaseException:
            await self._end()
            raise
        return self._unwrap(kind, value)

    async def _start(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is not None:
            await self._end()
        if self._process is None:
            options = (TELLS_FAULTS,) if self._role.tells_faults else ()
            with _notice_death():
                self._process = await asyncio.create_subprocess_exec(
                    *_COMMAND,
                    self._role.name,  # for lists of processes
                    *options,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # What is printed there would pass the log, and what scrubs it; faults are told in messages.
                    stderr=asyncio.subprocess.DEVNULL,
                    limit=_MESSAGE_BYTES_MAX,
                )
            await self._send(self._process, self._servant)
            self._unwrap(*await self._answer(self._process, {}))
        return self._process

    async def _answer(self, process: asyncio.subprocess.Process, callbacks: dict[str, Callback]) -> tuple[str, Any]:
        """The kind and the value of a call's answer; serves the callbacks that come before it."""
        while True:
            kind, value = pickle.loads(await self._receive(process))  # noqa: S301  (our own child's, over a pipe)
            if kind not in (ASKED, TOLD):
                return kind, value
            name, arguments = value
            answer = callbacks[name](*arguments)
            if kind == ASKED:
                await self._send(process, pickle.dumps(await answer))

    async def _send(self, process: asyncio.subprocess.Process, message: bytes) -> None:
        assert process.stdin is not None
        with _notice_death():
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(frame(message))
                await process.stdin.drain()

    async def _receive(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        with _notice_death():
            async with asyncio.timeout(self._timeout_s):
                size = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
                if size > _MESSAGE_BYTES_MAX:
                    raise OSError("the answer is too large")
                return await process.stdout.readexactly(size)

    def _unwrap(self, kind: str, value: Any) -> Any:
        """The result in an answer. Raises the error in it."""
        if kind == RESULT:
            return value
        if kind == FAULT:
            self._role.log.error(f"{self._role.name} failed", exception=value)
            raise InternalError(f"{self._role.name} failed; see the server's log")
        raise value

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(OSError, RuntimeError):
            await process.stdout.read()  # until it is closed: only then all resources of the process are released here
        return await process.wait()


def call_once(servant: object, method: str, *arguments: object, timeout_s: float = 30.0) -> Any:
    """As :meth:`ChildProcess.call`, in a process for this one call; blocks until the result is there.

    ``DeploymentError`` is raised as it is: this is for the boot.
    """
    with ThreadPoolExecutor(1) as thread:  # an event loop may run in this one
        process = ChildProcess(servant, timeout_s=timeout_s)
        return thread.submit(lambda: asyncio.run(process.call_and_end(method, *arguments))).result()


@contextmanager
def _notice_death() -> Iterator[None]:
    """Turn the errors of asyncio and uvloop for a dead process into ``_Gone``; uvloop raises ``RuntimeError``."""
    try:
        yield
    except (OSError, EOFError, RuntimeError) as error:
        raise _Gone(type(error).__name__) from None
