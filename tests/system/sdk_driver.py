"""Runs inside the SDK's environment: does what the first argument names, prints one JSON document."""

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path

from precipiq import AsyncPrecipiq, Precipiq, PrecipiqError, retry

scenario, url, key, work = sys.argv[1:5]
folder = Path(work)
fallback = folder / "fallback.log"
retry.BASE_DELAY = 0.3  # the policy stays the same; the test need not wait for seconds


def load() -> list[dict]:
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def single() -> object:
    with Precipiq(key, base_url=url, enable_batching=False, raise_on_error=True, fallback_log_path=fallback) as client:
        return [client.log_decision(**decision) for decision in load()]


def batched() -> object:
    with Precipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback, flush_interval=60) as client:
        for decision in load():
            client.log_decision(**decision)
    return "done"


def tracked() -> object:
    client = Precipiq(key, base_url=url, enable_batching=False, raise_on_error=True, fallback_log_path=fallback)

    @client.track(agent_id="tracker", action_type="sync", version="2.1")
    def discount(customer: str, tier: str = "gold") -> dict:
        return {"pct": 15}

    @client.track(agent_id="tracker", action_type="async")
    async def reply(ticket: int) -> str:
        return f"answer {ticket}"

    discount("Zoë 🚀")
    asyncio.run(reply(1234567890123456789))
    client.close()
    return "done"


def asynchronous() -> object:
    async def main() -> object:
        async with AsyncPrecipiq(key, base_url=url, enable_batching=False, raise_on_error=True) as client:
            receipts = [await client.log_decision(**decision) for decision in load()[:5]]
        async with AsyncPrecipiq(key, base_url=url, raise_on_error=True) as client:
            for decision in load()[5:]:
                await client.log_decision(**decision)
        return receipts

    return asyncio.run(main())


def refused() -> object:
    client = Precipiq(key, base_url=url, enable_batching=False, raise_on_error=True, fallback_log_path=fallback)
    try:
        client.log_decision(**load()[0])
    except PrecipiqError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return "accepted"


def spooled() -> object:
    client = Precipiq(key, base_url=url, enable_batching=False, fallback_log_path=fallback, timeout=2)
    result = client.log_decision(**load()[0])
    client.close()
    return {"result": result, "spool": fallback.read_text()}


def burst() -> object:
    client = Precipiq(key, base_url=url, enable_batching=False, raise_on_error=True, fallback_log_path=fallback)
    return [client.log_decision(**load()[0])["seq"] for _ in range(6)]


def outcomes() -> object:
    client = Precipiq(key, base_url=url, enable_batching=False, raise_on_error=True, fallback_log_path=fallback)
    one, other = json.loads((folder / "events.json").read_text())
    receipt = client.log_decision(**load()[0])
    linked = client.link_outcome(
        receipt["decision_id"], one, correlation_strength=0.9, link_type="revenue", notes="by hand"
    )
    again = client.link_outcome(
        receipt["decision_id"], one, correlation_strength=0.9, link_type="revenue", notes="by hand"
    )

    async def main() -> object:
        async with AsyncPrecipiq(key, base_url=url, raise_on_error=True) as async_client:
            cost = await async_client.link_outcome(
                receipt["decision_id"], other, correlation_strength=1.0, link_type="cost"
            )
            agent_id = load()[0]["agent_id"]
            return cost, await async_client.get_ai_pnl(start="2020-01-01", end="2100-01-01", agent_id=agent_id)

    cost, of_agent = asyncio.run(main())
    refused = ""
    try:
        client.link_outcome(receipt["decision_id"], one, correlation_strength=0.1, link_type="cost")
    except PrecipiqError as error:
        refused = str(error)
    return {
        "linked": linked,
        "again": again,
        "cost": cost,
        "of_agent": of_agent,
        "pnl": client.get_ai_pnl(),
        "before": client.get_ai_pnl(end=datetime(2020, 1, 1)),
        "refused": refused,
    }


print(json.dumps(globals()[scenario]()))
