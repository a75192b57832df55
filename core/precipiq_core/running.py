"""The life of an assembly: every plugin's lifespan, entered in boot order and left in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly

log = structlog.get_logger("precipiq.running")


@asynccontextmanager
async def run_lifespans(assembly: Assembly) -> AsyncIterator[None]:
    """Enter every plugin's lifespan in boot order; leave in reverse. Raises their exceptions on entering.

    An exception while one is left is logged, and does not prevent the others from closing.
    """
    async with AsyncExitStack() as stack:
        for item in assembly.lifespans:
            assembly.services.act_for(item.owner, frozenset())
            try:
                await _enter(stack, item.owner, item.value)
            except DeploymentError:
                raise
            except Exception as error:
                error.add_note(f"while starting plugin {item.owner}")
                raise
        yield


async def _enter(stack: AsyncExitStack, owner: str, part: AbstractAsyncContextManager[object]) -> None:
    async def leave(*exception: Any) -> bool:
        try:
            return bool(await part.__aexit__(*exception))
        except Exception as failure:
            if failure is exception[1]:
                raise
            log.error("a part did not stop cleanly", part=owner, error=type(failure).__name__, exc_info=failure)
            return False

    await part.__aenter__()
    stack.push_async_exit(leave)
