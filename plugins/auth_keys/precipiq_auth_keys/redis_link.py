"""The link to the Redis server that counts for all processes: connections, outages and recoveries.

The counters share one link and know what they count. Imported only where a deployment names a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from precipiq_auth_keys.redis_server import RedisServer
from precipiq_contracts.background import Background
from precipiq_core.background import standalone_background

PAUSE_S = 1.0
"""Between attempts to reach Redis again. Not less than the longest timeout: then no failure outlives its outage."""
_IDLE_S = 60.0

T = TypeVar("T")
Question = Callable[[], Awaitable[T]]

log = structlog.get_logger("precipiq.auth_keys")


class RedisLink:
    """Asks Redis while Redis is in reach: within ``run``, and not between a failure and the next answer to a probe.

    ``background`` runs the attempts to reach Redis again; without it, no metric and no readiness check covers them.
    """

    def __init__(self, server: RedisServer, background: Background | None = None) -> None:
        self._server = server
        self._pool = _pool(server)
        self._client = Redis(connection_pool=self._pool)
        self._probes: list[Question[object]] = []
        # The pool refuses rather than waits when all its connections are in use, so questions wait here: within their
        # own timeout, and able to give up when Redis is lost meanwhile.
        self._slots = asyncio.Semaphore(server.connections_max)
        self._reachable = False
        self._is_lost = asyncio.Event()
        self._background = background or standalone_background()

    def script(self, lua: str) -> AsyncScript:
        """A script to call within :meth:`ask`; the client loads it into Redis when Redis lacks it."""
        return self._client.register_script(lua)

    def probe_with(self, question: Question[object]) -> None:
        """Add a question to the probe: the link has recovered when every user's question is answered."""
        self._probes.append(question)

    async def ask(self, question: Question[T]) -> T | None:
        """The answer, or None without one: then the caller counts in its process. Any failure is an outage."""
        asked = False
        if self._reachable:
            try:
                async with asyncio.timeout(self._server.timeout_s), self._slots:
                    if self._reachable:  # another question may have met the outage meanwhile
                        asked = True
                        return await question()
            except Exception as error:  # noqa: BLE001  (no request may fail because of its counter)
                self._lose(_reason(error, self._server) if asked else _none_free(self._server))
        return None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the link while the server serves; the log says where rate limits count."""
        server = self._server
        log.info("rate limits are shared by all processes that use this Redis", storage="redis", server=server.address)
        recovering = self._background(
            "auth_keys.redis", self._recover, every_s=_IDLE_S, failing="Redis cannot be asked again", wake=self._is_lost
        )
        self._reachable = True
        try:
            async with recovering:
                await self.ask(self._probe)  # the log tells of a fault at the start, not at the first request
                yield
        finally:
            self._reachable = False
            with suppress(Exception):
                await self._pool.aclose()

    async def _probe(self) -> None:
        for question in self._probes:
            await question()

    def _lose(self, reason: str) -> None:
        """Note an outage, once for all the requests that meet it."""
        if not self._reachable:
            return
        self._reachable = False
        log.warning(
            "Redis does not answer: rate limits count per process until it does",
            server=self._server.address,
            reason=reason,
        )
        self._is_lost.set()

    async def _recover(self) -> None:
        """Probe Redis once, if it is lost. A failure is not logged: the log has the beginning of the outage."""
        if self._reachable:
            return
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(self._server.timeout_s), self._slots:
                await self._probe()
        except Exception:  # noqa: BLE001  (any failure is an outage)
            self._is_lost.set()
            return
        self._reachable = True
        log.info("Redis answers again: rate limits are shared by all processes", server=self._server.address)


def _pool(server: RedisServer) -> ConnectionPool:
    """Make the pool; it connects at its first use. No retries: a failed hit is counted locally at once."""
    return ConnectionPool(
        connection_class=SSLConnection if server.tls else Connection,
        max_connections=server.connections_max,
        host=server.host,
        port=server.port,
        db=server.database,
        username=server.username,
        password=server.password,
        socket_timeout=None,  # one timeout bounds the whole question
        socket_connect_timeout=server.timeout_s,  # bounds closing, too
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # nothing to negotiate: one round trip less to connect, and every server speaks it
        driver_info=None,
    )


def _none_free(server: RedisServer) -> str:
    return f"none of {server.connections_max} connections was free within {server.timeout_s} s"


def _reason(error: Exception, server: RedisServer) -> str:
    """The kind of failure. Never a server's own text: some servers repeat the refused command, and so a password."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TimeoutError):
            return f"no answer within {server.timeout_s} s"
        if isinstance(link, OSError):
            return f"{type(link).__name__}: {link.strerror or link}"
        link = link.__cause__ or link.__context__
    return type(error).__name__
