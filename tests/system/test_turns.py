"""One organisation asks for much heavy work at once: another's question is answered in its turn, not after all of it.

Counted are the answers that the crowd gets while the other waits, not milliseconds. The control asks the same as one
of the crowd: it comes after most of it, which shows that there is a queue to be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client, decision
from tests.system.organisations import organisations

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ENTRIES = 1_000
"""Few enough for a verification without a process of its own."""
SCANS, VERIFICATIONS, ROTATIONS = 60, 12, 60
NOTE_BYTES = 20_000
"""So that a scan takes longer than the rest of its request."""
NO_MATCH = {"metadata.nobody": "has this", "limit": 1}
DEADLINE_S = 120.0


@dataclass
class Crowd:
    """Many requests of one key; ``answers``: their statuses in the order in which they came."""

    site: httpx2.AsyncClient
    key: str
    answers: list[int] = field(default_factory=list)
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, path: str, **query: Any) -> None:
        answer = await self.site.get(path, params=query, headers={"X-Precipiq-Key": self.key})
        self.answers.append(answer.status_code)
        self.seen.set()

    async def passed_by(self, key: str, count: int, path: str, **query: Any) -> tuple[int, int]:
        """How many answers the crowd of ``count`` gets while one question of ``key`` waits, and how many are left."""
        await asyncio.gather(*(self.ask("/ledger/head") for _ in range(count)))  # its connections are open
        self.seen.clear()
        crowd = [asyncio.create_task(self.ask(path, **query)) for _ in range(count)]
        await self.seen.wait()  # the server is at it
        before = len(self.answers)
        answer = await self.site.get(path, params=query, headers={"X-Precipiq-Key": key})
        may_be = {200} if key != self.key else {200, 503}  # who gets no turn in time is told to come again
        assert answer.status_code in may_be, answer.text
        passed, waiting = len(self.answers) - before, 2 * count - before
        await asyncio.gather(*crowd)
        assert set(self.answers) <= {200, 503}
        assert 200 in self.answers
        return passed, waiting


@dataclass(frozen=True)
class Tenants:
    """``crowded`` floods with its key for ``test``; ``other`` is another organisation's for ``live``."""

    crowded: str
    other: str


@pytest.fixture(scope="module")
def tenants(shared_server: ServerProcess) -> Tenants:
    (_, crowded), (other_id, _) = organisations(shared_server, 2)
    other = shared_server.create_key("live", "admin", "read", "write", "export", org_id=other_id)
    for key in (crowded, other):
        client = Client(shared_server, key)
        for first in range(0, ENTRIES, 100):
            decisions = [decision(number, metadata={"note": "x" * NOTE_BYTES}) for number in range(first, first + 100)]
            client.data("POST", "/decisions/batch", json={"decisions": decisions})
    return Tenants(crowded, other)


@pytest.fixture
async def site(shared_server: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(
            base_url=f"{shared_server.url}/api/v1", limits=limits, timeout=DEADLINE_S, trust_env=False
        ) as opened,
        asyncio.timeout(DEADLINE_S),
    ):
        yield opened


async def test_a_crowd_of_scans_delays_another_by_its_turn(site: httpx2.AsyncClient, tenants: Tenants) -> None:
    other = await Crowd(site, tenants.crowded).passed_by(tenants.other, SCANS, "/decisions", **NO_MATCH)
    control = await Crowd(site, tenants.crowded).passed_by(tenants.crowded, SCANS, "/decisions", **NO_MATCH)
    assert other[0] < SCANS / 4
    assert control[0] > control[1] / 2


async def test_a_crowd_of_verifications_leaves_one_to_others(site: httpx2.AsyncClient, tenants: Tenants) -> None:
    path = "/decisions/chain/verify"
    other = await Crowd(site, tenants.crowded).passed_by(tenants.other, VERIFICATIONS, path)
    control = await Crowd(site, tenants.crowded).passed_by(tenants.crowded, VERIFICATIONS, path)
    assert other[0] < VERIFICATIONS / 2
    assert control[0] > control[1] / 2


async def test_a_crowd_of_rotations_makes_one_key_and_the_rest_is_refused_at_once(
    site: httpx2.AsyncClient, tenants: Tenants
) -> None:
    path = "/exports/signing-keys/rotate"

    async def rotate(key: str) -> httpx2.Response:
        return await site.post(path, headers={"X-Precipiq-Key": key})

    for key in (tenants.crowded, tenants.other):
        assert (await rotate(key)).status_code == 201
    crowd = [asyncio.create_task(rotate(tenants.crowded)) for _ in range(ROTATIONS)]
    other = await rotate(tenants.other)
    answers = await asyncio.gather(*crowd)

    assert other.status_code == 201, other.text
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(429, "rate_limited")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert 1 <= len(answers) - len(refused) <= 20
    assert len(refused) > ROTATIONS / 2


async def test_one_export_does_not_wait_for_anothers_many(site: httpx2.AsyncClient, tenants: Tenants) -> None:
    async def export(key: str) -> str:
        answer = await site.post("/exports", json={}, headers={"X-Precipiq-Key": key})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["id"])

    async def ended(key: str) -> int:
        answer = await site.get("/exports", headers={"X-Precipiq-Key": key})
        return sum(item["status"] == "completed" for item in answer.json()["data"]["items"])

    for _ in range(5):
        await export(tenants.crowded)
    await export(tenants.other)
    while not await ended(tenants.other):
        await asyncio.sleep(0.05)
    assert await ended(tenants.crowded) < 4
