"""Limits by client address: what is one address, what a window admits, and what the table of addresses may hold."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from precipiq_auth_keys.address_limiter import AddressWindows, LocalWindows, Usage
from precipiq_contracts.auth import AddressLimiter, RateState
from precipiq_shared.addresses import UNKNOWN, counted_address
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

NAME = "stream_handshake"
QUOTA, WINDOW_S = 30, 60
ONE, OTHER = "203.0.113.9", "203.0.113.10"


class Bench:
    """A limiter of one process, whose clock stands still."""

    def __init__(self, addresses_max: int = 1000) -> None:
        self.clock = ManualClock()
        self.windows = LocalWindows(self.clock, addresses_max=addresses_max)
        self.limiter: AddressLimiter = AddressWindows(self.windows)

    async def hit(self, address: str | None = ONE, name: str = NAME) -> RateState:
        return await self.limiter.hit(name, address, QUOTA, WINDOW_S)

    async def hits(self, count: int, address: str = ONE) -> list[bool]:
        return [(await self.hit(address)).retry_after_s == 0 for _ in range(count)]

    def addresses(self) -> list[str]:
        return [address for table in self.windows._tables.values() for address in table]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::FFFF:203.0.113.9", "203.0.113.9"),
        ("::ffff:cb00:7109", "203.0.113.9"),
        ("0:0:0:0:0:ffff:cb00:7109", "203.0.113.9"),
        ("0000:0000:0000:0000:0000:FFFF:203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9%eth0", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::2%a%b", "fe80::/64"),
        ("::1", "::/64"),
        (None, UNKNOWN),
        ("", UNKNOWN),
        ("unknown", UNKNOWN),
        ("%", UNKNOWN),
        ("203.0.113.999", UNKNOWN),
        ("203.0.113.9:80", UNKNOWN),
        ("[2001:db8::1]", UNKNOWN),
        ("2001:db8::/64", UNKNOWN),
        (" 203.0.113.9", UNKNOWN),
        ("/run/precipiq.sock", UNKNOWN),
        ("1" * 100_000, UNKNOWN),
    ],
)
def test_one_client_is_one_ipv4_address_or_one_64_of_ipv6(address: str | None, counted: str) -> None:
    assert counted_address(address) == counted


@given(address=st.one_of(st.text(), st.ip_addresses().map(str)))
def test_whatever_the_address_it_counts_as_a_short_word(address: str) -> None:
    counted = counted_address(address)
    assert len(counted) <= 24
    assert counted == UNKNOWN or counted_address(counted.removesuffix("/64")) == counted


async def test_the_31st_of_30_is_refused_and_another_address_is_not() -> None:
    bench = Bench()

    states = [await bench.hit() for _ in range(32)]

    assert [state.retry_after_s for state in states] == [0.0] * 30 + [60.0] * 2
    assert [state.remaining for state in states] == [*range(29, -1, -1), 0, 0]
    assert {(state.policy, state.quota, state.window_s, state.reset_s) for state in states} == {(NAME, 30, 60, 60)}
    assert (await bench.hit(OTHER)).remaining == 29


async def test_counters_of_other_names_stand_apart() -> None:
    bench = Bench()
    await bench.hits(31)

    assert (await bench.hit(name="webhook")).remaining == 29


async def test_spellings_and_neighbours_share_a_counter() -> None:
    bench = Bench()
    for address in [ONE, f"::ffff:{ONE}", "2001:db8::1", "2001:db8::ffff:2", None, "nonsense"]:
        await bench.hit(address)

    assert sorted(bench.addresses()) == ["2001:db8::/64", ONE, UNKNOWN]
    assert [(await bench.hit(address)).remaining for address in (ONE, "2001:db8::3", "x")] == [27, 27, 27]


async def test_a_place_is_free_when_the_oldest_counted_hit_leaves_the_window_and_not_before() -> None:
    bench = Bench()
    await bench.hits(1)
    bench.clock.advance(10)
    await bench.hits(29)
    bench.clock.advance(us=7)

    refused = await bench.hit()
    assert (refused.retry_after_s, refused.reset_s) == (49.999993, 50)
    bench.clock.advance(us=49_999_992)
    assert (await bench.hit()).retry_after_s == 0.000001
    bench.clock.advance(us=1)
    assert await bench.hits(2) == [True, False]
    assert (await bench.hit()).retry_after_s == 10.0


async def test_what_is_refused_does_not_count() -> None:
    bench = Bench()
    await bench.hits(QUOTA)
    for _ in range(59):
        bench.clock.advance(1)
        assert await bench.hits(20) == [False] * 20
    bench.clock.advance(1)

    assert await bench.hits(QUOTA + 1) == [True] * QUOTA + [False]


class Oracle:
    """The definition, word for word: a hit is admitted when fewer than the quota were within the window before it."""

    def __init__(self) -> None:
        self.admitted_us: dict[str, list[int]] = defaultdict(list)

    def hit(self, address: str, now_us: int, quota: int, window_s: int) -> tuple[bool, int, float]:
        window_us = window_s * 1_000_000
        within = [moment for moment in self.admitted_us[address] if moment > now_us - window_us]
        if len(within) < quota:
            self.admitted_us[address].append(now_us)
            return True, quota - len(within) - 1, 0.0
        return False, 0, (within[len(within) - quota] + window_us - now_us) / 1_000_000


steps = st.tuples(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
    st.one_of(st.integers(0, 4_000_000), st.sampled_from([0, 1, 999_999, 1_000_000, 1_000_001, 2_999_999, 3_000_000])),
)


@given(steps=st.lists(steps, max_size=80), quota=st.integers(1, 5), window_s=st.integers(1, 3))
@example(steps=[(ONE, 0), (ONE, 999_999), (ONE, 1)], quota=1, window_s=1)
async def test_any_window_admits_what_the_definition_admits(
    steps: list[tuple[str, int]], quota: int, window_s: int
) -> None:
    bench, oracle = Bench(), Oracle()
    for address, pause_us in steps:
        bench.clock.advance(us=pause_us)
        state = await bench.limiter.hit(NAME, address, quota, window_s)
        expected = oracle.hit(address, bench.clock.now_us(), quota, window_s)
        assert (state.retry_after_s == 0, state.remaining, state.retry_after_s) == expected


@given(pauses_us=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=40), quota=st.integers(1, 4))
async def test_who_waits_the_named_time_is_admitted(pauses_us: list[int], quota: int) -> None:
    bench = Bench()
    for pause_us in pauses_us:
        bench.clock.advance(us=pause_us)
        state = await bench.limiter.hit(NAME, ONE, quota, 1)
        if state.retry_after_s:
            bench.clock.advance(state.retry_after_s)
            assert (await bench.limiter.hit(NAME, ONE, quota, 1)).retry_after_s == 0


async def test_a_smaller_quota_than_before_waits_until_that_many_have_left() -> None:
    bench = Bench()
    for _ in range(4):
        await bench.limiter.hit(NAME, ONE, 4, WINDOW_S)
        bench.clock.advance(10)

    assert (await bench.limiter.hit(NAME, ONE, 2, WINDOW_S)).retry_after_s == 40.0


async def test_hits_at_once_admit_the_quota_and_no_more() -> None:
    bench, tasks = Bench(), asyncio.all_tasks()

    states = await asyncio.gather(*(bench.hit() for _ in range(500)))

    assert sum(state.retry_after_s == 0 for state in states) == QUOTA
    assert asyncio.all_tasks() == tasks, "nothing is left running"


async def test_the_table_is_bounded_and_who_was_counted_longest_ago_leaves_first() -> None:
    bench = Bench(addresses_max=3)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.4"):
        await bench.hit(address)

    assert bench.addresses() == ["192.0.2.3", "192.0.2.1", "192.0.2.4"]
    assert (await bench.hit("192.0.2.1")).remaining == 27
    assert (await bench.hit("192.0.2.2")).remaining == 29, "it was forgotten"


async def test_who_is_refused_leaves_no_later_for_asking_again() -> None:
    bench = Bench(addresses_max=2)
    await bench.hits(QUOTA)
    await bench.hit("192.0.2.2")
    await bench.hits(5)
    await bench.hit("192.0.2.3")

    assert bench.addresses() == ["192.0.2.2", "192.0.2.3"]


async def test_a_flood_of_one_counter_makes_no_other_forget() -> None:
    bench = Bench(addresses_max=10)
    await bench.hit(name="webhook")
    for number in range(100):
        await bench.hit(f"192.0.2.{number}")

    assert (await bench.hit(name="webhook")).remaining == 28


async def test_what_is_over_is_forgotten_by_the_hits_that_follow() -> None:
    bench = Bench()
    for number in range(500):
        await bench.hit(f"192.0.{number // 250}.{number % 250}")
    bench.clock.advance(WINDOW_S)
    sizes = []
    for _ in range(10):
        await bench.hit()
        sizes.append(len(bench.addresses()))

    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 400, "no hit pays for all of them"


MILLION = """
import asyncio
from pathlib import Path
from precipiq_auth_keys.address_limiter import AddressWindows, LocalWindows
from precipiq_auth_keys.config import AuthKeysConfig
from precipiq_core.system import SystemClock

def peak_kb():
    # Not getrusage: there a process starts with the peak of its parent
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

async def main():
    windows = LocalWindows(SystemClock(), addresses_max=AuthKeysConfig().addresses_max)
    limiter = AddressWindows(windows)
    await limiter.hit("n", "192.0.2.1", 30, 3600)
    before_kb = peak_kb()
    for number in range(1_000_000):
        await limiter.hit("n", f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 30, 3600)
    (table,) = windows._tables.values()
    print(len(table), peak_kb() - before_kb)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_million_addresses_take_less_than_64_megabytes() -> None:
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True)
    addresses, grown_kb = map(int, done.stdout.split())

    assert addresses == 65_536
    assert grown_kb < 64 * 1024


async def test_the_state_is_made_of_what_the_counter_tells() -> None:
    class Full:
        async def hit(self, name: str, address: str, quota: int, window_s: int) -> Usage:
            return Usage(False, quota + 5, 1_000_001)

    state = await AddressWindows(Full()).hit(NAME, None, 2, 9)

    assert state == RateState(NAME, 2, 9, 0, math.ceil(1.000001), 1.000001)
