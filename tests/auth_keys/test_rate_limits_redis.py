"""Rate limits that server processes share through a real Redis server: what is counted, where, and at what cost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from structlog.testing import capture_logs

from precipiq_auth_keys.config import AuthKeysConfig
from precipiq_auth_keys.rate_limiter import KEY_PREFIX, LocalCounter, SecondWindows
from precipiq_auth_keys.redis_counter import RedisCounter
from precipiq_auth_keys.redis_link import RedisLink
from precipiq_auth_keys.redis_server import RedisServer, parse_redis_url
from precipiq_contracts.auth import RateGroup, RateState
from precipiq_contracts.chain import Chain
from precipiq_core.system import SystemClock
from precipiq_testkit import redis as testkit_redis
from precipiq_testkit.redis import RedisProcess
from precipiq_testkit.server import ServerProcess, running_server

pytestmark = pytest.mark.anyio

redis_server = testkit_redis.redis_server
redis_url = testkit_redis.redis_url

QUOTA = 10
QUOTAS: dict[RateGroup, int] = {"write": QUOTA, "batch": 2, "read": 2}
PATIENT_S = 1.0
"""A timeout that a busy machine does not reach."""


def new_chain() -> Chain:
    """One that no other test counts, whatever server it uses."""
    return Chain(f"org_{os.urandom(8).hex()}", "test")


def counter(url: str, *, timeout_s: float = PATIENT_S, connections_max: int = 10) -> RedisCounter:
    server = parse_redis_url(url)
    server = RedisServer(server.host, server.port, server.database, False, None, None, timeout_s, connections_max)
    return RedisCounter(RedisLink(server), LocalCounter(SystemClock()))


async def process(stack: AsyncExitStack, url: str) -> SecondWindows:
    """What one server process has."""
    limiter = SecondWindows(QUOTAS, SystemClock(), counter(url))
    await stack.enter_async_context(limiter.run())
    return limiter


async def hits_in_one_window(limiters: list[SecondWindows], chain: Chain, count: int) -> list[RateState]:
    """As many hits by turns, within one window: on a machine that stalls it begins anew."""
    for _ in range(10):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        states = [await limiters[index % len(limiters)].hit(chain, "write") for index in range(count)]
        if loop.time() - begun_s < 0.9:
            return states
        await asyncio.sleep(1.1)
    raise AssertionError("the machine is too slow for this test")


async def test_two_processes_share_one_quota(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        processes = [await process(stack, redis_url) for _ in range(2)]

        states = await hits_in_one_window(processes, new_chain(), QUOTA + 5)

    assert [state.remaining for state in states] == [*range(QUOTA - 1, -1, -1), *[0] * 5]
    assert [state.retry_after_s == 0 for state in states] == [True] * QUOTA + [False] * 5


async def test_a_process_without_redis_would_not_have_known() -> None:
    processes = [SecondWindows(QUOTAS, SystemClock()) for _ in range(2)]

    states = await hits_in_one_window(processes, new_chain(), QUOTA + 5)

    assert [state.retry_after_s for state in states] == [0] * (QUOTA + 5)


async def test_who_is_limited_by_one_process_is_admitted_by_another_after_the_named_time(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        processes = [await process(stack, redis_url) for _ in range(2)]
        for chain in (new_chain(), new_chain(), new_chain()):
            last = (await hits_in_one_window(processes, chain, QUOTA + 1))[-1]
            await asyncio.sleep(last.retry_after_s)
            again = await processes[0].hit(chain, "write")

            assert 0 < last.retry_after_s <= 1
            assert (again.retry_after_s, again.remaining) == (0, QUOTA - 1)


async def test_organisations_environments_and_groups_stay_apart(redis_url: str) -> None:
    chain = new_chain()
    others: list[tuple[Chain, RateGroup]] = [(Chain(chain.org_id, "live"), "write"), (new_chain(), "write")]
    async with AsyncExitStack() as stack:
        limiter = await process(stack, redis_url)
        await hits_in_one_window([limiter], chain, QUOTA + 1)

        states = [await limiter.hit(other, group) for other, group in [*others, (chain, "read")]]

    assert [(state.remaining, state.retry_after_s) for state in states] == [(QUOTA - 1, 0), (QUOTA - 1, 0), (1, 0)]


async def test_a_hit_is_one_command_and_so_one_round_trip(redis_server: RedisProcess) -> None:
    chain = new_chain()
    async with AsyncExitStack() as stack:
        limiter = await process(stack, redis_server.url)
        redis_server.command("CONFIG", "RESETSTAT")
        for _ in range(50):
            await limiter.hit(chain, "write")
        statistics = redis_server.command("INFO", "commandstats").decode()

    calls = dict(
        line[len("cmdstat_") :].split(",")[0].split(":calls=") for line in statistics.split() if "calls=" in line
    )
    assert calls["evalsha"] == "50"
    assert set(calls) <= {"evalsha", "incr", "pttl", "pexpire", "config|resetstat"}, "the middle three are the script's"


async def test_a_server_that_forgot_the_script_is_taught_it_again(redis_server: RedisProcess) -> None:
    chain = new_chain()
    async with AsyncExitStack() as stack:
        limiter = await process(stack, redis_server.url)
        with capture_logs() as lines:
            redis_server.command("SCRIPT", "FLUSH")
            states = await hits_in_one_window([limiter], chain, 3)

    assert [state.remaining for state in states] == [9, 8, 7]
    assert lines == []


async def test_keys_are_short_say_nothing_secret_and_end(redis_server: RedisProcess) -> None:
    async with AsyncExitStack() as stack:
        limiter = await process(stack, redis_server.url)
        for org_id in ("org_a", "x" * 10_000):
            await limiter.hit(Chain(org_id, "live"), "batch")
        keys = [word for word in redis_server.command("KEYS", "*").decode().split() if word.startswith(KEY_PREFIX)]
        lives_ms = [int(redis_server.command("PTTL", key)[1:]) for key in keys]

    assert f"{KEY_PREFIX}org_a:live:batch" in keys
    assert len(keys) == 3, "and the probe of the start"
    assert max(map(len, keys)) < 128
    assert all(0 <= life_ms <= 1000 for life_ms in lives_ms)


@pytest.mark.parametrize("end", [(), ("PX", "3600000")], ids=["none", "after-the-clock-went-back"])
async def test_a_counter_without_an_end_gets_one(end: tuple[str, ...], redis_server: RedisProcess) -> None:
    chain = new_chain()
    redis_server.command("SET", f"{KEY_PREFIX}{chain.org_id}:test:write", str(QUOTA), *end)
    async with AsyncExitStack() as stack:
        limiter = await process(stack, redis_server.url)
        limited = await limiter.hit(chain, "write")
        await asyncio.sleep(limited.retry_after_s + 0.01)

        assert 0 < limited.retry_after_s <= 1
        assert (await limiter.hit(chain, "write")).retry_after_s == 0


async def test_connections_are_bounded_and_hits_wait_for_one(redis_server: RedisProcess) -> None:
    shared = counter(redis_server.url, connections_max=3)
    async with shared.run():
        redis_server.command("CONFIG", "RESETSTAT")
        counts = await asyncio.gather(*(shared.hit("many") for _ in range(200)))
        statistics = redis_server.command("INFO", "stats").decode()

        assert len(shared._link._pool._in_use_connections) == 0
    received = next(line for line in statistics.split() if line.startswith("total_connections_received:"))
    assert int(received.partition(":")[2]) <= 3 + 1, "one of them asks for this number"
    assert sorted(count.hits for count in counts) == list(range(1, 201))


async def test_nothing_is_left_open(redis_server: RedisProcess) -> None:
    def clients() -> int:
        return redis_server.command("CLIENT", "LIST").count(b"id=")

    shared = counter(redis_server.url)
    async with shared.run():
        await asyncio.gather(*(shared.hit("many") for _ in range(50)))
        assert clients() > 2
    for _ in range(100):
        if clients() == 1:
            break
        await asyncio.sleep(0.01)

    assert clients() == 1, "the one that asks"
    assert (await shared.hit("late")).hits == 1, "counted here when Redis is closed"


async def test_a_server_process_counts_with_others_and_says_so(redis_url: str, tmp_path: Path) -> None:
    overrides = {
        "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": redis_url,
        "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_TIMEOUT_S": "1",
        "PRECIPIQ__PLUGINS__AUTH_KEYS__READS_PER_SECOND_MAX": "2",
        "PYTHONWARNINGS": "always::ResourceWarning",
    }
    with running_server(tmp_path, overrides=overrides) as server:
        async with AsyncExitStack() as stack:
            other = await process(stack, redis_url)
            answers = [await _read_after_two_hits(server, other) for _ in range(3)]
        exit_code = server.stop()

    assert 429 in answers
    assert exit_code == 0
    assert "ResourceWarning" not in server.log_text()
    (line,) = (line for line in server.log_lines() if "rate limits" in line["event"])
    assert (line["level"], line["storage"]) == ("info", "redis")


async def _read_after_two_hits(server: ServerProcess, other: SecondWindows) -> int:
    """What the server answers when another process of its organisation has used the quota up."""
    for _ in range(2):
        await other.hit(Chain(server.org_id, "test"), "read")
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{server.url}/api/v1/ledger/head", headers={"X-Precipiq-Key": server.key})
    return answer.status_code


def test_a_server_process_without_redis_says_that_it_counts_for_itself(server: ServerProcess) -> None:
    (line,) = (line for line in server.log_lines() if "rate limits" in line["event"])

    assert (line["level"], line["storage"]) == ("info", "memory")
    assert "per process" in line["event"]


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"redis://:{SECRET}@127.0.0.1:6379/0", "must hold no password"),
        (f"redis://user:{SECRET}@127.0.0.1/0", "must hold no password"),
        (f"http://user:{SECRET}@127.0.0.1", "must hold no password"),
        (f"redis://127.0.0.1/0?password={SECRET}", "takes no options"),
        ("redis://user@127.0.0.1", "names a user, but rate_limit_redis_password is not set"),
        ("unix:///run/redis.sock", "needs the scheme redis or rediss"),
        ("redis:///0", "names no host"),
        ("redis://127.0.0.1:port", "is not a URL"),
        ("redis://127.0.0.1/zero", "names no database by number"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_by_check(url: str, sentence: str, tmp_path: Path) -> None:
    setting = {"PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": url}
    done = ServerProcess(tmp_path, overrides=setting).run("check", check=False)

    assert done.returncode == 1
    assert "plugins.auth_keys" in done.stderr
    assert sentence in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_check_misses_a_password_that_is_not_there_and_connects_to_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        overrides = {
            "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}",
            "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_PASSWORD": '{ env = "TEST_REDIS_PASSWORD" }',
        }
        missing = ServerProcess(tmp_path, overrides=overrides).run("check", check=False)
        found = ServerProcess(tmp_path, overrides={**overrides, "TEST_REDIS_PASSWORD": SECRET}).run("check")
        nobody.setblocking(False)
        with pytest.raises(BlockingIOError):
            nobody.accept()

    assert missing.returncode == 1
    assert "TEST_REDIS_PASSWORD is missing or empty" in missing.stderr
    assert SECRET not in found.stdout + found.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", RedisServer("cache")),
        ("rediss://cache:6380/3", RedisServer("cache", 6380, 3, tls=True)),
        ("redis://[::1]:7/", RedisServer("::1", 7)),
        ("redis://a%20b@cache", RedisServer("cache", username="a b")),
    ],
)
def test_a_url_says_where_the_server_is(url: str, expected: RedisServer) -> None:
    assert parse_redis_url(url) == expected


def test_the_settings_reach_the_counter_and_the_password_no_representation(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    config = AuthKeysConfig.model_validate(
        {
            "rate_limit_redis_url": "redis://user@cache",
            "rate_limit_redis_password": {"file": str(tmp_path / "password")},
            "rate_limit_redis_timeout_s": 0.5,
            "rate_limit_redis_connections_max": 7,
        }
    )
    server = config.redis_server()

    assert server == RedisServer("cache", username="user", password=SECRET, timeout_s=0.5, connections_max=7)
    assert SECRET not in repr(server) + repr(config) + json.dumps(config.model_dump(mode="json"))
