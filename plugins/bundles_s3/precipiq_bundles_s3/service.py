"""The capability ``BundleStore`` over a bucket: its calls run in threads, ``calls_max`` at the same time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from precipiq_bundles_s3.bucket import Bucket, BucketSettings, Download, Upload
from precipiq_contracts.bundle_store import BUNDLE_NAME
from precipiq_contracts.errors import InternalError, Unavailable

PIECE_BYTES = 256 * 1024

_NAME = re.compile(BUNDLE_NAME)

P = ParamSpec("P")
T = TypeVar("T")


class S3Bundles:
    """See ``precipiq_contracts.bundle_store.BundleStore``. No ``ping``: without S3, entries must be accepted."""

    is_shared = True

    def __init__(self, settings: BucketSettings) -> None:
        self._bucket = Bucket(settings)
        # Threads of its own: while the store does not answer, other parts must not lack threads.
        self._threads = ThreadPoolExecutor(settings.calls_max, thread_name_prefix="bundles-s3")

    async def put(self, name: str, source: Path) -> None:
        """See ``BundleStore.put``; ``source`` stays. A killed process leaves parts that a lifecycle rule removes."""
        upload = Upload(self._bucket, _check_name(name), source)
        storing = asyncio.ensure_future(self._in_thread(upload.run))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            upload.stop()
            await asyncio.gather(storing, return_exceptions=True)  # the bundle must not appear later
            raise

    async def size(self, name: str) -> int | None:
        """See ``BundleStore.size``."""
        return await self._in_thread(self._bucket.size, _check_name(name))

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """See ``BundleStore.read``. One request; its bytes wait in the connection until the caller takes them."""
        download = Download(self._bucket, _check_name(name), start, end)
        try:
            while start < end:
                piece = await self._in_thread(download.read, min(end - start, PIECE_BYTES))
                if not piece:
                    raise Unavailable("a bundle ends before the bytes that were asked for")
                start += len(piece)
                yield piece
        finally:
            await asyncio.shield(self._in_thread(download.close))

    async def delete(self, name: str) -> None:
        """See ``BundleStore.delete``."""
        await self._in_thread(self._bucket.delete, _check_name(name))

    async def close(self) -> None:
        """End the threads, once the running calls have ended."""
        await asyncio.to_thread(self._bucket.close)
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.wrap_future(self._threads.submit(call, *arguments, **named))


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InternalError("that cannot be the name of a bundle")
    return name
