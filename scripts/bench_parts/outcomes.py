"""Profit and loss over a long chain: what a year of decisions, money and links costs to take in, to keep and to ask.

BENCH_ENTRIES decisions over a year, a fifth as many financial events and links. On each of BENCH_DATABASES.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chain import ENTRIES, ROUNDS, Silence, get

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.clock import format_timestamp
from precipiq_core.boot import assemble
from precipiq_core.deployment import load_deployment
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.service import LedgerService
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.service import NewLink, _draft
from precipiq_testkit.postgres import PostgresDatabase, own_postgres
from precipiq_testkit.server import ServerProcess

YEAR_US = 365 * 86_400_000_000
AT_ONCE = 500
AGENTS = 200
COUNTS = {"decision_count": "decisions", "link_count": "links"}


class YearClock:
    """Decisions are spread over the year before now, however fast they are written."""

    def __init__(self, count: int) -> None:
        self.step_us = YEAR_US // count
        self.at_us = SystemClock().now_us() - YEAR_US

    def now_us(self) -> int:
        return self.at_us

    def monotonic_s(self) -> float:
        return time.monotonic()


def pieces(count: int) -> Iterator[range]:
    for start in range(0, count, AT_ONCE):
        yield range(start, min(start + AT_ONCE, count))


def decision(number: int, chance: random.Random) -> Draft:
    body = {
        "agent_id": f"agent-{number % AGENTS}",
        "action_type": chance.choice(["email_send", "pricing_change", "discount_offer"]),
        "confidence": chance.choice([0.3, 0.6, 0.9]),
        "human_in_loop": chance.random() < 0.5,
        "external_id": None,
    }
    return Draft(
        "decision", "key_bench", body, {"inputs": {"n": number}, "outputs": {}, "alternatives": None, "metadata": None}
    )


def money(number: int, at_us: int, chance: random.Random) -> Draft:
    body = {
        "source": "internal", "event_type": "other", "amount": f"{chance.randrange(-50_000, 100_000) / 100:.2f}",
        "currency": "USD", "external_id": f"e{number}", "occurred_at": format_timestamp(at_us), "object_id": None,
        "related_id": None, "cause": None, "livemode": None,
    }  # fmt: skip
    return Draft("financial_event", "key_bench", body, {"metadata": None}, f"bench:{number}")


async def fill(server: ServerProcess, chain: Chain) -> None:
    """The chain, straight through the ledger; then the follower takes all of it in."""
    chance = random.Random(1)
    clock = YearClock(ENTRIES)
    assembly = assemble(
        load_deployment(server.config, {}), clock=clock, randomness=SystemRandomness(), console=Silence(), serving=False
    )
    count = ENTRIES // 5
    async with run_lifespans(assembly):
        ledger = assembly.services.get(LedgerService)
        sample: list[Entry] = []
        for numbers in pieces(ENTRIES):
            entries = (await ledger.append(chain, [decision(number, chance) for number in numbers])).entries
            sample += entries[:: max(1, ENTRIES // count // 2)]
            clock.at_us += clock.step_us * len(numbers)
        events: list[Entry] = []
        for numbers in pieces(count):
            drafts = [money(number, clock.at_us - chance.randrange(YEAR_US), chance) for number in numbers]
            events += (await ledger.append(chain, drafts)).entries
        for numbers in pieces(count):
            await ledger.append(
                chain, [link(number, chance.choice(sample), events[number], chance) for number in numbers]
            )
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        await assembly.services.get(Projection).catch_up(chain)
        taken_s, taken_cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        seq = 0
        while entries := await ledger.read(chain, seq, AT_ONCE):
            for entry in entries:
                parse_statement(entry.statement)
            seq = entries[-1].seq
        read_s, read_cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    total = ENTRIES + 2 * count
    print(f"  taken in: {total / taken_s:,.0f} entries/s; reading and parsing them alone {total / read_s:,.0f}; "
          f"ratio {read_s / taken_s:.2f} (aim 0.60); CPU {taken_cpu_s / total * 1e6:.1f} us an entry, "
          f"reading and parsing {read_cpu_s / total * 1e6:.1f}, ratio {read_cpu_s / taken_cpu_s:.2f}")  # fmt: skip


def link(number: int, decided: Entry, event: Entry, chance: random.Random) -> Draft:
    link_type = chance.choice(["revenue", "revenue", "cost", "liability"])
    ends = (parse_statement(decided.statement), decided, parse_statement(event.statement), event)
    new = NewLink(ends[0].id, ends[2].id, 1.0, "manual", link_type, None)  # type: ignore[arg-type]
    return _draft(new, ends, "key_bench", None, 0)


def timed(server: ServerProcess, path: str, query: dict[str, str]) -> tuple[float, Any]:
    url = f"/api/v1{path}?{urllib.parse.urlencode(query)}"
    get(server, url)
    times = []
    for _ in range(max(5, ROUNDS * 3)):
        started_s = time.perf_counter()
        answer = get(server, url)
        times.append(time.perf_counter() - started_s)
    return statistics.median(times) * 1000, answer


def measure(server: ServerProcess) -> None:
    now_us = SystemClock().now_us()
    odd = {
        "start": format_timestamp(now_us - 200 * 86_400_000_000 + 1),
        "end": format_timestamp(now_us - 77_777_000_001),
    }
    questions: Sequence[tuple[str, str, dict[str, str]]] = (
        ("everything", "/analytics/ai-pnl", {}),
        ("from one odd moment to another", "/analytics/ai-pnl", odd),
        ("one agent, odd moments", "/analytics/ai-pnl", {**odd, "agent_id": "agent-7"}),
        ("timeline of 365 days", "/analytics/timeline", {"start": format_timestamp(now_us - 364 * 86_400_000_000)}),
        ("liability of everything", "/analytics/liability", {}),
        ("page of 50 links", "/links", {}),
    )
    head_ms, _ = timed(server, "/ledger/head", {})
    for name, path, query in questions:
        took_ms, answer = timed(server, path, query)
        counts = [f"{answer[key]:,} {what}" for key, what in COUNTS.items() if key in answer]
        print(f"  {name}: {took_ms:.1f} ms {', '.join(counts)}")
    print(f"  for comparison, GET /ledger/head: {head_ms:.1f} ms")


def sizes(server: ServerProcess) -> str:
    if server.postgres is not None:
        rows = server.sql(
            "SELECT sum(pg_total_relation_size(c.oid))::float8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'precipiq' AND c.relkind = 'r' AND c.relname LIKE 'outcome%'"
        )
    else:
        rows = server.sql("SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%outcome_%'")
    return f"{rows[0][0] / 1e6:,.0f} MB of tables and indexes"


def main() -> None:
    for name in os.environ.get("BENCH_DATABASES", "sqlite postgres").split():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            postgres: PostgresDatabase | None = None
            if name == "postgres":
                postgres = stack.enter_context(own_postgres(durable=True)).server.new_database()
                os.environ |= postgres.environment
            overrides = {"PRECIPIQ__PLUGINS__OUTCOMES__CORRELATION__ENABLED": "false"}
            server = ServerProcess(folder / "server", postgres=postgres, overrides=overrides).start()
            server.stop()
            print(f"{name}: {ENTRIES:,} decisions, {ENTRIES // 5:,} financial events, {ENTRIES // 5:,} links")
            asyncio.run(fill(server, Chain(server.org_id, "live")))
            server.key = server.create_key("live")
            try:
                print(f"  kept in: {sizes(server)}")
            except Exception as error:
                print(f"  sizes unknown: {type(error).__name__}")
            server.sql("DELETE FROM outcome_stale")  # the estimates on record are not what is measured
            server.start()
            try:
                measure(server)
            finally:
                server.stop()


if __name__ == "__main__":
    main()
