"""The server's side of ``bundle_worker``: starts it, signs what it asks for, and never leaves it behind."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from precipiq_contracts.errors import InternalError, Unavailable
from precipiq_exports.bundle.spec import BundleSummary, BundleTask

log = structlog.get_logger("precipiq.exports")


async def run_bundle_worker(
    task: BundleTask, sign: Callable[[bytes], Awaitable[bytes]], progress: Callable[[int], None]
) -> BundleSummary:
    """Write that bundle. ``sign``: of a SHA-256 digest. ``progress``: told how many more entries were read.

    The process is killed when this is cancelled or ``sign`` raises. Raises ``Unavailable`` when it ends without a
    result, ``InternalError`` when it has a fault; the file at the task's path is then no bundle.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "precipiq_exports.bundle_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(pickle.dumps(task))
        await process.stdin.drain()
        async for line in process.stdout:
            message = json.loads(line)
            if "result" in message:
                return BundleSummary(**message["result"])
            if "error" in message:
                raise Unavailable(message["error"])
            if "fault" in message:
                log.error("the process that writes a bundle failed", exception=message["fault"])
                raise InternalError("the process that writes the bundle failed; see the server's log")
            if "digest" in message:
                signature = await sign(bytes.fromhex(message["digest"]))
                process.stdin.write(json.dumps({"signature": base64.b64encode(signature).decode()}).encode() + b"\n")
            else:
                progress(message["done"])
    except (OSError, json.JSONDecodeError):
        pass
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
    raise Unavailable("the process that writes the bundle ended without a result; try again")
