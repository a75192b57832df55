"""What docs/streaming.md shows and says: its examples run, its commands too, and its lists are complete."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest
import rfc8785
from prometheus_client import CollectorRegistry

from precipiq_contracts.registries import EntryKinds
from precipiq_core.boot import assemble
from precipiq_core.deployment import load_deployment
from precipiq_hypercorn.config import HypercornConfig
from precipiq_ledger.config import LedgerConfig
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_testkit.server import ServerProcess
from precipiq_ws_stream import endings
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.metrics import StreamMetrics
from tests.system.client import Client, decision
from tests.system.independent_verifier import canonical
from tests.ws_stream.streams import stream

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "streaming.md").read_text()
PLUGIN = ROOT / "plugins" / "ws_stream" / "precipiq_ws_stream"

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def database() -> str:
    """What the page shows does not depend on the database: one is enough."""
    return "sqlite"


class Follower:
    """``follow.py`` as a user starts it. Its output is added to a file, run after run."""

    def __init__(self, folder: Path, url: str, key: str) -> None:
        self._output = folder / "entries.jsonl"
        self._errors = folder / "errors.txt"
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, EXAMPLES / "follow.py", url],
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, "PRECIPIQ_KEY": key},
            )
        self._position = folder / "position.json"

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def printed(self) -> list[int]:
        """Seqs of what it printed."""
        return [json.loads(line)["seq"] for line in self._output.read_text().splitlines()]

    def wait_for(self, seq: int) -> None:
        """Until it has printed that entry and stored that it did."""
        wait_until(lambda: self._position.exists() and json.loads(self._position.read_text())["seq"] >= seq, self)

    def wait_for_end(self) -> int:
        return self.process.wait(TIMEOUT_S)


def wait_until(condition: Callable[[], bool], follower: Follower) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, follower.errors
        assert follower.process.poll() is None, follower.errors
        time.sleep(0.05)


@contextmanager
def following(folder: Path, server: ServerProcess, key: str) -> Iterator[Follower]:
    follower = Follower(folder, f"ws{server.url.removeprefix('http')}/ws/v1/stream", key)
    try:
        yield follower
    finally:
        if follower.process.poll() is None:
            follower.process.kill()
            follower.process.wait()


def append(server: ServerProcess, count: int) -> int:
    """The last seq of new decisions."""
    decisions = [decision(number) for number in range(count)]
    receipts = Client(server).data("POST", "/decisions/batch", json={"decisions": decisions})["receipts"]
    return int(receipts[-1]["seq"])


def test_the_follower_prints_each_entry_once_through_crashes_and_stops_when_its_key_is_revoked(
    tenant: ServerProcess, shared_server: ServerProcess, tmp_path: Path
) -> None:
    made = Client(tenant).data("POST", "/api-keys", json={"scopes": ["read"]})
    append(tenant, 20)
    with following(tmp_path, tenant, made["key"]) as follower:
        follower.wait_for(append(tenant, 3))
        port = tenant.url.rpartition(":")[2]
        shared_server.kill()
        wait_until(lambda: "again in" in follower.errors, follower)
        shared_server.start_on(port)
        follower.wait_for(append(tenant, 5))
        follower.process.send_signal(signal.SIGKILL)
        follower.wait_for_end()
    append(tenant, 30)
    with following(tmp_path, tenant, made["key"]) as follower:
        last = append(tenant, 2)
        follower.wait_for(last)
        Client(tenant).data("DELETE", f"/api-keys/{made['id']}")
        assert follower.wait_for_end() == 1
    assert "stopped: 4510 the api key was revoked" in follower.errors
    printed = follower.printed()
    assert printed[:last] == list(range(1, last + 1))
    assert printed[last:] in ([], [last + 1]), "the revocation itself is an entry"


@pytest.mark.parametrize(
    ("position", "code"), [({"seq": 0, "hash": "ab" * 32}, 4409), ({"seq": 10**6, "hash": "0" * 64}, 4409)]
)
def test_the_follower_stops_where_the_chain_is_not_the_one_it_knows(
    tenant: ServerProcess, tmp_path: Path, position: dict[str, object], code: int
) -> None:
    (tmp_path / "position.json").write_text(json.dumps(position))
    with following(tmp_path, tenant, tenant.key) as follower:
        assert follower.wait_for_end() == 1
    assert f"stopped: {code} " in follower.errors
    assert follower.printed() == []


def test_the_follower_stops_at_a_link_that_does_not_hold(tmp_path: Path) -> None:
    follow = example("follow")
    frame = {"seq": 1, "prev_hash": "0" * 64, "hash": "ab" * 32}
    assert follow.next_position(follow.BEFORE_THE_FIRST, frame) == {"seq": 1, "hash": "ab" * 32}
    for changed in ({"seq": 2}, {"seq": 0}, {"prev_hash": "1" * 64}):
        with pytest.raises(SystemExit, match="the chain is broken"):
            follow.next_position(follow.BEFORE_THE_FIRST, frame | changed)


def test_the_followers_position_is_replaced_in_one_step(tmp_path: Path) -> None:
    follow, file = example("follow"), tmp_path / "position.json"
    assert follow.stored(file) == follow.BEFORE_THE_FIRST
    for seq in (1, 2):
        follow.store(file, {"seq": seq, "hash": "ab" * 32})
        assert follow.stored(file)["seq"] == seq
    assert [path.name for path in tmp_path.iterdir()] == ["position.json"]


def example(name: str) -> ModuleType:
    """One of the examples as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.anyio
