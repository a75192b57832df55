"""The project's errors for PostgreSQL's, without any stored value in their texts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from precipiq_contracts.errors import Conflict, InternalError, PrecipiqError, Unavailable

AWAY = "the database cannot be reached; try again"
UNKNOWN_OUTCOME = "the connection to the database broke; what was being written may or may not be stored"

_UNAVAILABLE_BY_STATE = {
    "25006": "the database is read-only now; try again",
    "25P03": "the database ended a transaction that took too long; try again",
    "28000": "the database refuses the server's login",
    "28P01": "the database refuses the server's login",
    "3D000": "the database does not exist",
    "40001": "the database was busy; try again",
    "40P01": "the database was busy; try again",
    "53100": "the disk that holds the database is full",
    "53200": "the database is out of memory",
    "53300": "the database has no connection left; try again",
    "55P03": "another writer holds the chain; try again",
    "57014": "the database took too long; try again",
    "57P01": AWAY,
    "57P02": AWAY,
    "57P03": AWAY,
    "57P05": AWAY,
}
_UNAVAILABLE_BY_CLASS = {
    "08": AWAY,
    "53": "the database lacks resources; try again",
    "58": "the disk that holds the database fails",
    "XX": "the database is damaged or fails",
}
_CONNECTION_LOST = frozenset(
    ("57P01", "57P02", "57P03", "57P05", "25P03", "25006")  # read-only: after a failover, the primary is elsewhere
)
_CONNECTION_ERRORS = (
    asyncpg.InterfaceError,  # the connection was closed meanwhile
    asyncpg.InternalClientError,  # the server has just said that it closes the connection
    OSError,
    EOFError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
_DEADLOCKS = frozenset(("40001", "40P01"))


class ConnectionLost(Unavailable):
    """The connection broke or could not be made: the same work may succeed over another connection."""


class NoConnection(ConnectionLost):
    """No connection was free or could be made in time: nothing was sent."""


def translate(error: BaseException) -> BaseException:
    """The project's error for one of the database's or the network's; any other error as it is."""
    if isinstance(error, PrecipiqError) or not isinstance(error, Exception):
        return error
    if isinstance(error, asyncpg.PostgresError):
        failure = _of_postgres(error)
    elif isinstance(error, _CONNECTION_ERRORS):
        failure = ConnectionLost(AWAY)
    else:
        return error
    if not isinstance(error, asyncpg.PostgresError) or not (error.sqlstate or "").startswith("22"):
        failure.__cause__ = error
    return failure


def _of_postgres(error: asyncpg.PostgresError) -> PrecipiqError:
    state = error.sqlstate or ""
    # The detail quotes values of rows of any tenant: it must reach no log and no answer.
    error.detail = None
    if state.startswith("22"):  # here the message itself quotes them, see `translate`
        return InternalError(f"the database refused a value (SQLSTATE {state}, {type(error).__name__})")
    if state.startswith("23"):
        return Conflict()
    if state in _CONNECTION_LOST or state.startswith("08"):
        return ConnectionLost(_UNAVAILABLE_BY_STATE.get(state, AWAY))
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Unavailable("the database's schema has just changed; try again")
    reason = _UNAVAILABLE_BY_STATE.get(state) or _UNAVAILABLE_BY_CLASS.get(state[:2])
    if reason is not None:
        return Unavailable(reason)
    return InternalError(f"the database refused a statement (SQLSTATE {state})")


def is_deadlock(error: BaseException) -> bool:
    """Whether a retry may succeed: the transaction was the victim of a deadlock, or a migration came between."""
    cause = error.__cause__ if isinstance(error, PrecipiqError) else error
    if isinstance(cause, asyncpg.InvalidCachedStatementError):
        return True
    return isinstance(cause, asyncpg.PostgresError) and cause.sqlstate in _DEADLOCKS


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the project's error in place of the database's."""
    try:
        yield
    except Exception as error:
        failure = translate(error)
        if failure is error:
            raise
        raise failure from failure.__cause__
