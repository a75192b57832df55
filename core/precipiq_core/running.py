"""The life of an assembly: every plugin's lifespan, entered in boot order and left in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly


@asynccontextmanager
async def running(assembly: Assembly) -> AsyncIterator[None]:
    """Enter every plugin's lifespan in boot order; leave in reverse. Raises what they raise on entering."""
    async with AsyncExitStack() as stack:
        for item in assembly.lifespans:
            try:
                await stack.enter_async_context(item.value)
            except DeploymentError:
                raise
            except Exception as error:
                error.add_note(f"while starting plugin {item.owner}")
                raise
        yield
