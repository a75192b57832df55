"""The bounds of one request's work: nodes, problems told, memory in turns; given back whatever happens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import Field

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable, ValidationFailed
from precipiq_core.http.body import read_json
from precipiq_core.http.errors import PayloadTooLarge, RequestTimeout
from precipiq_core.http.request_work import UNCOUNTED_BYTES, BodyWork, RequestWork
from precipiq_core.http.settings import HttpSettings
from precipiq_core.http.validation import RequestModel, parse_body, parse_query
from precipiq_work.off_loop import OffLoop

pytestmark = pytest.mark.anyio

ONE, OTHER = Chain("org_a", "test"), Chain("org_b", "test")
MIB = 1024 * 1024


class Item(RequestModel):
    number: int


class Items(RequestModel):
    items: list[Item] = Field(default=[], max_length=200)
    any: list[dict[str, Any]] = Field(default=[], fail_fast=True)
    text: str = ""


def limits(**changes: Any) -> HttpSettings:
    return HttpSettings(
        body_timeout_s=0.05, nodes_max=10_000, body_bytes_max=MIB, bodies_memory_bytes_max=MIB
    ).model_copy(update=changes)


class Sender:
    """One request."""

    def __init__(self, work: RequestWork, chain: Chain = ONE) -> None:
        self.body_work = BodyWork(work, chain)

    async def send_and_go(self, http: HttpSettings, *pieces: bytes, declare: bool = True) -> Items:
        try:
            return await self.send(http, *pieces, declare=declare)
        finally:
            self.body_work.release()

    async def send(self, http: HttpSettings, *pieces: bytes, declare: bool = True) -> Items:
        """``pieces``: the last one empty: it never comes."""
        headers = [(b"content-type", b"application/json")]
        if declare:
            headers.append((b"content-length", b"%d" % len(b"".join(pieces))))
        messages = [
            {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
            if piece
        ]

        async def receive() -> Any:
            return messages.pop(0) if messages else await asyncio.Event().wait()

        return await read_json(Items, headers, receive, http, self.body_work)


def text(size: int) -> bytes:
    return b'{"text":"%b"}' % (b"," * size)


@pytest.mark.parametrize("declare", [True, False])
async def test_nodes_are_bounded_and_commas_in_a_text_are_no_nodes(declare: bool) -> None:
    http = limits()
    work = RequestWork(http, OffLoop())
    many = b'{"any":[%b]}' % b",".join([b"{}"] * 10_000)
    with pytest.raises(PayloadTooLarge, match="10000 JSON values and names"):
        await Sender(work).send_and_go(http, many[:1000], many[1000:], declare=declare)
    few = b'{"any":[%b]}' % b",".join([b"{}"] * 9_996)
    assert len((await Sender(work).send_and_go(http, few, declare=declare)).any) == 9_996
    assert len((await Sender(work).send_and_go(http, text(200_000), declare=declare)).text) == 200_000


async def test_a_chain_waits_for_its_own_memory_and_others_do_not() -> None:
    http = limits()
    work = RequestWork(http, OffLoop())
    first = Sender(work)
    await first.send(http, text(MIB - 100))
    with pytest.raises(Unavailable):
        await Sender(work).send(http, text(MIB - 100))
    await Sender(work).send(http, text(UNCOUNTED_BYTES - 100))
    waiting = asyncio.create_task(Sender(work).send(limits(body_timeout_s=30), text(MIB - 100)))
    await asyncio.sleep(0)
    first.body_work.release()
    first.body_work.release()
    assert (await waiting).text


@pytest.mark.parametrize("declare", [True, False])
async def test_memory_is_given_back_whatever_becomes_of_the_body(declare: bool) -> None:
    http = limits()
    work = RequestWork(http, OffLoop())
    for body, error in (
        (text(MIB), PayloadTooLarge),
        (text(100_000)[:-1], ValidationFailed),
        (b'{"text":%b}' % (b" " * 100_000), ValidationFailed),
    ):
        with pytest.raises(error):
            await Sender(work).send_and_go(http, body[:50_000], body[50_000:], declare=declare)
    with pytest.raises(RequestTimeout):
        await Sender(work).send_and_go(http, b" " * 50_000, b" " * 50_000, b"", declare=declare)
    await Sender(work).send(http, text(MIB - 100))


async def test_other_chains_are_served_while_one_fills_its_share() -> None:
    http = limits(bodies_memory_bytes_max=8 * MIB)
    work = RequestWork(http, OffLoop())
    held = [Sender(work, ONE) for _ in range(2)]
    for sender in held:
        await sender.send(http, text(MIB - 100))
    assert (await Sender(work, OTHER).send(http, text(MIB - 100))).text


def problems_of(body: Any) -> ValidationFailed:
    with pytest.raises(ValidationFailed) as caught:
        parse_body(Items, body)
    return caught.value


def test_of_many_problems_the_first_are_told_and_how_many_more_there_are() -> None:
    error = problems_of({"items": [{"number": "x"}] * 150})
    assert len(error.details or {}) == 20
    assert "130 more problems" in error.message
    assert "problems" not in problems_of({"items": [{"number": "x"}] * 20}).message


def test_a_list_that_is_too_long_is_one_problem() -> None:
    error = problems_of({"items": [{}] * 100_000})
    assert error.details == {"items": ["must have at most 200 items"]}


def test_a_list_of_any_length_tells_its_first_wrong_item() -> None:
    assert problems_of({"any": [{}, 1, *[2] * 100_000]}).details == {"any.1": ["must be a valid dictionary"]}


def test_very_many_unknown_names_are_one_problem_at_any_depth() -> None:
    many = {f"k{number}": number for number in range(10_000)}
    assert problems_of(many).details == {"body": ["has more than 20 unknown fields"]}
    assert problems_of({"items": [many]}).details == {"items.0": ["has more than 20 unknown fields"]}
    assert problems_of({"k": 1, "l": 2}).details == {"k": ["unknown field"], "l": ["unknown field"]}


def test_many_unknown_parameters_are_refused_with_one_sentence() -> None:
    query = "&".join(f"k{number}=1" for number in range(60)).encode()
    with pytest.raises(ValidationFailed) as caught:
        parse_query(Items, query)
    assert len(json.dumps(caught.value.details)) < 300
