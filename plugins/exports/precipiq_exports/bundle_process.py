"""The server's side of ``bundle_worker``: starts the process, signs its manifest, and never leaves it behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from precipiq_exports.bundle.spec import BundleSummary, BundleTask
from precipiq_exports.bundle_worker import BundleServant
from precipiq_work.child_process import ChildProcess, Role

_ROLE = Role(
    "the process that writes a bundle",
    "the process that writes the bundle ended without a result; try again",
    structlog.get_logger("precipiq.exports"),
)
_SILENT_S_MAX = 600.0  # the process deflates and syncs gigabytes, perhaps on a slow disk


async def run_bundle_worker(
    task: BundleTask, sign: Callable[[bytes], Awaitable[bytes]], progress: Callable[[int], None]
) -> BundleSummary:
    """Write that bundle. ``sign``: signs a SHA-256 digest. ``progress`` is called with each number of entries read.

    A cancelled call, or an error of ``sign``, kills the process. Raises ``Unavailable`` when it ends without a
    result, ``InternalError`` when it has a fault; the file at the task's path is then no bundle.
    """
    process = ChildProcess(BundleServant(task), _ROLE, timeout_s=_SILENT_S_MAX)
    summary: BundleSummary = await process.call_and_end("write", sign=sign, progress=progress)
    return summary
