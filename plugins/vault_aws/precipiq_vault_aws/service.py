"""The capability ``KeyVault`` over AWS KMS: its calls run in threads, ``calls_max`` at the same time, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from precipiq_contracts.errors import Unavailable
from precipiq_contracts.vault import Context
from precipiq_core.chain_columns import chain_of_context
from precipiq_vault_aws.kms import KmsAccess, KmsSettings
from precipiq_work.turns import Turns

_WAITING_MAX = 1_000
_FULL = "too many secrets wait for AWS KMS; try again"
_CHECKED = b"checked"
_CHECK_CONTEXT = {"purpose": "check"}

T = TypeVar("T")


class AwsVault:
    """See ``precipiq_contracts.vault.KeyVault``. No ``ping``: without KMS, entries must be accepted all the same."""

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._kms = KmsAccess(settings)
        # Threads of its own: while KMS does not answer, other parts must not lack threads.
        self._threads = ThreadPoolExecutor(settings.calls_max, thread_name_prefix="aws-kms")
        self._turns = Turns(settings.calls_max, _WAITING_MAX, _FULL, kept_free=settings.calls_max // 2)

    def access(self) -> KmsAccess:
        """See ``KeyVault.access``."""
        return KmsAccess(self._settings)

    async def wrap(self, secret: bytes, context: Context) -> bytes:
        """See ``KeyVault.wrap``."""
        return await self._in_thread(self._kms.wrap, secret, context)

    async def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.unwrap``."""
        return await self._in_thread(self._kms.unwrap, wrapped, context)

    async def rewrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.rewrap``."""
        return await self._in_thread(self._kms.rewrap, wrapped, context)

    def is_current(self, wrapped: bytes) -> bool:
        """See ``KeyVault.is_current``; False until a secret was wrapped, and for another vault's secrets."""
        return self._kms.is_current(wrapped)

    async def check(self) -> str:
        """See ``KeyVault.check``."""
        if await self.unwrap(await self.wrap(_CHECKED, _CHECK_CONTEXT), _CHECK_CONTEXT) != _CHECKED:
            raise Unavailable("AWS KMS does not give back what it took")
        return f"vault_aws wraps with AWS KMS under {self._kms.newest_arn}"

    async def close(self) -> None:
        """Refuse further calls; running calls end by themselves, within their timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, call: Callable[[bytes, Context], T], secret: bytes, context: Context) -> T:
        """A call that has begun keeps its slot to its end, whether its caller waits or not."""
        chain, loop = chain_of_context(context), asyncio.get_running_loop()
        await self._turns.take(chain)

        def end(_: object) -> None:
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(self._turns.give_back, chain)

        try:
            running = self._threads.submit(call, secret, context)
        except BaseException:  # the threads are ended
            self._turns.give_back(chain)
            raise
        running.add_done_callback(end)
        return await asyncio.wrap_future(running)
