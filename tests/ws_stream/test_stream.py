"""What a subscriber sees: ready, replay, live, filters, each environment apart; over WebSocket and events alike."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client, decision
from tests.ws_stream.streams import Stream, assert_linked, events, stream, stream_url

pytestmark = pytest.mark.anyio

ZEROS = "0" * 64


@pytest.fixture(scope="module")
def target(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture(scope="module")
def client(target: ServerProcess) -> Client:
    return Client(target)


def append(client: Client, count: int, **changes: object) -> list[int]:
    """Seqs of new decisions."""
    decisions = [decision(number, **changes) for number in range(count)]
    receipts = client.data("POST", "/decisions/batch", json={"decisions": decisions})["receipts"]
    return [receipt["seq"] for receipt in receipts]


async def test_a_new_stream_begins_at_the_head_and_goes_on_live(target: ServerProcess, client: Client) -> None:
    (before,) = append(client, 1)
    async with stream(target) as opened:
        ready = await opened.ready()
        assert ready["data"]["head"] == client.data("GET", "/ledger/head")
        assert ready["data"]["resumed_from"] is None
        assert ready["seq"] == before
        receipt = await asyncio.to_thread(client.decide, 1)
        frame = await opened.next()

    assert frame["type"] == "decision.created"
    assert (frame["seq"], frame["id"], frame["hash"]) == (before + 1, receipt["decision_id"], receipt["hash"])
    assert frame["prev_hash"] == ready["hash"] == receipt["prev_hash"]
    assert frame["timestamp"] == receipt["timestamp"]
    assert frame["data"] == client.data("GET", f"/decisions/{receipt['decision_id']}")


async def test_a_replay_gives_every_entry_once_then_says_that_it_caught_up(
    target: ServerProcess, client: Client
) -> None:
    append(client, 50)
    head = client.data("GET", "/ledger/head")
    async with stream(target, after_seq=0) as opened:
        ready = await opened.ready()
        assert ready["data"]["resumed_from"] == 0
        assert ready["hash"] == ZEROS
        frames = await opened.until(head["seq"])
        caught_up = await opened.next()

    assert_linked(frames, ZEROS)
    assert [frame["seq"] for frame in frames] == list(range(1, head["seq"] + 1))
    assert caught_up["type"] == "caught_up"
    assert caught_up["data"] == {"seq": head["seq"]}
    assert caught_up["hash"] == head["hash"] == frames[-1]["hash"]
    raw = client.entries()
    assert [frame["hash"] for frame in frames] == [entry["hash"] for entry in raw]
    for frame, entry in zip(frames, raw, strict=True):
        if entry["statement"]["kind"] != "decision":
            assert frame["data"] == entry


async def test_replay_and_live_join_without_gap_or_repeat_under_appends(target: ServerProcess, client: Client) -> None:
    append(client, 60)
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            await asyncio.to_thread(append, client, 20)
            await asyncio.sleep(0.01)

    async def follow(after: int) -> None:
        async with stream(target, after_seq=after) as opened:
            await opened.ready()
            assert_linked(await opened.until(after + 500))

    writing = asyncio.create_task(write())
    try:
        await asyncio.gather(*(follow(after) for after in range(0, 60, 5)))
    finally:
        done.set()
        await writing


async def test_resuming_with_the_right_hash_goes_on_and_with_another_is_4409(
    target: ServerProcess, client: Client
) -> None:
    append(client, 3)
    head = client.data("GET", "/ledger/head")
    async with stream(target, after_seq=head["seq"], after_hash=head["hash"]) as opened:
        assert (await opened.ready())["hash"] == head["hash"]
        assert (await opened.next())["type"] == "caught_up"
    async with stream(target, after_seq=head["seq"], after_hash="ab" * 32) as opened:
        code, reason = await opened.closed()
        assert code == 4409
        assert "another hash" in reason
    async with stream(target, after_seq=head["seq"] + 1) as opened:
        assert (await opened.closed())[0] == 4409
    async with stream(target, after_seq=0, after_hash="ab" * 32) as opened:
        assert (await opened.closed())[0] == 4409


async def test_filters_by_kind_and_agent(target: ServerProcess, client: Client) -> None:
    start = client.data("GET", "/ledger/head")["seq"]
    append(client, 14)
    receipt = await asyncio.to_thread(client.decide, 3, agent_id="the one")
    client.data("POST", f"/decisions/{receipt['decision_id']}/redact", json={"reason": "asked for"})
    end = client.data("GET", "/ledger/head")["seq"]

    async with stream(target, after_seq=start, kinds="redaction,unheard_of") as opened:
        await opened.ready()
        frame = await opened.next()
        assert frame["type"] == "redaction.created"
        assert frame["data"]["statement"]["body"]["target_seq"] == receipt["seq"]
        assert (await opened.next())["data"] == {"seq": end}
    async with stream(target, after_seq=start, agent_id="the one") as opened:
        await opened.ready()
        frame = await opened.next()
        assert frame["seq"] == receipt["seq"]
        assert frame["data"]["redacted"] is True
        assert frame["data"]["inputs"] is None
        assert (await opened.next())["type"] == "caught_up"
        last = await asyncio.to_thread(client.decide, 4, agent_id="another")
        mine = await asyncio.to_thread(client.decide, 5, agent_id="the one")
        frame = await opened.next()
        assert frame["seq"] == mine["seq"] == last["seq"] + 1


async def test_each_environment_and_organisation_is_apart(target: ServerProcess, client: Client) -> None:
    live = target.create_key("live")
    other_org = json.loads(target.run("orgs", "create", "other", "--json").stdout)["org_id"]
    other = target.create_key("test", org_id=other_org)
    async with stream(target, live) as live_stream, stream(target, other) as other_stream, stream(target) as mine:
        for opened in (live_stream, other_stream, mine):
            await opened.ready()
        receipt = await asyncio.to_thread(client.decide, 1)
        assert (await mine.next())["id"] == receipt["decision_id"]
        live_receipt = await asyncio.to_thread(Client(target, live).decide, 2)
        assert (await live_stream.next())["id"] == live_receipt["decision_id"]
        for opened in (other_stream, mine, live_stream):
            with pytest.raises(TimeoutError):
                await opened.next(0.3)


async def test_server_sent_events_are_the_same_frames_and_resume_by_last_event_id(
    target: ServerProcess, client: Client
) -> None:
    append(client, 5)
    head = client.data("GET", "/ledger/head")
    async with events(target, params={"after_seq": head["seq"] - 3}) as received:
        frames = [await anext(received) for _ in range(5)]
    assert [frame["type"] for frame in frames] == ["connection.ready", *["decision.created"] * 3, "caught_up"]
    assert_linked(frames[1:4])
    assert frames[3]["event_id"] == str(head["seq"])
    header = {"Last-Event-ID": str(head["seq"] - 1)}
    async with events(target, params={"after_seq": 0, "after_hash": ZEROS}, headers=header) as received:
        assert (await anext(received))["data"]["resumed_from"] == head["seq"] - 1
        assert (await anext(received))["seq"] == head["seq"]


async def test_events_take_the_key_in_the_query_since_browsers_cannot_set_headers(target: ServerProcess) -> None:
    async with events(target, params={"api_key": target.key}) as received:
        assert (await anext(received))["type"] == "connection.ready"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"after_seq": -1}, "after_seq"),
        ({"after_seq": "x"}, "after_seq"),
        ({"after_seq": 2**63}, "after_seq"),
        ({"after_hash": "ab" * 32}, "after_hash"),
        ({"after_seq": 1, "after_hash": "AB" * 32}, "after_hash"),
        ({"kinds": "decision,"}, "kinds"),
        ({"kinds": ",".join(["a"] * 51)}, "kinds"),
        ({"agent_id": ""}, "agent_id"),
        ({"sequence": 1}, "sequence"),
    ],
)
async def test_bad_parameters_are_422_and_4400_to_who_offers_the_subprotocol(
    target: ServerProcess, query: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(stream_url(target, **query), proxy=None):
            pass
    answer = refused.value.response
    assert answer.status_code == 422
    assert list(json.loads(answer.body)["error"]["details"]) == [field]
    assert answer.headers["X-Request-ID"]
    async with connect(stream_url(target, **query), subprotocols=["precipiq.v1"], proxy=None) as connection:  # type: ignore[list-item]
        code, reason = await Stream(connection).closed()
    assert code == 4400
    assert field in reason


async def test_bad_keys_are_one_401_and_4401(target: ServerProcess) -> None:
    no_read = target.create_key("test", "write")
    for key, status, code in (("", 401, 4401), ("pq_test_wrong", 401, 4401), (no_read, 403, 4403)):
        url = stream_url(target, key or "x").replace("api_key=x", "") if not key else stream_url(target, key)
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None):
                pass
        answer = refused.value.response
        assert answer.status_code == status
        if status == 401:
            assert answer.body == b'{"error":{"code":"unauthorized","message":"invalid or missing api key"}}'
        async with connect(url, subprotocols=["precipiq.v1"], proxy=None) as connection:  # type: ignore[list-item]
            assert (await Stream(connection).closed())[0] == code


async def test_the_key_may_come_in_a_header_too(target: ServerProcess) -> None:
    url = f"ws{target.url.removeprefix('http')}/ws/v1/stream"
    for headers in ({"X-Precipiq-Key": target.key}, {"Authorization": f"Bearer {target.key}"}):
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            await Stream(connection).ready()


async def test_plain_http_on_the_stream_path_is_426(target: ServerProcess, client: Client) -> None:
    answer = client.http.get(f"{target.url}/ws/v1/stream")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.json()["error"]["code"] == "upgrade_required"


async def test_an_unknown_websocket_path_is_the_documented_404(target: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(stream_url(target).replace("/stream", "/streams"), proxy=None):
            pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body)["error"]["code"] == "not_found"
