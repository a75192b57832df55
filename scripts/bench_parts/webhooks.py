"""Deliveries of Stripe, each another event, each durable and sealed before it is answered, beside signature checks alone.

On each of BENCH_DATABASES (sqlite postgres).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bare import bare_server
from http_append import CONNECTIONS, HERE, ROUNDS, SECONDS, median, report
from stripe import WebhookSignature

from precipiq_testkit.postgres import own_postgres
from precipiq_testkit.server import ServerProcess, running_server

SECRET = "whsec_" + "bench" * 8
EVENTS = int(3000 * SECONDS)


def event(number: int) -> bytes:
    """A payment of about 900 bytes, indented as Stripe sends it."""
    intent = {
        "id": f"pi_{number:024d}", "object": "payment_intent", "amount": 2000 + number % 900, "amount_capturable": 0,
        "amount_received": 2000 + number % 900, "capture_method": "automatic", "created": 1790000000, "currency": "usd",
        "customer": "cus_000000000001", "latest_charge": f"ch_{number:024d}", "livemode": False,
        "metadata": {"order": f"A-{number}"}, "payment_method_types": ["card"], "status": "succeeded",
    }  # fmt: skip
    content = {
        "id": f"evt_{number:024d}", "object": "event", "api_version": "2026-10-28.endive", "created": 1790000000,
        "data": {"object": intent}, "livemode": False, "pending_webhooks": 1, "type": "payment_intent.succeeded",
    }  # fmt: skip
    return json.dumps(content, indent=2).encode()


def request_text(port: int, path: str, body: bytes) -> str:
    signature = WebhookSignature.generate_signature_header(body.decode(), SECRET, int(time.time()))
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nStripe-Signature: {signature}\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nUser-Agent: Stripe/1.0\r\nAccept: */*\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body.decode()}"
    )


def load(folder: Path, port: int, path: str, first: int) -> dict[str, float]:
    file = folder / "requests.json"
    file.write_text(json.dumps([request_text(port, path, event(number)) for number in range(first, first + EVENTS)]))
    task = {"port": port, "requests": str(file), "connections": CONNECTIONS, "duration_s": SECONDS}
    done = subprocess.run(
        [sys.executable, HERE / "load.py"], input=json.dumps(task), capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def post(server: ServerProcess, path: str, body: bytes, **headers: str) -> tuple[str, dict[str, str]]:
    request = urllib.request.Request(f"{server.url}{path}", body, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request) as response:
        kept = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in ("date", "content-length", "connection")
        }
        return response.read().decode(), kept


def measure(name: str, folder: Path, server: ServerProcess) -> None:
    made, _ = post(
        server,
        "/api/v1/integrations/stripe/endpoints",
        json.dumps({"secret": SECRET}).encode(),
        **{"X-Precipiq-Key": server.key},
    )
    path = f"/api/v1/webhooks/stripe/{json.loads(made)['data']['id']}"
    body = event(0)
    signature = WebhookSignature.generate_signature_header(body.decode(), SECRET, int(time.time()))
    answer, headers = post(server, path, body, **{"Stripe-Signature": signature})
    port = int(server.url.rpartition(":")[2])
    deliveries, limits = [], []
    with bare_server("bare_webhook.py", answer, headers, BENCH_SECRET=SECRET) as bare:
        for number in range(ROUNDS):
            limits.append(load(folder, bare.port, path, 1))
            deliveries.append(load(folder, port, path, 1 + number * EVENTS))
            assert deliveries[-1]["per_s"] * SECONDS < EVENTS, "events were delivered twice: raise EVENTS"
    what = f"{name}: deliveries, {CONNECTIONS} connections"
    report(what, deliveries, limits, "events/s", "signature check alone on stock Hypercorn", 0.6)
    print(f"  latency p50 {median(deliveries, 'p50_ms'):.1f} ms, p99 {median(deliveries, 'p99_ms'):.1f} ms")
    assert not sum(item["failures"] for item in (*deliveries, *limits)), "some deliveries failed"


@contextmanager
def server_on(database: str, **options: Any) -> Iterator[tuple[Path, ServerProcess]]:
    """A server on ``sqlite`` or ``postgres``, durable, and a folder beside its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = None
        if database == "postgres":
            postgres = stack.enter_context(own_postgres(durable=True)).server.new_database()
        yield folder, stack.enter_context(running_server(folder / "server", postgres=postgres, **options))


def main() -> None:
    overrides = {"PRECIPIQ__PLUGINS__OUTCOMES__CORRELATION__ENABLED": "false"}
    for name in os.environ.get("BENCH_DATABASES", "sqlite postgres").split():
        with server_on(name, overrides=overrides) as (folder, server):
            measure(name, folder, server)


if __name__ == "__main__":
    main()
