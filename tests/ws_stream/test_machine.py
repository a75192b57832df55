"""Clients that connect, read, stall, leave and come back in any order: each sees an exact slice of the chain."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from precipiq_testkit.open_files import open_files
from precipiq_testkit.server import ServerProcess, running_server
from tests.effort import rounds
from tests.system.client import Client, decision
from tests.ws_stream.following import reset
from tests.ws_stream.streams import Frame, stream_url

AGENTS = ("agent-0", "agent-1", "agent-2")
FILTERS: tuple[dict[str, str], ...] = ({}, {"agent_id": AGENTS[1]}, {"kinds": "redaction,key_created"})
EXAMPLES = rounds(6, long=200)
READ_TIMEOUT_S = 10.0
REVOKED_WITHIN_S = 5.0
LET_GO_WITHIN_S = 20.0
_CONNECTIONS = re.compile(r"^precipiq_stream_connections\{[^}]*\} (\S+)$", re.MULTILINE)


class Deployment:
    """The server of all examples, and what its one chain holds: entries are only ever added.

    ``run``: clients read only while this runs; in between they are stalled.
    """

    def __init__(self, server: ServerProcess, run: Callable[[Awaitable[Any]], Any]) -> None:
        self.server = server
        self.run = run
        self.client = Client(server)
        self.chain: list[dict[str, Any]] = []
        self.redacted: set[int] = set()
        self.decisions: dict[int, str] = {}
        self.refresh()
        self.sockets_before = self.sockets()

    def refresh(self) -> None:
        """Learn what was appended meanwhile."""
        after = len(self.chain)
        answer = self.client.data("GET", "/ledger/entries", params={"after_seq": after, "limit": 500})
        self.chain += answer["items"]
        for entry in answer["items"]:
            if entry["statement"]["kind"] == "decision":
                self.decisions[entry["statement"]["seq"]] = entry["statement"]["id"]

    def wanted(self, filters: dict[str, str], after: int, last: int) -> list[int]:
        """Seqs of the entries that a client with these filters is to get."""
        return [entry["statement"]["seq"] for entry in self.chain[after:last] if accepts(filters, entry["statement"])]

    def streams(self) -> float:
        """How many the server says are open."""
        text = self.client.http.get(f"{self.server.url}/metrics").text
        return sum(float(value) for value in _CONNECTIONS.findall(text))

    def sockets(self) -> int:
        """Descriptors of the server that are sockets."""
        return sum("socket:" in path for path in open_files(self.server.process.pid))


def accepts(filters: dict[str, str], statement: dict[str, Any]) -> bool:
    if "agent_id" in filters and statement["body"].get("agent_id") != filters["agent_id"]:
        return False
    return "kinds" not in filters or statement["kind"] in filters["kinds"].split(",")


class Session:
    """One client: where it began, what it got, and how it ended."""

    def __init__(self, made: Deployment, key: str, filters: dict[str, str], after: int | None, is_hashed: bool) -> None:
        self.made = made
        self.filters = filters
        self.key = key
        query: dict[str, object] = dict(filters)
        if after is not None:
            query["after_seq"] = after
            if is_hashed and after:
                query["after_hash"] = made.chain[after - 1]["hash"]
        url = stream_url(made.server, key, **query)
        self.connection: ClientConnection = made.run(
            connect(url, max_size=None, max_queue=(4, 0), proxy=None, ping_interval=None)
        )
        self.received: list[Frame] = []
        self.redacted_before = set(made.redacted)
        ready = json.loads(made.run(asyncio.wait_for(self.connection.recv(), READ_TIMEOUT_S)))
        assert ready["type"] == "connection.ready"
        assert ready["data"]["resumed_from"] == after
        self.start = ready["seq"]
        self.head = ready["data"]["head"]["seq"]
        self.told = self.start
        assert self.start == (self.head if after is None else after)
        self.is_behind = after is not None

    def read(self, timeout_s: float) -> bool:
        """One frame; whether one came."""
        try:
            frame = json.loads(self.made.run(asyncio.wait_for(self.connection.recv(), timeout_s)))
        except TimeoutError:
            return False
        self.take(frame)
        return True

    def take(self, frame: Frame) -> None:
        """What the contract says of a frame."""
        if frame["id"] is None:
            assert frame["type"] in ("caught_up", "position"), frame
            if frame["type"] == "caught_up":
                assert self.is_behind
                assert frame["data"]["seq"] >= self.head
                self.is_behind = False
            assert frame["seq"] >= self.told
            self.told = frame["seq"]
            return
        assert frame["seq"] > self.told, (frame["seq"], self.told)
        self.told = frame["seq"]
        self.received.append(frame)

    def check(self) -> None:
        """What it got is exactly what it was to get up to the last of it."""
        made = self.made
        if self.told > len(made.chain):
            made.refresh()
        seqs = [frame["seq"] for frame in self.received]
        assert seqs == made.wanted(self.filters, self.start, self.told)
        for frame in self.received:
            entry = made.chain[frame["seq"] - 1]
            assert (frame["id"], frame["hash"]) == (entry["statement"]["id"], entry["hash"])
            assert frame["prev_hash"] == entry["statement"]["prev_hash"]
            if frame["seq"] in self.redacted_before:
                assert frame["data"]["redacted"] is True, "erased before the client came"

    def read_all(self) -> None:
        """Everything that is there."""
        self.made.refresh()
        missing = self.made.wanted(self.filters, self.told, len(self.made.chain))
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        while (missing and self.told < missing[-1]) or self.is_behind:
            assert time.monotonic() < deadline_s, "what was appended does not come"
            self.read(READ_TIMEOUT_S)
        self.check()

    def closed(self, within_s: float) -> int:
        """Read until the server closes; its code."""
        deadline_s = time.monotonic() + within_s
        try:
            while (left_s := deadline_s - time.monotonic()) > 0:
                self.read(left_s)
        except ConnectionClosed:
            return self.connection.close_code or 1006
        raise AssertionError("it is still open")

    def leave(self, how: str) -> None:
        """Say goodbye, or break the connection off."""
        if how == "reset":
            reset(self.connection.transport.get_extra_info("socket"))
            self.connection.transport.abort()
            self.made.run(self.connection.wait_closed())
        else:
            self.made.run(close(self.connection))


async def close(connection: ClientConnection) -> None:
    """Say goodbye, and read on until the server answers: what was not read stands before its answer."""
    closing = asyncio.create_task(connection.close())
    with suppress(ConnectionClosed):
        while True:
            await connection.recv()
    await closing


def eventually(is_so: Callable[[], bool], within_s: float, what: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


class StreamMachine(RuleBasedStateMachine):
    """Rules are what clients and writers do; ``deployment`` is set by the test."""

    deployment: Deployment
    sessions = Bundle("sessions")
    left = Bundle("left")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Session] = []

    def _open(self, key: str, filters: dict[str, str], after: int | None, is_hashed: bool) -> Session:
        session = Session(self.deployment, key, filters, after, is_hashed)
        self.open.append(session)
        return session

    @rule(target=sessions, filters=st.sampled_from(FILTERS))
    def connect(self, filters: dict[str, str]) -> Session:
        return self._open(self.deployment.server.key, filters, None, False)

    @rule(target=sessions, filters=st.sampled_from(FILTERS), back=st.integers(0, 60), is_hashed=st.booleans())
    def connect_behind(self, filters: dict[str, str], back: int, is_hashed: bool) -> Session:
        after = max(0, len(self.deployment.chain) - back)
        return self._open(self.deployment.server.key, filters, after, is_hashed)

    @rule(count=st.integers(1, 30), agents=st.randoms(use_true_random=False), size=st.sampled_from((10, 10, 3000)))
    def append(self, count: int, agents: Any, size: int) -> None:
        decisions = [decision(n, agent_id=agents.choice(AGENTS), inputs={"text": "x" * size}) for n in range(count)]
        self.deployment.client.data("POST", "/decisions/batch", json={"decisions": decisions})
        self.deployment.refresh()

    @precondition(lambda self: self.deployment.decisions.keys() - self.deployment.redacted)
    @rule(chosen=st.randoms(use_true_random=False))
    def redact(self, chosen: Any) -> None:
        made = self.deployment
        seq = chosen.choice(sorted(made.decisions.keys() - made.redacted)[-40:])
        made.client.data("POST", f"/decisions/{made.decisions[seq]}/redact", json={"reason": "asked for"})
        made.redacted.add(seq)
        made.refresh()

    @rule(session=sessions, count=st.integers(1, 40))
    def read(self, session: Session, count: int) -> None:
        for _ in range(count):
            if not session.read(0.01):
                break
        session.check()

    @rule(session=sessions)
    def read_all(self, session: Session) -> None:
        session.read_all()

    @rule(target=left, session=consumes(sessions), how=st.sampled_from(("reset", "close")))
    def leave(self, session: Session, how: str) -> Session:
        session.leave(how)
        session.check()
        self.open.remove(session)
        return session

    @rule(target=sessions, session=consumes(left))
    def resume(self, session: Session) -> Session:
        again = self._open(self.deployment.server.key, session.filters, session.told, True)
        assert again.start == session.told
        return again

    @rule(filters=st.sampled_from(FILTERS), is_read=st.booleans())
    def revoke(self, filters: dict[str, str], is_read: bool) -> None:
        made = self.deployment
        key = made.client.data("POST", "/api-keys", json={"scopes": ["read"]})
        session = self._open(key["key"], filters, max(0, len(made.chain) - 10), False)
        if is_read:
            session.read_all()
        made.client.data("DELETE", f"/api-keys/{key['id']}")
        assert session.closed(REVOKED_WITHIN_S) == 4510
        session.check()
        self.open.remove(session)

    @rule()
    def ask_for_what_is_not_there(self) -> None:
        made = self.deployment
        made.refresh()
        for query in ({"after_seq": len(made.chain) + 1000}, {"after_seq": 1, "after_hash": "ab" * 32}):
            connection = made.run(connect(stream_url(made.server, **query), proxy=None, ping_interval=None))
            with pytest.raises(ConnectionClosed):
                made.run(asyncio.wait_for(connection.recv(), READ_TIMEOUT_S))
            assert connection.close_code == 4409

    @invariant()
    def nobody_else_was_closed(self) -> None:
        for session in self.open:
            assert session.connection.close_code is None

    def teardown(self) -> None:
        made = self.deployment
        for session in self.open:
            session.read_all()
            session.leave("close")
        eventually(lambda: made.streams() == 0, LET_GO_WITHIN_S, "a stream stays")
        eventually(lambda: made.sockets() <= made.sockets_before, LET_GO_WITHIN_S, "a socket stays")


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    overrides = {"PRECIPIQ__PLUGINS__WS_STREAM__KEY_CHECK_INTERVAL_S": "0.1"}
    with running_server(tmp_path, overrides=overrides) as server, asyncio.Runner() as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        yield Deployment(server, loop.run_until_complete)
        asyncio.set_event_loop(None)


@pytest.mark.slow
def test_every_client_sees_an_exact_slice_whatever_they_all_do(deployment: Deployment) -> None:
    class Machine(StreamMachine):
        pass

    Machine.deployment = deployment
    limits = settings(
        max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Machine, settings=settings(limits, database=None))
