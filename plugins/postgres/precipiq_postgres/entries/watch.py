"""Wake-ups on PostgreSQL: at once within a process, by NOTIFY between processes, and by a look at the chains.

NOTIFY is sent after the commit and for many appends together: inside the transaction it would make commits wait for
each other. A dead process or a broken connection loses a NOTIFY; the look at the chains finds those appends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
import orjson

from precipiq_chain.watchers import Watchers
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.errors import PrecipiqError
from precipiq_postgres.errors import AWAY, ConnectionLost, translate_errors
from precipiq_postgres.service import PostgresDatabase

CHANNEL = "precipiq_entries"

_NOTIFY = f"""
SELECT set_config('synchronous_commit', 'off', true), count(pg_notify('{CHANNEL}', payload))
FROM unnest($1::text[]) AS sent (payload)
"""  # noqa: S608  (made of constants; nothing is lost that the look would not find)
_NOTIFY_INTERVAL_S = 0.02
_LAST_NOTIFY_TIMEOUT_S = 1.0
_PAYLOAD_BYTES_MAX = 7000
_IDLE_S = 10.0
_LOOK_CHAINS_MAX = 1000
_HEADS = """
SELECT org_id, environment,
       (SELECT max(seq) FROM entries WHERE entries.org_id = wanted.org_id AND entries.environment = wanted.environment)
FROM unnest($1::text[], $2::text[]) AS wanted (org_id, environment)
"""


class PostgresWatchers(Watchers):
    """Watchers that also hear of other processes' appends."""

    def __init__(self, database: PostgresDatabase, poll_s: float) -> None:
        super().__init__()
        self._database = database
        self._look_every_s = poll_s
        self._grown: set[Chain] = set()
        self._has_grown = asyncio.Event()
        self._listener: asyncpg.Connection | None = None
        self._is_lost = asyncio.Event()
        self._seen: dict[Chain, int | None] = {}

    def note_append(self, chain: Chain) -> None:
        """Wake this process's watchers now, and tell the other processes soon: the caller appended to that chain."""
        self.wake(chain)
        self._grown.add(chain)
        self._has_grown.set()

    @asynccontextmanager
    async def run(self, background: Background) -> AsyncIterator[None]:
        """Listen and notify while the context is entered."""
        telling = background(
            "postgres.tell",
            self._tell_some,
            every_s=_IDLE_S,
            failing="other processes are not told of new entries",
            wake=self._has_grown,
            final=self._tell_last,
        )
        listening = background(
            "postgres.listen",
            self._listen,
            every_s=_IDLE_S,
            failing="not listening for other processes' entries; looking instead",
            again="listening for other processes' entries again",
            wake=self._is_lost,
            tolerated=(PrecipiqError,),  # the look finds the appends that listening missed
            final=self._hang_up,
        )
        looking = background(
            "postgres.look",
            self._look,
            every_s=self._look_every_s,
            failing="cannot look for new entries",
            again="looking for new entries again",
            waits_first=True,
        )
        async with telling, listening, looking:
            yield

    async def _tell_some(self) -> None:
        await self._tell()
        await asyncio.sleep(_NOTIFY_INTERVAL_S)

    async def _tell_last(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_NOTIFY_TIMEOUT_S):
                await self._tell()

    async def _tell(self) -> None:
        chains, self._grown = self._grown, set()
        self._has_grown.clear()
        if not chains:
            return
        payloads = [_payload(chain) for chain in chains]

        with suppress(PrecipiqError):  # the other processes find the appends by their look
            await self._database.run_statement(_NOTIFY, payloads)

    async def _listen(self) -> None:
        """Open the connection that listens, or check that it still answers."""
        timeout_s = self._database.settings.connection_wait_s
        connection = self._listener
        try:
            with translate_errors():
                if connection is None:
                    options = self._database.listen_address.options()
                    connection = await asyncpg.connect(**options, timeout=timeout_s)
                    self._listener = connection
                    connection.add_termination_listener(lambda _: self._is_lost.set())
                    await connection.add_listener(CHANNEL, self._hear)
                    self.wake_all()  # appends from before the connection listened
                elif connection.is_closed():
                    raise ConnectionLost(AWAY)
                else:
                    await connection.execute("SELECT 1", timeout=timeout_s)
        except BaseException:
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        connection, self._listener = self._listener, None
        if connection is not None:
            connection.terminate()

    def _hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        chain = _chain(str(payload))
        if chain is None:
            self.wake_all()
        else:
            self.wake(chain)

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


def _payload(chain: Chain) -> str:
    payload = orjson.dumps((chain.org_id, chain.environment)).decode()
    return payload if len(payload.encode()) <= _PAYLOAD_BYTES_MAX else ""


def _chain(payload: str) -> Chain | None:
    try:
        org_id, environment = orjson.loads(payload)
    except (ValueError, TypeError):
        return None
    return Chain(org_id, environment)
