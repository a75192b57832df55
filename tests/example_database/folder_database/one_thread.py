"""The thread that owns the files: what it does is done one after the other, so nothing in this process is locked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from precipiq_contracts.errors import Unavailable

T = TypeVar("T")


class OneThread:
    """Runs work in one thread, while it is ``running``. ``waiting_max``: calls that may wait for it."""

    def __init__(self, name: str, waiting_max: int) -> None:
        self._name = name
        self._waiting_max = waiting_max
        self._waiting_count = 0
        self._pool: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The thread is there meanwhile; what it has begun ends before this does."""
        self._pool = ThreadPoolExecutor(1, self._name)
        try:
            yield
        finally:
            pool, self._pool = self._pool, None
            pool.shutdown(cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """A caller that is cancelled takes back work that has not begun; what has begun ends as it would.

        Raises ``Unavailable`` when too much waits, and for what a disk or file system refuses.
        """
        if self._pool is None:
            raise Unavailable("the folder is not open")
        if self._waiting_count >= self._waiting_max:
            raise Unavailable("too many calls wait for the disk; nothing was changed")
        self._waiting_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise Unavailable(f"the folder: {error.strerror}; what was being written may be stored") from error
        finally:
            self._waiting_count -= 1
