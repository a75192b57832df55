"""How many streams an address may open and hold, on which address it counts, and what the rest is told."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from precipiq_testkit import redis as testkit_redis
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.redis import RedisProcess
from precipiq_testkit.server import ServerProcess, running_server
from tests.ws_stream.streams import Stream, stream_url

redis_server = testkit_redis.redis_server

pytestmark = [pytest.mark.anyio, pytest.mark.system]

QUOTA = 30
HANDSHAKES = "PRECIPIQ__PLUGINS__WS_STREAM__HANDSHAKES_PER_MINUTE_MAX"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "server", overrides={HANDSHAKES: str(QUOTA)}) as started:
        yield started


@asynccontextmanager
async def from_address(
    server: ServerProcess, address: str = "127.0.0.1", *, key: str | None = None, **options: object
) -> AsyncIterator[ClientConnection]:
    """A stream opened from that address of the loopback network."""
    async with connect(stream_url(server, key), local_addr=(address, 0), proxy=None, **options) as connection:  # type: ignore[arg-type]
        yield connection


async def refusal_of(server: ServerProcess, address: str = "127.0.0.1", **options: object) -> tuple[int, int]:
    """Status and Retry-After of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with from_address(server, address, **options):
            pass
    answer = refused.value.response
    assert json.loads(answer.body)["error"]["code"] == "rate_limited"
    return answer.status_code, int(answer.headers["Retry-After"])


async def open_and_close(server: ServerProcess, count: int, address: str = "127.0.0.1", **options: object) -> None:
    for _ in range(count):
        async with from_address(server, address, **options) as connection:
            await Stream(connection).ready()


async def test_the_31st_handshake_in_a_minute_is_refused_and_nobody_else_is(server: ServerProcess) -> None:
    await open_and_close(server, QUOTA)
    status, retry_after_s = await refusal_of(server)
    assert status == 429
    assert 30 < retry_after_s <= 60
    async with from_address(server, subprotocols=["precipiq.v1"]) as connection:
        code, reason = await Stream(connection).closed()
    assert code == 4429
    assert "retry in" in reason
    events = httpx2.get(f"{server.url}/api/v1/stream", headers={"X-Precipiq-Key": server.key}, trust_env=False)
    assert events.status_code == 429
    await open_and_close(server, 1, "127.0.0.2")


async def test_refused_keys_count_too(server: ServerProcess) -> None:
    for _ in range(QUOTA):
        with pytest.raises(InvalidStatus) as refused:
            async with from_address(server, key="pq_test_wrong"):
                pass
        assert refused.value.response.status_code == 401
    assert (await refusal_of(server))[0] == 429


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded"])
async def test_a_spoofed_address_changes_nothing_unless_the_proxy_is_trusted(tmp_path: Path, field: str) -> None:
    def value(address: str) -> str:
        return address if field == "X-Forwarded-For" else f"for={address}"

    with running_server(tmp_path / "alone", overrides={HANDSHAKES: "2"}) as server:
        for number in range(2):
            await open_and_close(server, 1, additional_headers={field: value(f"192.0.2.{number}")})
        assert (await refusal_of(server, additional_headers={field: value("192.0.2.9")}))[0] == 429
    overrides = {HANDSHAKES: "2", "PRECIPIQ__SERVER__TRUSTED_PROXIES": '["127.0.0.9/32"]'}
    with running_server(tmp_path / "behind", overrides=overrides) as server:
        proxied = {"address": "127.0.0.9"}
        await open_and_close(server, 2, **proxied, additional_headers={field: value("192.0.2.1")})  # type: ignore[arg-type]
        spoofed = f"{value('203.0.113.7')}, {value('192.0.2.1')}"
        assert (await refusal_of(server, **proxied, additional_headers={field: spoofed}))[0] == 429  # type: ignore[arg-type]
        await open_and_close(server, 1, **proxied, additional_headers={field: value("192.0.2.2")})  # type: ignore[arg-type]
        await open_and_close(server, 2, "127.0.0.1", additional_headers={field: value("192.0.2.3")})
        assert (await refusal_of(server, "127.0.0.1", additional_headers={field: value("192.0.2.4")}))[0] == 429


async def test_ipv6_clients_of_one_network_count_together(tmp_path: Path) -> None:
    overrides = {HANDSHAKES: "2", "PRECIPIQ__SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]'}
    with running_server(tmp_path / "server", overrides=overrides) as server:
        for address in ("2001:db8::1", "2001:db8::ffff:2"):
            await open_and_close(server, 1, additional_headers={"X-Forwarded-For": address})
        assert (await refusal_of(server, additional_headers={"X-Forwarded-For": "2001:db8:0:0:7::1"}))[0] == 429
        await open_and_close(server, 1, additional_headers={"X-Forwarded-For": "2001:db8:0:1::1"})
        for address in ("192.0.2.1", "::ffff:192.0.2.1"):
            await open_and_close(server, 1, additional_headers={"X-Forwarded-For": address})
        assert (await refusal_of(server, additional_headers={"X-Forwarded-For": "192.0.2.1"}))[0] == 429


async def test_two_nodes_with_redis_count_together(
    migrated_database: PostgresDatabase, redis_server: RedisProcess, tmp_path: Path
) -> None:
    overrides = {HANDSHAKES: "4", "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": redis_server.url}
    with ExitStack() as stack:
        first = stack.enter_context(running_server(tmp_path / "a", postgres=migrated_database, overrides=overrides))
        (tmp_path / "b" / "data").mkdir(parents=True, mode=0o700)
        shutil.copy(first.data_dir / "master.key", tmp_path / "b" / "data")
        second = stack.enter_context(running_server(tmp_path / "b", postgres=migrated_database, overrides=overrides))
        await open_and_close(first, 2)
        await open_and_close(second, 2, key=first.key)
        assert (await refusal_of(first))[0] == 429
        assert (await refusal_of(second, key=first.key))[0] == 429
        await open_and_close(second, 1, "127.0.0.2", key=first.key)


@pytest.mark.parametrize(
    ("setting", "whose"),
    [
        ("CONNECTIONS_MAX", "on this server"),
        ("CONNECTIONS_PER_ADDRESS_MAX", "from this address"),
        ("CONNECTIONS_PER_ORGANISATION_MAX", "of this organisation"),
    ],
)
async def test_open_streams_are_bounded_and_a_closed_one_makes_room(tmp_path: Path, setting: str, whose: str) -> None:
    overrides = {f"PRECIPIQ__PLUGINS__WS_STREAM__{setting}": "3"}
    with running_server(tmp_path / "server", overrides=overrides) as server:
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(from_address(server)) for _ in range(3)]
            for connection in opened:
                await Stream(connection).ready()
            status, _ = await refusal_of(server)
            assert status == 429
            async with from_address(server, subprotocols=["precipiq.v1"]) as refused:
                code, reason = await Stream(refused).closed()
            assert code == 4429
            assert whose in reason
            if setting == "CONNECTIONS_PER_ADDRESS_MAX":
                await open_and_close(server, 1, "127.0.0.2")
            await opened[0].close()
            async with asyncio.timeout(10):
                while True:
                    try:
                        await open_and_close(server, 1)
                        break
                    except InvalidStatus:
                        await asyncio.sleep(0.05)
