"""The life of an assembly: its database and every plugin's lifespan, entered in boot order and left in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly


@asynccontextmanager
async def running(assembly: Assembly) -> AsyncIterator[None]:
    """Open the database, then every plugin's lifespan in boot order; close in reverse.

    Raises ``DeploymentError`` when the schema is not the one these plugins need.
    """
    async with AsyncExitStack() as stack:
        if assembly.database is not None:
            migrations = [item.value for item in assembly.migrations]
            await stack.enter_async_context(assembly.database.opened(migrations))
        for item in assembly.lifespans:
            try:
                await stack.enter_async_context(item.value)
            except DeploymentError:
                raise
            except Exception as error:
                error.add_note(f"while starting plugin {item.owner}")
                raise
        yield
