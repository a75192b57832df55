"""One transaction on a connection of asyncpg, and what becomes of the connection when it is left half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import asyncpg

from precipiq_contracts.errors import InternalError
from precipiq_postgres.errors import UNKNOWN_OUTCOME, ConnectionLost, translate, translate_errors

T = TypeVar("T")

Work = Callable[[asyncpg.Connection], Awaitable[T]]

_CALM_TIMEOUT_S = 2.0


async def in_transaction(connection: asyncpg.Connection, begin: str, work: Work[T]) -> T:
    """Run the work between ``begin`` (may be several statements) and COMMIT; undo it when it raises."""
    try:
        await connection.execute(begin)
        result = await work(connection)
    except (TimeoutError, asyncio.CancelledError):
        raise  # there is no answer: a ROLLBACK would wait once more; the connection is dropped
    except BaseException:
        await _roll_back(connection)
        raise
    with translate_errors():
        try:
            status = await connection.execute("COMMIT")
        except Exception as error:
            if isinstance(translate(error), ConnectionLost):
                raise ConnectionLost(UNKNOWN_OUTCOME) from error
            raise
    if status != "COMMIT":
        raise InternalError("a transaction went on after a failed statement")
    return result


async def is_calm(connection: asyncpg.Connection) -> bool:
    """Wait until the server has ended the statement that asyncpg asked it to cancel; False when it does not."""
    try:
        async with asyncio.timeout(_CALM_TIMEOUT_S):
            await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError):
        return False  # TimeoutError is an OSError
    return True


async def _roll_back(connection: asyncpg.Connection) -> None:
    try:
        await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        drop(connection)


def drop(connection: asyncpg.Connection) -> None:
    """Break the connection off; the pool makes another."""
    with suppress(asyncpg.InterfaceError):  # a broken connection has left the pool already
        connection.terminate()
