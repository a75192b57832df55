"""Plans in a served deployment: Stripe tells of a subscription, and the organisation's limits follow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from precipiq_testkit.server import DEPLOYMENT, ServerProcess
from tests.billing import stripe_events as stripe
from tests.billing.subscription_events import subscription_event
from tests.system.client import Client

pytestmark = pytest.mark.system

SECRET = stripe.new_secret()
PLANS = """
[plugins.billing.plans]
webhook_secret = { env = "PLANS_WEBHOOK_SECRET" }
default = "free"

[plugins.billing.plans.tiers.free]
reads_per_second_max = 1

[plugins.billing.plans.tiers.pro]
prices = ["price_pro"]
reads_per_second_max = 500
"""
PATH = "/webhooks/stripe/plans"


@pytest.fixture(scope="module")
def charging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A deployment that charges its tenants."""
    server = ServerProcess(
        tmp_path_factory.mktemp("charging"),
        deployment=DEPLOYMENT + PLANS,
        overrides={"PLANS_WEBHOOK_SECRET": SECRET},
    )
    yield server.start()
    server.kill()


def send(client: Client, content: dict[str, object], secret: str = SECRET) -> tuple[int, object]:
    body = stripe.body_of(content)
    answer = client.http.post(PATH, content=body, headers={"stripe-signature": stripe.signature(body, secret)})
    return answer.status_code, answer.json().get("data", answer.json())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"


def test_a_subscription_lifts_the_limits_and_its_end_lowers_them(charging: ServerProcess) -> None:
    client = Client(charging)
    plan = client.data("GET", "/plan")
    assert (plan["plan"], plan["valid_until"], plan["limits"]["reads_per_second_max"]) == ("free", None, 1)
    wait_for(lambda: client.http.get("/ledger/head").status_code == 429)
    now_s = int(time.time())
    life = {"org_id": charging.org_id, "period": (now_s - 100, now_s + 86_400)}
    started = subscription_event("created", now_s - 100, "active", ["price_pro"], **life)
    ended = subscription_event("deleted", now_s, "canceled", ["price_pro"], **life)
    assert send(client, started) == (200, {"processed": True, "reason": None})
    answers = [client.http.get("/ledger/head") for _ in range(12)]
    assert {answer.status_code for answer in answers} == {200}
    assert '"read";q=500;w=1' in answers[0].headers["ratelimit-policy"]
    assert client.data("GET", "/plan")["plan"] == "pro"
    assert send(client, ended)[1] == {"processed": True, "reason": None}
    assert send(client, started)[1] == {"processed": False, "reason": "a later state of the subscription is known"}
    wait_for(lambda: client.http.get("/plan").status_code == 200)
    wait_for(lambda: client.http.get("/ledger/head").status_code == 429)
    listed = json.loads(charging.run_warm("plans", "list", "--json").stdout)
    assert [(item["org_id"], item["plan"]) for item in listed] == [(charging.org_id, "free")]


def test_only_the_operators_stripe_account_can_tell(charging: ServerProcess) -> None:
    client = Client(charging)
    content = subscription_event("created", int(time.time()), "active", ["price_pro"], org_id=charging.org_id)
    status, answer = send(client, content, stripe.new_secret())
    assert (status, answer["error"]["code"]) == (400, "signature_invalid")  # type: ignore[index]
    assert send(client, stripe.event("invoice.paid", {"id": "in_1"}))[1] == {
        "processed": False,
        "reason": "event type not handled",
    }
    assert SECRET not in charging.log_text()


def test_a_deployment_without_its_secret_is_refused_by_the_check_and_does_not_start(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = ServerProcess(tmp_path_factory.mktemp("no-secret"), deployment=DEPLOYMENT + PLANS)
    checked = server.run("check", check=False)
    assert (checked.returncode, "PLANS_WEBHOOK_SECRET is missing or empty" in checked.stderr) == (1, True)
    with pytest.raises(RuntimeError, match="PLANS_WEBHOOK_SECRET is missing or empty"):
        server.start()
