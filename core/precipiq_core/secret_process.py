"""A child process that holds what this process must never hold: keys in plain.

It is spawned, never forked, so that it has none of this process's memory, and gets its servant, a picklable object
without a secret, over a pipe. Calls go to it one at a time. It dumps no core, cannot be traced by others of the same
user, and ends with the process that started it.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from contextlib import suppress
from typing import Any

import structlog

from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.secret_process_main import LENGTH_BYTES, framed

log = structlog.get_logger("precipiq.secrets")

# -P: no module of the working folder may take another's place in a process that holds secrets.
_COMMAND = (sys.executable, "-P", "-m", "precipiq_core.secret_process_main")
_ANSWER_BYTES_MAX = 1024 * 1024
_NO_ANSWER = "the process that holds secrets did not answer; try again"


class SecretProcess:
    """Calls methods of ``servant`` in a process of its own, started at the first call.

    ``servant``: picklable; its package must be installed. ``timeout_s``: of a call; then the process is replaced. To be
    used from one event loop, in a thread that lives as long as the process shall.
    """

    def __init__(self, servant: object, *, timeout_s: float = 30.0) -> None:
        self._servant = pickle.dumps(servant)
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self) -> None:
        """Start the process now rather than at the first call. Raises as :meth:`call` does."""
        await self._to_its_end(None)

    async def call(self, method: str, *arguments: object) -> Any:
        """What ``servant.method(*arguments)`` returns there.

        A ``PrecipiqError`` raised there is raised here; anything else is an ``InternalError`` that names its type only.
        Raises ``Unavailable`` when the process dies or does not answer in time. The next call starts another.
        """
        return await self._to_its_end(pickle.dumps((method, arguments)))

    async def close(self) -> None:
        """End the process, once the calls that wait are answered. A later call would start another."""
        async with self._turn:
            await self._end()

    async def _to_its_end(self, message: bytes | None) -> Any:
        """Goes on when the caller is cancelled, so that the next answer belongs to the next call."""
        task = asyncio.ensure_future(self._exchanged(message))
        task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    async def _exchanged(self, message: bytes | None) -> Any:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    process = await self._started()
                    if message is None:
                        return None
                    answer = await _exchange(process, message)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                code = await self._end()
                log.error("a process that holds secrets ended", error=type(error).__name__, exit_code=code)
                raise Unavailable(_NO_ANSWER) from None
            except BaseException:
                await self._end()
                raise
        try:
            return _opened(answer)
        except DeploymentError as error:
            # Known too late for the boot: to whoever asks, a part of the server is away.
            raise Unavailable("; ".join(error.problems)) from None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is not None:
            await self._end()
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # whatever it would say could hold a secret
                limit=_ANSWER_BYTES_MAX,
            )
            _opened(await _exchange(self._process, self._servant))
        return self._process

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.stdout.read()  # until it is closed: only then nothing of the process is left here
        return await process.wait()


def call_once(servant: object, method: str, *arguments: object, timeout_s: float = 30.0) -> Any:
    """As :meth:`SecretProcess.call`, in a process for this one call; blocks until it is there.

    ``DeploymentError`` is raised as it is: this is for the boot.
    """
    messages = (pickle.dumps(servant), pickle.dumps((method, arguments)))
    try:
        done = subprocess.run(  # noqa: S603  (our own module)
            _COMMAND,
            input=b"".join(map(framed, messages)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.error("a process that holds secrets ended", error=type(error).__name__)
        raise Unavailable(_NO_ANSWER) from None
    size = int.from_bytes(done.stdout[:LENGTH_BYTES])
    taken, answer = done.stdout[LENGTH_BYTES:][:size], done.stdout[LENGTH_BYTES + size + LENGTH_BYTES :]
    _opened(taken)
    return _opened(answer)


async def _exchange(process: asyncio.subprocess.Process, message: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(framed(message))
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
    if size > _ANSWER_BYTES_MAX:
        raise OSError("the answer is too large")
    return await process.stdout.readexactly(size)


def _opened(answer: bytes) -> Any:
    """The result in an answer. Raises the error in it."""
    is_result, value = pickle.loads(answer)  # noqa: S301  (our own child's, over a pipe)
    if is_result:
        return value
    raise value


def _look_at(task: asyncio.Task[Any]) -> None:
    """Whoever asked may be gone: then nobody else takes note of its error."""
    if not task.cancelled():
        task.exception()
