"""Several workers on one socket: what they answer, how they end, and what becomes of those that die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.serving import listen
from precipiq_hypercorn.shared_metrics import whole
from precipiq_hypercorn.supervisor import DEATHS_MAX, Supervisor
from precipiq_testkit.server import ServerProcess

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
WORKERS = 2
WAIT_S = 30
DEPLOYMENT = f"""
[deployment]
name = "several"
data_dir = "data"
[server]
bind = "127.0.0.1:0"
workers = {WORKERS}
[plugins.working]
"""


class Several(ServerProcess):
    """The server with :class:`WorkerPlugin`; temporary files stay in its folder."""

    def __init__(self, folder: Path, deployment: str = DEPLOYMENT, **overrides: str) -> None:
        installed = folder / "installed"
        found = installed / "working-1.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: working\nVersion: 1\n")
        (found / "entry_points.txt").write_text("[precipiq]\nworking = worker_plugin:WorkerPlugin\n")
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        environment = {"PYTHONPATH": f"{installed}:{HERE}", "TMPDIR": str(self.temporary), **overrides}
        super().__init__(folder, deployment=deployment, overrides=environment)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def pids(self) -> list[int]:
        """Of all workers that ever served, by start."""
        return [line["pid"] for line in self.events("worker serving")]

    def events(self, event: str, **fields: object) -> list[dict[str, Any]]:
        lines = (line for line in self.log_lines() if line.get("event") == event)
        return [line for line in lines if all(line.get(name) == value for name, value in fields.items())]

    def get(self, path: str) -> httpx2.Response:
        """On a connection of its own, so that any worker may answer."""
        return httpx2.get(self.url + path, timeout=WAIT_S)

    def traces(self, name: str) -> list[str]:
        path = self.data_dir / name
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Several]:
    """Not started yet; whatever a test leaves running is killed."""
    server = Several(tmp_path)
    yield server
    if server._process is not None and server.process.poll() is None:
        server.kill()
    for pid in server.pids():
        wait_until(lambda pid=pid: not is_alive(pid))


def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_workers_answer_on_one_address_and_each_line_says_which(several: Several) -> None:
    several.start()
    (serving,) = several.events("serving")
    assert "worker" not in serving
    assert (serving["workers"], serving["plugins"]) == (WORKERS, ["hypercorn", "operations", "working"])
    first, second = several.events("worker serving")
    assert (first["worker"], second["worker"]) == (1, 2)
    assert several.log_text().count("hello, operator") == 1
    assert all(os.getpgid(pid) == pid for pid in several.pids())  # Ctrl-C in a terminal is for the parent

    wait_until(lambda: several.get("/healthz").is_success and several.events("request", worker=1))
    wait_until(lambda: several.get("/healthz").is_success and several.events("request", worker=2))

    assert several.stop() == 0
    for event in ("request", "printed by the plugin", "logged by a library", "worker serving"):
        assert {line.get("worker") for line in several.events(event)} == {1, 2}, event
    assert {line.get("worker") for line in several.events("stopped")} == {None, 1, 2}
    assert sorted(several.traces("ends")) == sorted(map(str, several.pids()))
    assert list(several.temporary.iterdir()) == []


@pytest.mark.parametrize("told", ["the parent", "everybody"])
async def test_sigterm_under_load_answers_every_accepted_request(several: Several, told: str) -> None:
    """A terminal's Ctrl-C reaches the parent; service managers tell everybody."""
    await asyncio.to_thread(several.start)
    answered: set[str] = set()
    refused: list[bytes] = []
    under_load = asyncio.Event()

    async def client(number: int) -> None:
        for count in range(10_000):
            name = f"{number}-{count}"
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", several.port)
            except ConnectionError:
                return
            try:
                writer.write(f"GET /job/{name} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    refused.append(head)
                    return
                answered.add((await reader.readexactly(len(name))).decode())
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            finally:
                writer.close()
            if len(answered) > 50:
                under_load.set()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as clients:
        for number in range(10):
            clients.create_task(client(number))
        await under_load.wait()
        several.process.send_signal(signal.SIGTERM)
        if told == "everybody":
            await asyncio.sleep(0.01)
            for pid in several.pids():
                os.kill(pid, signal.SIGTERM)
    assert await asyncio.to_thread(several.process.wait, WAIT_S) == 0, several.log_text()
    accepted = several.traces("accepted")
    assert len(accepted) > 50
    assert set(accepted) - answered == set()
    assert all(head.startswith(b"HTTP/1.1 503") and b"connection: close" in head.lower() for head in refused)
    assert {line["worker"] for line in several.events("request", status=200)} == {1, 2}


def test_a_worker_that_is_killed_is_replaced_and_service_goes_on(several: Several) -> None:
    several.start()
    descriptors = Path(f"/proc/{several.process.pid}/fd")
    descriptors_before = len(list(descriptors.iterdir()))
    first = several.pids()[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: several.events("a worker died"))
    assert several.get("/job/alone").text == "alone"  # the other one answers
    wait_until(lambda: len(several.pids()) == WORKERS + 1)

    (died,) = several.events("a worker died")
    assert (died["level"], died["number"], died["signal"]) == ("critical", 1, "SIGKILL")
    assert several.events("worker serving")[-1]["worker"] == 1
    children = subprocess.run(["ps", "-o", "stat=", "--ppid", str(several.process.pid)], capture_output=True, text=True)
    assert len(children.stdout.split()) == WORKERS
    assert "Z" not in children.stdout
    wait_until(lambda: len(list(descriptors.iterdir())) == descriptors_before)
    answered = len(several.events("request", worker=1))
    wait_until(lambda: several.get("/healthz").is_success and len(several.events("request", worker=1)) > answered)
    assert several.stop() == 0
    assert len(several.events("serving")) == 1


def test_five_deaths_end_all_with_3(several: Several) -> None:
    several.start()
    for count in range(DEATHS_MAX):
        wait_until(lambda count=count: len(several.pids()) > count)
        os.kill(several.pids()[count], signal.SIGKILL)
    assert several.process.wait(WAIT_S) == 3
    assert not any(map(is_alive, several.pids()))
    assert not several.events("stopped", worker=None)
    assert several.events("ended", exit_code=3)


@pytest.mark.parametrize(("starts_max", "said_by"), [(0, 1), (1, 2)], ids=["the first", "the second"])
def test_a_worker_that_cannot_start_ends_all_with_2(tmp_path: Path, starts_max: int, said_by: int) -> None:
    server = Several(tmp_path, PRECIPIQ__PLUGINS__WORKING__STARTS_MAX=str(starts_max))
    with pytest.raises(RuntimeError):
        server.start()
    assert server.process.wait(WAIT_S) == 2
    (problem,) = server.events("cannot start")
    assert (problem["worker"], "one too many" in problem["problem"]) == (said_by, True)
    assert server.events("a worker could not start", number=said_by, exit_code=2)
    assert not server.events("serving")
    assert len(server.traces("ends")) == starts_max


def test_workers_end_when_their_parent_is_killed(several: Several) -> None:
    several.start()
    wait_until(lambda: several.get("/job/x").is_success and several.events("request", worker=2))
    several.kill()
    wait_until(lambda: not any(map(is_alive, several.pids())), timeout_s=20)
    socket.create_server(("127.0.0.1", several.port)).close()
    assert {line["worker"] for line in several.events("stopped")} == {1, 2}
    assert len(several.traces("ends")) == WORKERS
    assert list(several.temporary.iterdir()) == []


async def test_a_second_signal_ends_at_once_with_3(several: Several) -> None:
    await asyncio.to_thread(several.start)
    _, writer = await asyncio.open_connection("127.0.0.1", several.port)
    writer.write(b"GET /job/hang HTTP/1.1\r\nhost: test\r\n\r\n")
    while not several.traces("accepted"):
        await asyncio.sleep(0.02)
    several.process.send_signal(signal.SIGTERM)
    while not several.events("stopping", worker=None):
        await asyncio.sleep(0.02)
    several.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(several.process.wait, WAIT_S) == 3
    writer.close()
    assert not any(map(is_alive, several.pids()))


def test_a_histogram_that_is_just_being_made_is_not_shown() -> None:
    metric = Metric("seconds", "seconds of something", "histogram")
    for path, ends in (("/a", (0.1, "+Inf")), ("/b", (0.1,))):
        for le in ends:
            metric.add_sample("seconds_bucket", {"path": path, "le": str(le)}, 1.0)
        metric.add_sample("seconds_sum", {"path": path}, 1.0)
    assert [sample.labels["path"] for sample in whole(metric)] == ["/a"] * 3
    counter = Metric("things", "things", "counter")
    counter.add_sample("things_total", {}, 1.0)
    assert list(whole(counter)) == counter.samples


def metrics(server: Several) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    families = list(text_string_to_metric_families(server.get("/metrics").text))
    samples = [sample for family in families for sample in family.samples]
    assert all(family.unit == "bytes" for family in families if family.name == "working_bytes")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for sample in samples:
        found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_are_sums_and_never_go_back(several: Several) -> None:
    several.start()
    for count in range(20):
        several.get(f"/job/{count}")
    wait_until(lambda: several.get("/healthz").is_success and several.events("request", route="/job/{name}", worker=2))
    labels = (("method", "GET"), ("route", "/job/{name}"))
    asked = 0
    while asked < 2 or {line["worker"] for line in several.events("request", route="/metrics")} != {1, 2}:
        asked += 1
        assert asked < 200
        seen = metrics(several)
        assert seen["working_bytes_total"] == {(): 20}
        assert seen["precipiq_http_requests_total"][*labels, ("status", "200")] == 20
        assert seen["precipiq_http_request_duration_seconds_count"][labels] == 20
        assert seen["precipiq_http_request_duration_seconds_bucket"][("le", "+Inf"), *labels] == 20
        assert seen["working_now"] == {(("worker", "1"),): 1, (("worker", "2"),): 1}
        assert seen["working_workers"] == {(): 2}
        assert next(iter(seen["own"])) in {(("worker", "1"),), (("worker", "2"),)}

    os.kill(several.pids()[1], signal.SIGKILL)
    wait_until(lambda: several.events("a worker died"))
    wait_until(lambda: len(several.pids()) == WORKERS + 1)
    several.get("/job/more")
    seen = metrics(several)
    assert (seen["working_bytes_total"], seen["working_workers"]) == ({(): 21}, {(): 2})
    assert several.stop() == 0


def test_what_serves_one_process_only_refuses_workers(tmp_path: Path) -> None:
    sqlite = Several(tmp_path / "sqlite", DEPLOYMENT.replace(f"workers = {WORKERS}", "") + "[database]\n")
    refused = sqlite.run("serve", "--workers", "2", check=False)
    assert refused.returncode == 2
    assert "server.workers: 2 processes cannot serve one SQLite database: use PostgreSQL" in refused.stderr
    assert sqlite.run("check").returncode == 0

    alone = Several(tmp_path / "alone", DEPLOYMENT + '[plugins.ledger]\ndriver = "alone"\n')
    refused = alone.run("check", check=False)
    assert refused.returncode == 1
    assert "plugins.ledger.driver: 'alone' serves one process only, and server.workers is 2" in refused.stderr


@pytest.mark.parametrize("where", ["address", "settings", "option"])
def test_what_is_wrong_with_the_deployment_is_said_once_with_2(tmp_path: Path, where: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        overrides = {"PRECIPIQ__PLUGINS__WORKING__STARTS_MAX": '"many"'} if where == "settings" else {}
        server = Several(tmp_path, PRECIPIQ__SERVER__BIND=address, **overrides)
        ended = server.run("serve", "--workers", "0" if where == "option" else "2", check=False)
    assert ended.returncode == 2
    said = {"address": address, "settings": "starts_max", "option": "--workers"}[where]
    assert sum(said in line for line in (ended.stdout + ended.stderr).splitlines() if "Usage" not in line) == 1
    assert server.traces("starts") == []


FAKE = """
import os, socket, sys, time
number, _, channel = map(int, sys.argv[-1].split(":"))
parent = socket.socket(fileno=channel)
{then}
"""
READY = 'parent.send(b"r");'


async def supervised(then: str, *, stop_at: str = "") -> tuple[int, int]:
    """The exit code of a supervisor whose workers do that, and how many deaths it saw. ``stop_at``: ready or death."""
    deaths: list[int] = []

    def on_death(number: int) -> None:
        deaths.append(number)
        if stop_at == "death":
            signal.raise_signal(signal.SIGTERM)

    hopeless = "sleep" in then
    settings = HypercornConfig(bind="127.0.0.1:0", workers=WORKERS, drain_timeout_s=0.1)
    supervisor = Supervisor(
        [sys.executable, "-c", FAKE.format(then=then)],
        os.environ,
        listen(settings),
        settings,
        on_ready=lambda: signal.raise_signal(signal.SIGTERM) if stop_at == "ready" else None,
        on_death=on_death,
        stop_margin_s=0.1 if hopeless else WAIT_S,
    )
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        try:
            return await supervisor.run(), len(deaths)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("parent.recv(1)", 0),
        ("parent.recv(1); sys.exit(4 if number == 2 else 0)", 4),
        ("parent.recv(1); os.kill(os.getpid(), 9) if number == 1 else None", 3),
        ("time.sleep(60)", 3),
    ],
    ids=["well", "with a code", "killed", "not at all"],
)
async def test_the_exit_code_tells_how_the_workers_ended(then: str, code: int) -> None:
    assert await supervised(READY + then, stop_at="ready") == (code, 0)


async def test_workers_that_end_by_themselves_are_no_success_whatever_their_code() -> None:
    assert await supervised(READY + "sys.exit(0)") == (3, DEATHS_MAX)


async def test_a_stop_while_a_worker_is_dead_is_no_success() -> None:
    dies = READY + "parent.recv(1) if number == 1 else sys.exit(5)"
    assert await supervised(dies, stop_at="death") == (5, 1)


@pytest.mark.parametrize(
    ("then", "code"), [("sys.exit(2)", 2), ("sys.exit(0)", 3), ("os.kill(os.getpid(), 9)", 3), ("exit(1)", 3)]
)
async def test_a_worker_that_ends_before_it_is_ready_is_not_tried_again(then: str, code: int) -> None:
    assert await supervised(then) == (code, 0)
