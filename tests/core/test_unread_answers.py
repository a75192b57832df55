"""Answers that clients do not take: each environment has a share of memory for them, and a client has so much time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from pydantic import BaseModel

from precipiq_contracts.auth import Principal
from precipiq_contracts.chain import Chain
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.credential import Credential
from precipiq_core.http.answers import LateFailure
from precipiq_core.http.endpoint import Call, Endpoint, NoQuery
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.router import build_router
from precipiq_core.http.settings import HttpSettings
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

KIB = 1024
LIMITS = HttpSettings().model_copy(update={"answers_memory_bytes_max": 4000 * KIB, "download_stall_timeout_s": 0.5})


class Text(BaseModel):
    text: str


class Keys:
    async def authenticate(self, credential: Credential) -> Principal | None:
        return Principal(Chain(credential.reveal(), "test"), "key", frozenset({"read"}))


class Site:
    """Answers a text of that size; ``statuses``: of the answers that began."""

    def __init__(self) -> None:
        self.size = 400 * KIB
        self.statuses: list[int] = []
        endpoint = Endpoint("GET", "/text", self.answer, "read", Text)
        self.app = build_router([Contribution("text", endpoint)], Edge([Keys()], None, LIMITS, ManualClock()))

    async def answer(self, call: Call[Any, NoQuery]) -> object:
        """Get a text."""
        return {"text": "x" * self.size}

    async def get(self, organisation: str, *, takes: bool = True) -> int:
        """The status; a client that takes nothing gets no further than that."""
        began = len(self.statuses)

        async def receive() -> Any:
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            elif not takes:
                await asyncio.Event().wait()

        scope = {
            "type": "http", "method": "GET", "path": "/api/v1/text", "query_string": b"", "root_path": "",
            "headers": [],
            "precipiq.credential": Credential(organisation), "precipiq.request_id": "req_1",
        }  # fmt: skip
        await self.app(cast("Any", scope), receive, send)
        return self.statuses[began]


async def test_what_one_environment_leaves_unread_takes_a_share_of_memory_for_a_time() -> None:
    site = Site()
    async with asyncio.timeout(20):
        unread = [asyncio.create_task(site.get("org_a", takes=False)) for _ in range(2)]
        while len(site.statuses) < 2:
            await asyncio.sleep(0)
        assert await site.get("org_a") == 503, "a third would be more than a quarter"
        assert await site.get("org_b") == 200
        site.size = 10 * KIB
        assert await site.get("org_a") == 200, "small answers are not counted"
        for result in await asyncio.gather(*unread, return_exceptions=True):
            assert isinstance(result, LateFailure), "the connection is closed"
        site.size = 400 * KIB
        assert await site.get("org_a") == 200, "what they held was given back"


async def test_an_answer_larger_than_a_share_is_sent_when_nothing_else_is_held() -> None:
    site = Site()
    site.size = 2000 * KIB
    assert await site.get("org_a") == 200
