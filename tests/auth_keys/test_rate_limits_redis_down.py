"""Rate limits when Redis is gone, slow, wrong or hostile, and when callers go away: requests go on, secrets stay in."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from precipiq_auth_keys import redis_link
from precipiq_auth_keys.rate_limiter import Count, LocalCounter
from precipiq_auth_keys.redis_counter import RedisCounter
from precipiq_auth_keys.redis_link import RedisLink
from precipiq_auth_keys.redis_server import RedisServer
from precipiq_core.system import SystemClock
from precipiq_testkit import redis as testkit_redis
from precipiq_testkit.redis import RedisProcess, running_redis
from precipiq_testkit.server import running_server

pytestmark = pytest.mark.anyio

redis_server = testkit_redis.redis_server

TIMEOUT_S = 0.25
SLACK_S = 0.25
"""What a busy machine may add to a timeout before it counts as late."""
SECRET = "hunter2hunter2"

Lines = Sequence[MutableMapping[str, Any]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def counter_at(port: int, **options: Any) -> RedisCounter:
    server = RedisServer("127.0.0.1", port, **{"timeout_s": TIMEOUT_S, **options})
    return RedisCounter(RedisLink(server), LocalCounter(SystemClock()))


def connections_in_use(counter: RedisCounter) -> int:
    """Taken from the pool and not given back."""
    return len(counter._link._pool._in_use_connections)


async def timed_hit(counter: RedisCounter, key: str = "k") -> tuple[float, Count]:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    count = await counter.hit(key)
    return loop.time() - begun_s, count


async def until(lines: Lines, word: str) -> None:
    for _ in range(500):
        if any(word in line["event"] for line in lines):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no line with {word!r} in {lines}")


def levels(lines: Lines) -> list[str]:
    return [line["log_level"] for line in lines]


@asynccontextmanager
async def fake_redis(talk: Talk) -> AsyncIterator[int]:
    """The port of a server that talks as the test wants."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_redis_killed_under_load_and_back_again(redis_server: RedisProcess) -> None:
    counter, other = counter_at(redis_server.port), counter_at(redis_server.port)
    waits_s: list[float] = []
    stop = asyncio.Event()

    async def client(number: int) -> None:
        while not stop.is_set():
            waits_s.append((await timed_hit(counter, f"k{number % 5}"))[0])
            await asyncio.sleep(0.001)

    with capture_logs() as lines:
        async with counter.run(), other.run(), asyncio.TaskGroup() as clients:
            for number in range(20):
                clients.create_task(client(number))
            await asyncio.sleep(0.3)
            assert levels(lines) == ["info", "info"], "only what each says at its start"
            redis_server.kill()
            await until(lines, "does not answer")
            await asyncio.sleep(1.5)
            redis_server.start()
            await until(lines, "answers again")
            stop.set()
            hits = [(await timed_hit(each, "shared"))[1].hits for each in (counter, other, counter)]
            in_use = connections_in_use(counter)

    assert hits == [1, 2, 3], "the other was not asked meanwhile, and connects anew"
    assert in_use == 0
    assert max(waits_s) < TIMEOUT_S + SLACK_S
    assert levels(lines) == ["info", "info", "warning", "info"]


async def test_an_outage_is_said_once_and_its_end_once(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port, timeout_s=30.0)
    with capture_logs() as lines:
        async with counter.run():
            redis_server.kill()
            for _ in range(3):
                await asyncio.gather(*(counter.hit("k") for _ in range(100)))
                await asyncio.sleep(0.5)
            assert levels(lines) == ["info", "warning"]
            redis_server.start()
            await until(lines, "answers again")
            await asyncio.gather(*(counter.hit("k") for _ in range(100)))

    assert levels(lines) == ["info", "warning", "info"]
    assert "Connection" in lines[1]["reason"]


async def test_while_redis_is_down_hits_are_counted_here_at_once(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port)
    async with counter.run():
        redis_server.kill()
        await counter.hit("other")

        timed = [await timed_hit(counter) for _ in range(20)]

    assert [count.hits for _, count in timed] == list(range(1, 21))
    assert max(waited_s for waited_s, _ in timed) < TIMEOUT_S


async def test_the_server_starts_without_redis_and_uses_it_when_it_comes(redis_server: RedisProcess) -> None:
    redis_server.kill()
    counter, other = counter_at(redis_server.port), counter_at(redis_server.port)
    with capture_logs() as lines:
        async with counter.run():
            assert levels(lines) == ["info", "warning"]
            redis_server.start()
            await until(lines, "answers again")
            async with other.run():
                assert [(await each.hit("k")).hits for each in (counter, other)] == [1, 2]


