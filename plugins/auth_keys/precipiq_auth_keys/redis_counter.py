"""Counters in Redis, for all server processes together; in this process while Redis is out of reach.

One script, one round trip a hit. Times are those of Redis: each process may have another.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial

from precipiq_auth_keys.address_limiter import SECOND_US, Usage, WindowCounter
from precipiq_auth_keys.rate_limiter import KEY_PREFIX, WINDOW_S, Count, Counter
from precipiq_auth_keys.redis_link import RedisLink

ADDRESS_KEY_PREFIX = f"{KEY_PREFIX}address:"

_NO_ANSWER = "that is no answer of the script: it is no Redis server that answers"

# A key without an expiry (restored, or made by hand) gets one: a counter without an end would refuse for ever. So does
# one that ends later than a window may: Redis keeps the time of day when a key ends, and its clock was set back.
_SECOND_SCRIPT = """
local hits = redis.call('INCR', KEYS[1])
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms < 0 or left_ms > tonumber(ARGV[1]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left_ms = tonumber(ARGV[1])
end
return {hits, left_ms}
"""

# A list of the moments of counted hits, oldest first, at most a quota of them. Moments that lie ahead are from before
# the server's clock was set back, and would refuse for as long as it was set back. The key outlives its last hit by a
# millisecond, as Redis expires keys by the millisecond.
_WINDOW_SCRIPT = """
local key, quota, window_us = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local oldest = tonumber(redis.call('LINDEX', key, 0))
while oldest and (oldest <= now_us - window_us or oldest > now_us) do
  redis.call('LPOP', key)
  oldest = tonumber(redis.call('LINDEX', key, 0))
end
local counted = redis.call('LLEN', key)
if counted >= quota then
  return {0, counted, redis.call('LINDEX', key, -quota) + window_us - now_us}
end
redis.call('RPUSH', key, now_us)
redis.call('PEXPIRE', key, window_us / 1000 + 1)
return {1, counted + 1, (oldest or now_us) + window_us - now_us}
"""


class RedisCounter:
    """Windows of a second. ``local`` counts while the link is down."""

    def __init__(self, link: RedisLink, local: Counter) -> None:
        self._link = link
        self._local = local
        self._script = link.script(_SECOND_SCRIPT)
        link.probe_with(partial(self._ask, f"{KEY_PREFIX}probe"))

    async def hit(self, key: str) -> Count:
        return await self._link.ask(partial(self._ask, key)) or await self._local.hit(key)

    def run(self) -> AbstractAsyncContextManager[None]:
        return self._link.run()

    async def _ask(self, key: str) -> Count:
        match await self._script(keys=[key], args=[WINDOW_S * 1000]):
            case [int(hits), int(left_ms)]:
                # Redis drops a key when its last millisecond is over.
                return Count(hits, min((left_ms + 1) / 1000, WINDOW_S))
        raise ValueError(_NO_ANSWER)


class RedisWindows:
    """Sliding windows of addresses, by the time of Redis. ``local`` counts while the link is down."""

    def __init__(self, link: RedisLink, local: WindowCounter) -> None:
        self._link = link
        self._local = local
        self._script = link.script(_WINDOW_SCRIPT)
        link.probe_with(partial(self._ask, "probe", "", 1, 1))

    async def hit(self, name: str, address: str, quota: int, window_s: int) -> Usage:
        shared = await self._link.ask(partial(self._ask, name, address, quota, window_s))
        return shared or await self._local.hit(name, address, quota, window_s)

    async def _ask(self, name: str, address: str, quota: int, window_s: int) -> Usage:
        key = f"{ADDRESS_KEY_PREFIX}{name}:{address}"
        match await self._script(keys=[key], args=[quota, window_s * SECOND_US]):
            case [int(is_admitted), int(counted), int(left_us)]:
                return Usage(bool(is_admitted), counted, left_us)
        raise ValueError(_NO_ANSWER)
