"""Limits by client address that server processes share through a real Redis, and what becomes of them without it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from precipiq_auth_keys import redis_link
from precipiq_auth_keys.address_limiter import AddressWindows, LocalWindows
from precipiq_auth_keys.rate_limiter import KEY_PREFIX, LocalCounter
from precipiq_auth_keys.redis_counter import ADDRESS_KEY_PREFIX, RedisCounter, RedisWindows
from precipiq_auth_keys.redis_link import RedisLink
from precipiq_auth_keys.redis_server import RedisServer
from precipiq_contracts.auth import RateState
from precipiq_core.system import SystemClock
from precipiq_testkit import redis as testkit_redis
from precipiq_testkit.redis import RedisProcess

pytestmark = pytest.mark.anyio

redis_server = testkit_redis.redis_server

NAME = "stream_handshake"
QUOTA, WINDOW_S = 30, 60
WINDOW_US = WINDOW_S * 1_000_000
ONE, OTHER = "203.0.113.9", "2001:db8::9"
KEY = f"{ADDRESS_KEY_PREFIX}{NAME}:{ONE}"
SECRET = "hunter2hunter2"


class Process:
    """What one server process has: both counters over one link."""

    def __init__(self, port: int, **options: Any) -> None:
        # A timeout that a busy machine does not reach.
        self.link = RedisLink(RedisServer("127.0.0.1", port, **{"timeout_s": 30.0, **options}))
        self.seconds = RedisCounter(self.link, LocalCounter(SystemClock()))
        self.limiter = AddressWindows(RedisWindows(self.link, LocalWindows(SystemClock(), addresses_max=1000)))

    async def hit(self, address: str | None = ONE, quota: int = QUOTA, window_s: int = WINDOW_S) -> RateState:
        return await self.limiter.hit(NAME, address, quota, window_s)


@asynccontextmanager
async def running(port: int, count: int = 1, **options: Any) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        started = [Process(port, **options) for _ in range(count)]
        for process in started:
            await stack.enter_async_context(process.link.run())
        yield started


async def until(lines: list[Any], word: str) -> None:
    for _ in range(500):
        if any(word in line["event"] for line in lines):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no line with {word!r} in {lines}")


def levels(lines: list[Any]) -> list[str]:
    return [line["log_level"] for line in lines]


def redis_now_us(redis: RedisProcess) -> int:
    _, seconds, _, rest, _ = redis.command("TIME")[4:].split(b"\r\n")
    return int(seconds) * 1_000_000 + int(rest)


def counted_before(redis: RedisProcess, *ages_us: int) -> None:
    """As if hits of these ages had been counted."""
    now_us = redis_now_us(redis)
    redis.command("RPUSH", KEY, *(str(now_us - age_us) for age_us in ages_us))


def length(redis: RedisProcess) -> int:
    return int(redis.command("LLEN", KEY)[1:])


async def test_two_processes_refuse_the_31st_of_30_and_no_other_address(redis_server: RedisProcess) -> None:
    async with running(redis_server.port, 2) as (one, two):
        states = [await (one, two)[number % 2].hit() for number in range(35)]
        others = [(await process.hit(OTHER)).remaining for process in (one, two)]

    assert [state.remaining for state in states] == [*range(29, -1, -1), *[0] * 5]
    assert [state.retry_after_s == 0 for state in states] == [True] * 30 + [False] * 5
    assert all(59 < state.retry_after_s < 60 and state.reset_s == 60 for state in states[30:])
    assert {(state.policy, state.quota, state.window_s) for state in states} == {(NAME, QUOTA, WINDOW_S)}
    assert others == [29, 28]
    assert length(redis_server) == 30, "what is refused does not count"


async def test_spellings_and_neighbours_share_a_counter(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        addresses = [ONE, f"::ffff:{ONE}", "::ffff:cb00:7109", OTHER, "2001:db8::1:0", None, "nonsense"]
        remaining = [(await process.hit(address)).remaining for address in addresses]

    assert remaining == [29, 28, 27, 29, 28, 29, 28]


async def test_who_waits_the_named_time_is_admitted_once_for_each_that_left(redis_server: RedisProcess) -> None:
    async with running(redis_server.port, 2) as (one, two):
        await one.hit(quota=2, window_s=2)
        await asyncio.sleep(1)
        await one.hit(quota=2, window_s=2)
        refused = await one.hit(quota=2, window_s=2)
        await asyncio.sleep(refused.retry_after_s)
        states = [await process.hit(quota=2, window_s=2) for process in (two, one)]

    assert 0 < refused.retry_after_s <= 1
    assert [state.retry_after_s == 0 for state in states] == [True, False]
    assert 0 < states[1].retry_after_s < 2


async def test_hits_of_many_at_once_admit_the_quota_and_no_more(redis_server: RedisProcess) -> None:
    async with running(redis_server.port, 3) as started:
        states = await asyncio.gather(*(started[number % 3].hit() for number in range(300)))

    assert sum(state.retry_after_s == 0 for state in states) == QUOTA


async def test_a_place_is_free_when_the_oldest_is_as_old_as_the_window_and_not_before(
    redis_server: RedisProcess,
) -> None:
    second_us = 1_000_000
    async with running(redis_server.port) as (process,):
        counted_before(redis_server, WINDOW_US + second_us, WINDOW_US, WINDOW_US - second_us, 5, 4)
        state = await process.hit(quota=3)
        assert length(redis_server) == 3, "what has left the window is gone"
        again = await process.hit(quota=2)

    assert 0 < state.retry_after_s < 1
    assert 59 < again.retry_after_s < 60, "two of the three must leave"


async def test_a_clock_that_was_set_back_refuses_nobody_until_it_has_caught_up(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        counted_before(redis_server, *(-3600_000_000 + number for number in range(QUOTA)))

        assert (await process.hit()).remaining == QUOTA - 1


async def test_a_hit_is_one_command_and_so_one_round_trip(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        redis_server.command("CONFIG", "RESETSTAT")
        for _ in range(50):
            await process.hit()
        statistics = redis_server.command("INFO", "commandstats").decode()

    calls = dict(
        line[len("cmdstat_") :].split(",")[0].split(":calls=") for line in statistics.split() if "calls=" in line
    )
    scripts = {"time", "lindex", "lpop", "llen", "rpush", "pexpire"}
    assert calls["evalsha"] == "50"
    assert set(calls) <= {"evalsha", "config|resetstat", *scripts}


async def test_a_server_that_forgot_the_script_is_taught_it_again(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        with capture_logs() as lines:
            redis_server.command("SCRIPT", "FLUSH")
            states = [await process.hit() for _ in range(3)]

    assert [state.remaining for state in states] == [29, 28, 27]
    assert lines == []


async def test_keys_are_short_and_small_and_end_by_themselves(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        for address in (ONE, "2001:db8:ffff:ffff::1", "x" * 10_000):
            for _ in range(40):
                await process.hit(address)
        keys = [word for word in redis_server.command("KEYS", "*").decode().split() if NAME in word]
        lives_ms = [int(redis_server.command("PTTL", key)[1:]) for key in keys]
        sizes = [int(redis_server.command("MEMORY", "USAGE", key)[1:]) for key in keys]
        await process.hit("192.0.2.1", quota=1, window_s=1)
        await asyncio.sleep(1.1)
        left = redis_server.command("EXISTS", f"{ADDRESS_KEY_PREFIX}{NAME}:192.0.2.1")

    assert len(keys) == 3
    assert all(key.startswith(KEY_PREFIX) and len(key) < 100 for key in keys)
    assert all(58_000 < life_ms <= 60_001 for life_ms in lives_ms)
    assert max(sizes) < 1024, "30 hits and the key"
    assert left == b":0\r\n"


async def test_while_redis_is_down_hits_are_counted_here_and_one_line_says_so(redis_server: RedisProcess) -> None:
    with capture_logs() as lines:
        async with running(redis_server.port) as (process,):
            await process.hit()
            redis_server.kill()
            states = await asyncio.gather(*(process.hit() for _ in range(35)))
            seconds = [(await process.seconds.hit("k")).hits for _ in range(3)]
            assert levels(lines) == ["info", "warning"], "of both counters"
            redis_server.start()
            await until(lines, "answers again")
            back = [(await process.hit()).remaining, (await process.seconds.hit("k")).hits]

    assert sum(state.retry_after_s == 0 for state in states) == QUOTA
    assert seconds == [1, 2, 3]
    assert back == [29, 1], "the new server knows nothing of them"
    assert levels(lines) == ["info", "warning", "info"]


async def test_a_frozen_redis_delays_one_hit_and_the_next_not_at_all(redis_server: RedisProcess) -> None:
    async with running(redis_server.port, timeout_s=0.25) as (process,):
        redis_server.freeze()
        try:
            await process.hit()
            for _ in range(10):
                with pytest.raises(StopIteration):  # it ends where it would wait
                    process.hit().send(None)
        finally:
            redis_server.thaw()


async def test_outside_of_serving_hits_are_counted_here(redis_server: RedisProcess) -> None:
    process = Process(redis_server.port)

    assert [(await process.hit()).remaining for _ in range(2)] == [29, 28]
    assert length(redis_server) == 0


async def test_a_hit_can_be_cancelled_at_each_of_its_steps(redis_server: RedisProcess) -> None:
    async with running(redis_server.port, connections_max=1) as (process,):
        for steps in range(40):
            hit = asyncio.create_task(process.hit(OTHER))
            for _ in range(steps):
                await asyncio.sleep(0)
            hit.cancel()
            await asyncio.gather(hit, return_exceptions=True)

        assert [(await process.hit()).remaining for _ in range(3)] == [29, 28, 27]


GRANTED = "+evalsha +script|load +incr +pttl +pexpire +time +lindex +lpop +llen +rpush"


async def test_a_user_who_may_use_one_script_only_is_one_outage_from_the_start(
    redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "PAUSE_S", 0.05)
    user = ["ACL", "SETUSER", "limits", "on", f">{SECRET}", "~precipiq:rate:*"]
    redis_server.command(*user, *GRANTED.split(), "-rpush")
    with capture_logs() as lines:
        async with running(redis_server.port, username="limits", password=SECRET) as (process,):
            for _ in range(30):
                await process.hit()
                await process.seconds.hit("k")
                await asyncio.sleep(0.01)
            assert levels(lines) == ["info", "warning"], "and not again with every attempt"
            redis_server.command(*user, "+rpush")
            await until(lines, "answers again")

    assert lines[1]["reason"] == "ResponseError"
    assert SECRET not in repr(lines)


async def test_a_user_with_the_permissions_that_the_guide_names(redis_server: RedisProcess) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    permissions = re.search(r"`(~precipiq:rate:\* [^`]+)`", guide)
    assert permissions is not None
    redis_server.command("ACL", "SETUSER", "limits", "on", f">{SECRET}", *permissions[1].split())

    with capture_logs() as lines:
        async with running(redis_server.port, 2, username="limits", password=SECRET) as (one, two):
            remaining = [(await process.hit()).remaining for process in (one, two, one)]
            hits = [(await process.seconds.hit(f"{KEY_PREFIX}k")).hits for process in (one, two, one)]

    assert (remaining, hits) == ([29, 28, 27], [1, 2, 3])
    assert levels(lines) == ["info", "info"]


async def test_a_counted_hit_is_kept_to_the_microsecond(redis_server: RedisProcess) -> None:
    async with running(redis_server.port) as (process,):
        before_us = redis_now_us(redis_server)
        await process.hit()
        after_us = redis_now_us(redis_server)
    kept = re.search(rb"\r\n(\d{16})\r\n", redis_server.command("LRANGE", KEY, "0", "-1"))

    assert kept is not None
    assert before_us <= int(kept[1]) <= after_us
