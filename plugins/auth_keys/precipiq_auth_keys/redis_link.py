"""The way to the Redis server that counts for all processes: its connections, its outages and the end of them.

What is counted there is the counters' matter; they share one link. Imported only where a deployment names a server.
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
    """Asks Redis while it is in reach: within ``run``, and not from a failure until Redis answers again.

    ``background``: what runs the attempts to reach it again; without one, no metric and no readiness tells of them.
    """

    def __init__(self, server: RedisServer, background: Background | None = None) -> None:
        self._server = server
        self._pool = _pool(server)
        self._client = Redis(connection_pool=self._pool)
        self._probes: list[Question[object]] = []
        # The pool refuses rather than waits when all its connections are taken, so questions wait here: within their
        # own timeout, and free to give up when Redis is lost meanwhile.
        self._slots = asyncio.Semaphore(server.connections_max)
        self._reachable = False
        self._is_lost = asyncio.Event()
        self._background = background or standalone_background()

    def script(self, lua: str) -> AsyncScript:
        """One to call within :meth:`ask`; Redis is taught it when it does not know it."""
        return self._client.register_script(lua)

    def probe_with(self, question: Question[object]) -> None:
        """Ask this, too, to find out whether Redis answers: a link counts as whole when all its users can use it."""
        self._probes.append(question)

    async def ask(self, question: Question[T]) -> T | None:
        """The answer, or None when there is none: then the caller counts for itself. Whatever fails is an outage."""
        asked = False
        if self._reachable:
            try:
                async with asyncio.timeout(self._server.timeout_s), self._slots:
                    if self._reachable:  # others may have lost it while this one waited
                        asked = True
                        return await question()
            except Exception as error:  # noqa: BLE001  (no request may fail because of its counter)
                self._lose(_reason(error, self._server) if asked else _none_free(self._server))
        return None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Entered while the server serves; says in the log where rate limits count."""
        server = self._server
        log.info("rate limits are shared by all processes that use this Redis", storage="redis", server=server.address)
        recovering = self._background(
            "auth_keys.redis", self._recover, every_s=_IDLE_S, failing="Redis cannot be asked again", wake=self._is_lost
        )
        self._reachable = True
        try:
            async with recovering:
                await self.ask(self._probe)  # what is wrong with it is said at the start, not at the first request
                yield
        finally:
            self._reachable = False
            with suppress(Exception):
                await self._pool.aclose()

    async def _probe(self) -> None:
        for question in self._probes:
            await question()

    def _lose(self, reason: str) -> None:
        """Once for an outage, however many requests meet it."""
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
        """One attempt, if Redis is lost. That it fails is no news: the outage was logged when it began."""
        if self._reachable:
            return
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(self._server.timeout_s), self._slots:
                await self._probe()
        except Exception:  # noqa: BLE001  (whatever fails is an outage)
            self._is_lost.set()
            return
        self._reachable = True
        log.info("Redis answers again: rate limits are shared by all processes", server=self._server.address)


def _pool(server: RedisServer) -> ConnectionPool:
    """Connects when first used. No retries: a hit that fails is counted locally at once."""
    return ConnectionPool(
        connection_class=SSLConnection if server.tls else Connection,
        max_connections=server.connections_max,
        host=server.host,
        port=server.port,
        db=server.database,
        username=server.username,
        password=server.password,
        socket_timeout=None,  # one timeout is around it all
        socket_connect_timeout=server.timeout_s,  # bounds closing, too
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # nothing to negotiate: one round trip less to connect, and every server speaks it
        driver_info=None,
    )


def _none_free(server: RedisServer) -> str:
    return f"none of {server.connections_max} connections was free within {server.timeout_s} s"


def _reason(error: Exception, server: RedisServer) -> str:
    """What failed. Never a server's own words: some repeat the command they refuse, and so a password."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TimeoutError):
            return f"no answer within {server.timeout_s} s"
        if isinstance(link, OSError):
            return f"{type(link).__name__}: {link.strerror or link}"
        link = link.__cause__ or link.__context__
    return type(error).__name__
