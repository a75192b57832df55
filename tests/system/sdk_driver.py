"""Runs inside the SDK's environment: does what the first argument names, prints one JSON document."""

import asyncio
import json
import sys
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


print(json.dumps(globals()[scenario]()))
