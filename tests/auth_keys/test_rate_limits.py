"""Rate limits: who shares a counter, what a limited answer says, and where in the order of work it comes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys.rate_limiter import SecondWindows
from precipiq_contracts.auth import RateGroup
from precipiq_contracts.chain import Chain
from precipiq_core.system import SystemClock
from precipiq_testkit.server import ServerProcess, running_server

pytestmark = pytest.mark.anyio

DECISION = {"agent_id": "a", "action_type": "b", "inputs": {}, "outputs": {}, "confidence": 1}
QUOTAS: dict[RateGroup, int] = {"write": 2, "batch": 2, "read": 2}
TRIES_MAX = 500


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two writes and one batch a second."""
    overrides = {
        "PRECIPIQ__PLUGINS__AUTH_KEYS__WRITES_PER_SECOND_MAX": "2",
        "PRECIPIQ__PLUGINS__AUTH_KEYS__BATCHES_PER_SECOND_MAX": "1",
    }
    with running_server(tmp_path_factory.mktemp("server"), overrides=overrides) as server:
        yield server


def post(server: ServerProcess, key: str, path: str = "/decisions", **options: Any) -> httpx2.Response:
    body = {} if "content" in options else {"json": {"decisions": [DECISION]} if "batch" in path else DECISION}
    headers = {"X-Precipiq-Key": key, "Content-Type": "application/json"}
    return httpx2.post(f"{server.url}/api/v1{path}", headers=headers, **body, **options)


def until_limited(server: ServerProcess, key: str, **options: Any) -> httpx2.Response:
    with httpx2.Client() as client:
        for _ in range(TRIES_MAX):
            headers = {"X-Precipiq-Key": key, "Content-Type": "application/json"}
            answer = client.post(f"{server.url}/api/v1/decisions", headers=headers, content=options["content"])
            if answer.status_code == 429:
                return answer
    raise AssertionError(f"never limited in {TRIES_MAX} requests")


def limited(server: ServerProcess) -> httpx2.Response:
    return until_limited(server, server.key, content=json.dumps(DECISION))


async def exhaust(limiter: SecondWindows, chain: Chain, group: RateGroup) -> float:
    for _ in range(TRIES_MAX):
        state = await limiter.hit(chain, group)
        if state.retry_after_s > 0:
            return state.retry_after_s
    raise AssertionError("never limited")


async def test_each_organisation_environment_and_group_has_a_counter_of_its_own() -> None:
    limiter = SecondWindows(QUOTAS, SystemClock())
    await exhaust(limiter, Chain("org_a", "test"), "write")

    others: list[tuple[str, Any, RateGroup]] = [
        ("org_b", "test", "write"), ("org_a", "live", "write"), ("org_a", "test", "read"), ("org_a", "test", "batch"),
    ]  # fmt: skip
    for org_id, environment, group in others:
        state = await limiter.hit(Chain(org_id, environment), group)
        assert (state.policy, state.remaining, state.retry_after_s) == (group, 1, 0)


async def test_the_quota_is_admitted_and_no_more() -> None:
    limiter = SecondWindows({"write": 50, "batch": 1, "read": 1}, SystemClock())

    states = [await limiter.hit(Chain("o", "test"), "write") for _ in range(60)]

    assert [state.remaining for state in states] == [*range(49, -1, -1), *[0] * 10]
    assert [state.retry_after_s == 0 for state in states] == [True] * 50 + [False] * 10


async def test_a_limited_caller_is_admitted_after_the_named_time_of_at_most_a_second() -> None:
    limiter = SecondWindows(QUOTAS, SystemClock())
    chain = Chain("o", "test")
    retry_after_s = await exhaust(limiter, chain, "write")

    await asyncio.sleep(retry_after_s + 0.02)

    assert retry_after_s <= 1.0
    assert (await limiter.hit(chain, "write")).retry_after_s == 0


def test_a_limited_answer_has_the_code_the_wait_in_whole_seconds_and_the_fields(strict_server: ServerProcess) -> None:
    answer = limited(strict_server)

    assert answer.json() == {"error": {"code": "rate_limited", "message": "rate limit exceeded"}}
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["ratelimit-policy"] == '"write";q=2;w=1'
    assert answer.headers["ratelimit"] == '"write";r=0;t=1'


def test_every_answer_to_a_valid_key_shows_what_is_left(strict_server: ServerProcess) -> None:
    url, headers = f"{strict_server.url}/api/v1", {"X-Precipiq-Key": strict_server.key}
    answers = [
        httpx2.get(f"{url}{path}", headers=headers) for path in ("/decisions", "/decisions/none", "/decisions?x=1")
    ]

    assert [answer.status_code for answer in answers] == [200, 404, 422]
    for answer in answers:
        assert answer.headers["ratelimit-policy"] == '"read";q=1000000;w=1'
        assert re.fullmatch(r'"read";r=\d+;t=1', answer.headers["ratelimit"])


def test_other_groups_environments_and_organisations_are_not_limited_with_it(strict_server: ServerProcess) -> None:
    live = strict_server.create_key("live")
    other_id = json.loads(strict_server.run_warm("orgs", "create", "another", "--json").stdout)["org_id"]
    other = strict_server.create_key("test", org_id=other_id)
    limited(strict_server)

    headers = {"X-Precipiq-Key": strict_server.key}
    assert httpx2.get(f"{strict_server.url}/api/v1/ledger/head", headers=headers).status_code == 200
    assert post(strict_server, strict_server.key, "/decisions/batch").status_code == 201
    assert [post(strict_server, key).status_code for key in (live, other)] == [201, 201]


def test_all_keys_of_an_organisation_and_environment_share_a_counter(strict_server: ServerProcess) -> None:
    second = strict_server.create_key("test")
    for _ in range(50):
        limited(strict_server)
        if post(strict_server, second).status_code == 429:
            return
    raise AssertionError("another key had a counter of its own")


def test_the_limit_comes_before_the_body_is_looked_at(strict_server: ServerProcess) -> None:
    answer = until_limited(strict_server, strict_server.key, content=b"{not json")

    assert answer.json()["error"]["code"] == "rate_limited"


def test_the_key_comes_before_the_limit(strict_server: ServerProcess) -> None:
    for _ in range(20):
        answer = post(strict_server, "pq_test_nobody", content=b"{not json")
        assert answer.status_code == 401
        assert not [name for name in answer.headers if "ratelimit" in name]


def test_a_limited_write_changes_nothing_and_succeeds_a_second_later(strict_server: ServerProcess) -> None:
    headers = {"X-Precipiq-Key": strict_server.key}
    head_url = f"{strict_server.url}/api/v1/ledger/head"
    limited(strict_server)
    head = httpx2.get(head_url, headers=headers).json()["data"]
    for _ in range(TRIES_MAX):
        answer = post(strict_server, strict_server.key)
        if answer.status_code == 201:
            break
        assert answer.status_code == 429
        time.sleep(0.05)

    assert answer.json()["data"]["seq"] == head["seq"] + 1