async def test_a_frozen_redis_delays_a_hit_by_its_timeout_and_the_next_not_at_all(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port)
    with capture_logs() as lines:
        async with counter.run():
            redis_server.freeze()
            at_once = await asyncio.gather(*(timed_hit(counter) for _ in range(50)))
            later = [await timed_hit(counter) for _ in range(5)]
            redis_server.thaw()
            await until(lines, "answers again")
            back = (await counter.hit("another")).hits
            in_use = connections_in_use(counter)

    assert max(waited_s for waited_s, _ in at_once) < TIMEOUT_S + SLACK_S
    assert max(waited_s for waited_s, _ in later) < TIMEOUT_S
    assert sorted(count.hits for _, count in at_once) == list(range(1, 51)), "all were counted here"
    assert (back, in_use) == (1, 0)
    assert levels(lines) == ["info", "warning", "info"]
    # Those that wait for a connection end at the same moment as those that have one; the first to end is told of.
    waited_for = ("no answer", f"none of {counter._link._server.connections_max} connections was free")
    assert lines[1]["reason"] in {f"{what} within {TIMEOUT_S} s" for what in waited_for}


async def test_a_redis_that_does_not_answer_is_said_to_be_silent(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port)
    with capture_logs() as lines:
        async with counter.run():
            redis_server.freeze()
            assert (await counter.hit("k")).hits == 1

    assert lines[1]["reason"] == f"no answer within {TIMEOUT_S} s"


async def test_a_hit_waits_for_a_free_connection_within_its_timeout(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port, connections_max=1)
    with capture_logs() as lines:
        async with counter.run(), counter._link._slots:
            waited_s, count = await timed_hit(counter)

    assert TIMEOUT_S * 0.9 < waited_s < TIMEOUT_S + SLACK_S
    assert count.hits == 1
    assert lines[1]["reason"] == f"none of 1 connections was free within {TIMEOUT_S} s"


async def test_a_socket_that_takes_connections_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "PAUSE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as mute, capture_logs() as lines:
        counter = counter_at(mute.getsockname()[1], password=SECRET)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with counter.run():
            started_s = loop.time() - begun_s
            timed = []
            for _ in range(10):  # beside several attempts to reach it, which fill its backlog
                timed.append(await timed_hit(counter))
                await asyncio.sleep(0.1)
            begun_s = loop.time()
        stopped_s = loop.time() - begun_s

    assert started_s < TIMEOUT_S + SLACK_S
    assert max(waited_s for waited_s, _ in timed) < TIMEOUT_S
    assert stopped_s < TIMEOUT_S + SLACK_S
    assert levels(lines) == ["info", "warning"]


async def test_a_stop_while_redis_is_down_leaves_no_task(redis_server: RedisProcess) -> None:
    redis_server.kill()
    before = asyncio.all_tasks()
    async with counter_at(redis_server.port).run():
        assert asyncio.all_tasks() - before

    assert asyncio.all_tasks() <= before


