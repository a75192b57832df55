"""The answer of a long verification: white space until the JSON is there, and never a wrong answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from precipiq_contracts.errors import NotFound
from precipiq_core.http.answers import LateFailure
from precipiq_core.http.endpoint import Call
from precipiq_ledger.late_answer import LateAnswer
from tests.http_site import Site

pytestmark = pytest.mark.anyio


def late(seconds: float, error: Exception | None = None, patience_s: float = 0.02) -> Any:
    async def work() -> object:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return {"text": "late"}

    async def handler(call: Call[Any, Any]) -> object:
        return LateAnswer(work(), lambda data: json.dumps({"data": data}).encode(), patience_s, 0.01)

    return handler


async def test_a_late_answer_begins_with_white_space_and_is_still_json() -> None:
    answer = await Site(late(0.1)).ask("POST", "/api/v1/notes", {"text": "a"})

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert "ratelimit" in answer.headers
    assert answer.pieces[0] == b" "
    assert len(answer.pieces) >= 3
    assert json.loads(answer.body)["data"] == {"text": "late"}


async def test_an_early_late_answer_has_no_white_space_and_an_early_failure_its_own_status() -> None:
    fine = await Site(late(0, patience_s=5)).ask("POST", "/api/v1/notes", {"text": "a"})
    failed = await Site(late(0, NotFound(), patience_s=5)).ask("POST", "/api/v1/notes", {"text": "a"})

    assert (fine.status, len(fine.pieces)) == (200, 1)
    assert (failed.status, failed.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("error", [NotFound(), TimeoutError()], ids=repr)
async def test_a_failure_after_the_start_breaks_the_answer_off(error: Exception) -> None:
    site = Site(late(0.1, error))

    with pytest.raises(LateFailure):
        await site.ask("POST", "/api/v1/notes", {"text": "a"})
    assert site.answered.body.strip() == b""


async def test_the_work_ends_when_its_client_is_gone() -> None:
    ended: list[str] = []

    async def work() -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            ended.append("yes")

    async def handler(call: Call[Any, Any]) -> object:
        return LateAnswer(work(), lambda _: b"", 0.01, 0.01)

    asking = asyncio.ensure_future(Site(handler).ask("POST", "/api/v1/notes", {"text": "a"}))
    await asyncio.sleep(0.1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert ended == ["yes"]
