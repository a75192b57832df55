"""Counts rate limits in Redis, for all server processes together; in this process while Redis is out of reach.

One script, one round trip a hit. ``limits`` has such a storage, but it tells the end of a window in whole seconds: that
says nothing of windows of one second. Imported only where a deployment names a Redis server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context

import structlog
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from precipiq_auth_keys.rate_limiter import KEY_PREFIX, WINDOW_S, Count, Counter
from precipiq_auth_keys.redis_server import RedisServer

PAUSE_S = 1.0
"""Between attempts to reach Redis again. Not less than the longest timeout: then no failure outlives its outage."""

_PROBE_KEY = f"{KEY_PREFIX}probe"

# A key without an end of life (restored, or made by hand) gets one: a counter that never ends would refuse for ever.
_SCRIPT = """
local hits = redis.call('INCR', KEYS[1])
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left_ms = tonumber(ARGV[1])
end
return {hits, left_ms}
"""

log = structlog.get_logger("precipiq.auth_keys")


class RedisCounter:
    """``local`` counts what Redis cannot: outside ``running``, and from a failure until Redis answers again."""

    def __init__(self, server: RedisServer, local: Counter) -> None:
        self._server = server
        self._local = local
        self._pool = _pool(server)
        self._script = Redis(connection_pool=self._pool).register_script(_SCRIPT)
        # The pool refuses rather than waits when all its connections are taken, so hits wait here: within their own
        # timeout, and free to give up when Redis is lost meanwhile.
        self._slots = asyncio.Semaphore(server.connections_max)
        self._reachable = False
        self._recovery: asyncio.Task[None] | None = None

    async def hit(self, key: str) -> Count:
        asked = False
        if self._reachable:
            try:
                async with asyncio.timeout(self._server.timeout_s), self._slots:
                    if self._reachable:  # others may have lost it while this one waited
                        asked = True
                        return await self._ask(key)
            except Exception as error:  # noqa: BLE001  (no request may fail because of its counter)
                self._lose(_reason(error, self._server) if asked else _none_free(self._server))
        return await self._local.hit(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = self._server
        log.info("rate limits are shared by all processes that use this Redis", storage="redis", server=server.address)
        self._reachable = True
        try:
            await self.hit(_PROBE_KEY)  # what is wrong with it is said at the start, not at the first request
            yield
        finally:
            self._reachable = False
            await self._close()

    async def _ask(self, key: str) -> Count:
        match await self._script(keys=[key], args=[WINDOW_S * 1000]):
            case [int(hits), int(left_ms)]:
                # A key is gone when its last millisecond is over.
                return Count(hits, min((left_ms + 1) / 1000, WINDOW_S))
        raise ValueError("that is no answer of the script: it is no Redis server that answers")

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
        # In a context of its own: what it logs later does not belong to this request.
        self._recovery = asyncio.create_task(self._recover(), context=Context())

    async def _recover(self) -> None:
        while not self._reachable:
            await asyncio.sleep(PAUSE_S)
            with suppress(Exception):
                async with asyncio.timeout(self._server.timeout_s), self._slots:
                    await self._ask(_PROBE_KEY)
                self._reachable = True
        log.info("Redis answers again: rate limits are shared by all processes", server=self._server.address)

    async def _close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery
        with suppress(Exception):
            await self._pool.aclose()


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