async def test_every_frames_hash_can_be_computed_from_its_data(tenant: ServerProcess) -> None:
    client, check = Client(tenant), example("decision_hash")
    real = list(map(json.loads, (ROOT / "tests" / "data" / "real-decisions.jsonl").read_bytes().splitlines()))
    bodies = [
        decision(1, confidence=1, external_id="order 1", metadata={"é": "\u2028"}, human_in_loop=True),
        decision(2, confidence=1e-7, alternatives=[{"discount_pct": 1e21, "why": None}]),
        decision(3, confidence=0.0, alternatives=[], metadata={}),
        *real[:40],
    ]
    receipts = client.data("POST", "/decisions/batch", json={"decisions": bodies})["receipts"]
    client.data("POST", f"/decisions/{receipts[0]['decision_id']}/redact", json={"reason": "asked for"})
    head = client.data("GET", "/ledger/head")
    async with stream(tenant, after_seq=0) as opened:
        await opened.ready()
        frames = await opened.until(head["seq"])

    decisions = [frame for frame in frames if frame["type"] == "decision.created"]
    assert len(decisions) == len(bodies)
    for frame in decisions:
        data = frame["data"]
        assert check.decision_hash(data) == frame["hash"] == data["hash"]
        assert data["prev_hash"] == frame["prev_hash"]
        if data.get("redacted"):
            assert data["inputs"] is None
        elif beyond_2_53(data["inputs"]):
            with pytest.raises(rfc8785.IntegerDomainError):
                check.payload_hash(data)
        else:
            assert check.payload_hash(data) == data["payload_hash"]
    for frame in frames:
        if frame not in decisions:
            assert sha256(canonical(frame["data"]["statement"])).hexdigest() == frame["hash"]
    assert check.decision_hash(decisions[1]["data"] | {"confidence": 0.5}) != decisions[1]["hash"]


def beyond_2_53(node: object) -> bool:
    """Whether the package refuses it, as the page says."""
    if isinstance(node, dict | list):
        return any(map(beyond_2_53, node.values() if isinstance(node, dict) else node))
    return isinstance(node, int) and abs(node) >= 2**53


BLOCK = re.compile(r"(?:<!-- (\S+) -->\n)?```(\w*)\n(.*?)\n```", re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """Blocks of the page in that language: the file each is from, and its text."""
    return [(file, text) for file, name, text in BLOCK.findall(PAGE) if name == language]


def test_every_block_of_code_is_a_slice_of_an_example() -> None:
    slices = [*blocks("python"), *blocks("js"), *blocks("nginx")]
    assert {file for file, _ in slices} >= {f"docs/examples/{name}" for name in ("follow.py", "stream.html")}
    for file, text in slices:
        assert text in (ROOT / file).read_text(), text


def test_the_commands_of_the_page_run_as_printed(tenant: ServerProcess) -> None:
    head = append(tenant, 3)
    ran = []
    for _, text in blocks("sh"):
        for command in text.replace("\\\n", " ").splitlines():
            if command.startswith("curl"):
                lines = run_curl(tenant, command)
                assert lines[0].startswith(f"id: {0 if 'after_seq=0' in command else head}"), lines
                assert json.loads(lines[1].removeprefix("data: "))["type"] == "connection.ready"
                ran.append(command)
    assert len(ran) >= 2


def run_curl(server: ServerProcess, command: str) -> Sequence[str]:
    """What a curl of a stream without end shows in two seconds."""
    line = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl --max-time 2 ", 1)
    environment = {**os.environ, "KEY": server.key}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == 28, (line, done.stdout, done.stderr)
    return done.stdout.splitlines()


def test_the_page_names_every_type_of_frame(tmp_path: Path) -> None:
    environment = {"PRECIPIQ_DATA_DIR": str(tmp_path)}
    deployment = load_deployment(ROOT / "deployments" / "embedded" / "precipiq.toml", environment)
    assembly = assemble(
        deployment, clock=ManualClock(), randomness=SeededRandomness(), console=MemoryConsole(), serving=False
    )
    kinds = assembly.services.get(EntryKinds).by_name.values()
    types = {kind.event_name for kind in kinds} | {"connection.ready", "caught_up", "connection.closing"}
    assert len(types) >= 8
    assert {name for name in types if f"| `{name}` |" not in PAGE} == set()


class MemoryConsole:
    """Nobody reads it."""

    is_terminal = False

    def say(self, text: str) -> None:
        """Forget it."""


def test_settings_that_the_page_names_exist_and_have_the_defaults_it_says() -> None:
    fields = {**HypercornConfig.model_fields, **LedgerConfig.model_fields, **WsStreamConfig.model_fields}
    section = PAGE.partition("\n## Limits\n")[2].partition("\n## ")[0]
    names = set(re.findall(r"`(\w+_(?:max|s|bytes))`", PAGE.partition("\n## Watching it\n")[0]))
    assert names >= set(re.findall(r"`(\w+_\w+)`", section))
    assert {name for name in names if name not in fields} == set()
    shown = re.findall(r"`(\w+)` \((\d+) s\)", PAGE)
    assert len(shown) >= 5
    for name, value in shown:
        assert fields[name].default == float(value), name


def test_the_page_names_every_metric() -> None:
    registry = CollectorRegistry()
    StreamMetrics(registry)
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}
    assert names
    assert {name for name in names if f"| `{name}`" not in PAGE} == set()


def test_the_page_names_every_close_code_and_log_event() -> None:
    codes = {item.code for item in vars(endings).values() if isinstance(item, endings.Ending)} - {0}
    codes |= {endings.cannot_resume("").code, endings.too_slow(1).code, 4400, 4401}
    assert {code for code in codes if not re.search(rf"^\| {code} \|", PAGE, re.MULTILINE)} == set()
    said = re.compile(r"\blog\.\w+\(\s*\"([^\"]+)\"")
    events = {event for path in PLUGIN.glob("*.py") for event in said.findall(path.read_text())}
    assert {event for event in events if f"| `{event}` |" not in PAGE} == set()