async def test_redis_is_tried_once_a_pause_however_many_ask() -> None:
    attempts = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1

    async with fake_redis(hang_up) as port:
        counter = counter_at(port)
        async with counter.run():
            for _ in range(230):
                await counter.hit("k")
                await asyncio.sleep(0.01)

    assert 2 <= attempts <= 6, "at the start, and about once a second; each attempt may connect twice"


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n",
        b"+OK\r\n",
        b"*1\r\n:1\r\n",
        b":nonsense\r\n",
        b"*2\r\n$-1\r\n$-1\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
        b"-MOVED 1 127.0.0.1:1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\r\n",
    ],
)
async def test_whatever_answers_in_place_of_redis_a_hit_succeeds(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(answer)

    async with fake_redis(talk) as port:
        counter = counter_at(port)
        with capture_logs() as lines:
            async with counter.run():
                counts = [await counter.hit("k") for _ in range(3)]

    assert [count.hits for count in counts] == [1, 2, 3]
    assert levels(lines) == ["info", "warning"]


async def test_cancelled_hits_leave_no_connection_in_use(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port, connections_max=5, timeout_s=1)
    with capture_logs() as lines:
        async with counter.run():
            for wave in range(10):
                hits = [asyncio.create_task(counter.hit(f"k{wave}")) for _ in range(50)]
                await asyncio.sleep(0.0005 * wave)
                for hit in hits:
                    hit.cancel()
                await asyncio.gather(*hits, return_exceptions=True)
                assert connections_in_use(counter) == 0

            counts = await asyncio.gather(*(counter.hit("after") for _ in range(20)))

    assert sorted(count.hits for count in counts) == list(range(1, 21)), "each answer belongs to its question"
    assert levels(lines) == ["info"], "and nobody took it for an outage"


@pytest.mark.parametrize("connected", [True, False])
async def test_a_hit_can_be_cancelled_at_each_of_its_steps(redis_server: RedisProcess, connected: bool) -> None:
    cancelled = 0
    counter = counter_at(redis_server.port, connections_max=1, timeout_s=1)
    async with counter.run():
        for steps in range(60):
            if not connected:
                await counter._link._pool.disconnect()
            hit = asyncio.create_task(counter.hit("k"))
            for _ in range(steps):
                await asyncio.sleep(0)
            hit.cancel()
            (outcome,) = await asyncio.gather(hit, return_exceptions=True)
            cancelled += isinstance(outcome, asyncio.CancelledError)
            assert connections_in_use(counter) == 0

        assert [(await counter.hit("after")).hits for _ in range(3)] == [1, 2, 3]
    assert 5 < cancelled < 60, "some were cancelled, at several steps, and some were done before"


async def test_hits_that_time_out_while_others_are_cancelled_leave_nothing(redis_server: RedisProcess) -> None:
    counter = counter_at(redis_server.port, connections_max=3, timeout_s=0.05)
    async with counter.run():
        redis_server.freeze()
        hits = [asyncio.create_task(counter.hit("k")) for _ in range(100)]
        await asyncio.sleep(0.03)
        for hit in hits[::2]:
            hit.cancel()
        await asyncio.gather(*hits, return_exceptions=True)
        redis_server.thaw()

        assert connections_in_use(counter) == 0


async def test_a_password_opens_it(tmp_path: Path) -> None:
    with running_redis(tmp_path, password=SECRET) as redis, capture_logs() as lines:
        one, two = (counter_at(redis.port, password=SECRET) for _ in range(2))
        async with one.run(), two.run():
            counts = [await each.hit("k") for each in (one, two, one)]

    assert [count.hits for count in counts] == [1, 2, 3]
    assert SECRET not in repr(lines)


@pytest.mark.parametrize("wrong", [f"{SECRET}-wrong", None])
async def test_a_wrong_password_is_an_outage_and_in_no_line(tmp_path: Path, wrong: str | None) -> None:
    with running_redis(tmp_path, password=SECRET) as redis, capture_logs() as lines:
        counter = counter_at(redis.port, password=wrong)
        async with counter.run():
            counts = [await counter.hit("k") for _ in range(3)]

    assert [count.hits for count in counts] == [1, 2, 3]
    assert levels(lines) == ["info", "warning"]
    assert lines[1]["reason"] == "AuthenticationError"
    assert SECRET not in repr(lines)


async def test_a_server_that_repeats_the_password_does_not_bring_it_into_the_log() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(4096)
        writer.write(b"-ERR unknown command, with args beginning with: " + asked.replace(b"\r\n", b" ") + b"\r\n")
        await reader.read(4096)

    async with fake_redis(echo) as port:
        counter = counter_at(port, password=SECRET)
        with capture_logs() as lines:
            async with counter.run():
                await counter.hit("k")

    assert levels(lines) == ["info", "warning"]
    assert SECRET not in repr(lines)


def test_a_server_process_goes_on_when_redis_is_killed(redis_server: RedisProcess, tmp_path: Path) -> None:
    overrides = {
        "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": redis_server.url,
        "PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_PASSWORD": '{ env = "TEST_REDIS_PASSWORD" }',
        "TEST_REDIS_PASSWORD": SECRET,
        "PYTHONWARNINGS": "always::ResourceWarning",
    }
    redis_server.command("CONFIG", "SET", "requirepass", SECRET)
    with running_server(tmp_path, overrides=overrides) as server, httpx2.Client() as client:

        def read() -> int:
            headers = {"X-Precipiq-Key": server.key}
            return client.get(f"{server.url}/api/v1/ledger/head", headers=headers).status_code

        answers = [read() for _ in range(10)]
        redis_server.kill()
        answers += [read() for _ in range(50)]
        exit_code = server.stop()
        lines = [line for line in server.log_lines() if "rate limits" in line["event"]]

    assert (set(answers), exit_code) == ({200}, 0)
    assert [line["level"] for line in lines] == ["info", "warning"]
    assert SECRET not in server.log_text()
    assert "ResourceWarning" not in server.log_text()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(encoding))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_with_a_certificate_that_is_verified(
    redis_server: RedisProcess, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """In front of the real server stands what ends TLS: the server that tests have speaks none itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(pipe(reader, behind[1]), pipe(behind[0], writer), return_exceptions=True)

    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    front = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    with capture_logs() as lines:
        one, two = (counter_at(front.sockets[0].getsockname()[1], tls=True, timeout_s=1) for _ in range(2))
        async with one.run(), two.run():
            counts = [await each.hit("k") for each in (one, two, one)]
    front.close()
    await front.wait_closed()
    await asyncio.sleep(0.05)
    gc.collect()

    assert [count.hits for count in counts] == ([1, 2, 3] if trusted else [1, 1, 2])
    assert levels(lines) == (["info", "info"] if trusted else ["info", "warning"] * 2)
    assert trusted or "CERTIFICATE_VERIFY_FAILED" in lines[1]["reason"]
