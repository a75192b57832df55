"""Wake-ups on PostgreSQL: at once within a process, by NOTIFY between processes, and by a look at the chains.

NOTIFY goes out after the commit and for many appends together: inside the transaction it would let commits wait for
each other. It may be lost, with a process that dies or a connection that breaks; the look finds what was missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
import orjson
import structlog

from precipiq_chain.watchers import Watchers
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.errors import PrecipiqError
from precipiq_postgres.errors import AWAY, ConnectionLost, translated
from precipiq_postgres.service import PostgresDatabase

log = structlog.get_logger("precipiq.ledger.postgres")

CHANNEL = "precipiq_entries"

_NOTIFY = f"""
SELECT set_config('synchronous_commit', 'off', true), count(pg_notify('{CHANNEL}', payload))
FROM unnest($1::text[]) AS sent (payload)
"""  # noqa: S608  (made of constants; nothing is lost that the look would not find)
_NOTIFY_INTERVAL_S = 0.02
_LAST_NOTIFY_TIMEOUT_S = 1.0
_PAYLOAD_BYTES_MAX = 7000
_RECONNECT_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_LISTEN_CHECK_S = 10.0
_LOOK_CHAINS_MAX = 1000
_HEADS = """
SELECT org_id, environment,
       (SELECT max(seq) FROM entries WHERE entries.org_id = wanted.org_id AND entries.environment = wanted.environment)
FROM unnest($1::text[], $2::text[]) AS wanted (org_id, environment)
"""


class PostgresWatchers(Watchers):
    """Watchers who also hear of what other processes append."""

    def __init__(self, database: PostgresDatabase, poll_s: float) -> None:
        super().__init__()
        self._database = database
        self._poll_s = poll_s
        self._grown: set[Chain] = set()
        self._has_grown = asyncio.Event()
        self._seen: dict[Chain, int | None] = {}

    def appended(self, chain: Chain) -> None:
        """This process appended: wake its own watchers now, and tell the others soon."""
        self.wake(chain)
        self._grown.add(chain)
        self._has_grown.set()

    @asynccontextmanager
    async def hearing(self) -> AsyncIterator[None]:
        """Hear and tell as long as this is entered."""
        async with AsyncExitStack() as stack:
            for work in (self._tell_for_ever(), self._listen_for_ever(), self._look_for_ever()):
                stack.push_async_callback(_end, asyncio.ensure_future(work))
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_NOTIFY_TIMEOUT_S):
                    await self._tell()

    async def _tell_for_ever(self) -> None:
        while True:
            await self._has_grown.wait()
            await self._tell()
            await asyncio.sleep(_NOTIFY_INTERVAL_S)

    async def _tell(self) -> None:
        chains, self._grown = self._grown, set()
        self._has_grown.clear()
        if not chains:
            return
        payloads = [_payload(chain) for chain in chains]

        with suppress(PrecipiqError):  # the others find out by looking
            await self._database.run_statement(_NOTIFY, payloads)

    async def _listen_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                async with self._listening() as (connection, lost):
                    if failures:
                        log.info("listening for other processes' entries again")
                    failures = 0
                    self.wake_all()  # what came while nobody listened
                    while not (await asyncio.wait([lost], timeout=_LISTEN_CHECK_S))[0]:
                        await connection.execute("SELECT 1")
                raise ConnectionLost(AWAY)
            except Exception as error:  # noqa: BLE001  (whatever it is, listening must go on)
                if failures == 0:
                    reason = str(translated(error))
                    log.warning("not listening for other processes' entries; looking instead", reason=reason)
                pause_s = _RECONNECT_PAUSES_S[min(failures, len(_RECONNECT_PAUSES_S) - 1)]
                failures += 1
                await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[tuple[asyncpg.Connection, asyncio.Future[None]]]:
        """A connection that hears, and a future that is cancelled when it is lost."""
        timeout_s = self._database.settings.connection_wait_s
        connection = await asyncpg.connect(**self._database.listen_address.options(), timeout=timeout_s)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            connection.add_termination_listener(lambda _: lost.cancel())
            await connection.add_listener(CHANNEL, self._heard)
            yield connection, lost
        finally:
            connection.terminate()

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        chain = _chain(str(payload))
        if chain is None:
            self.wake_all()
        else:
            self.wake(chain)

    async def _look_for_ever(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._look()
                if is_failing:
                    log.info("looking for new entries again")
                is_failing = False
            except PrecipiqError as error:
                if not is_failing:
                    log.warning("cannot look for new entries", reason=error.message)
                is_failing = True

    async def _look(self) -> None:
        watched = self.chains
        seen: dict[Chain, int | None] = {}
        for start in range(0, len(watched), _LOOK_CHAINS_MAX):
            seen |= await self._heads(watched[start : start + _LOOK_CHAINS_MAX])
        before, self._seen = self._seen, seen
        for chain, seq in seen.items():
            if chain not in before or before[chain] != seq:
                self.wake(chain)

    async def _heads(self, chains: Sequence[Chain]) -> dict[Chain, int | None]:
        names = [chain.org_id for chain in chains], [chain.environment for chain in chains]

        async def work(connection: asyncpg.Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_HEADS, *names)
            return rows

        rows = await self._database.run_in(self._database.roles.begin_as_auditor(), work)
        return {Chain(row[0], cast("Environment", row[1])): row[2] for row in rows}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _payload(chain: Chain) -> str:
    payload = orjson.dumps((chain.org_id, chain.environment)).decode()
    return payload if len(payload.encode()) <= _PAYLOAD_BYTES_MAX else ""


def _chain(payload: str) -> Chain | None:
    try:
        org_id, environment = orjson.loads(payload)
    except (ValueError, TypeError):
        return None
    return Chain(org_id, environment)
