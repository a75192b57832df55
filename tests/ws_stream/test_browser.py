"""A real Chromium: its own WebSocket and EventSource, and the example page with which users begin."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode

import pytest

from precipiq_testkit.chromium import Browser, Page, running_browser
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.ws_stream.streams import stream_url

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "stream.html"

SHOWN = "[...document.querySelectorAll('#frames tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
STATE = "document.getElementById('state').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """What a browser sees does not depend on the database: one is enough."""
    with running_server(tmp_path_factory.mktemp("server")) as started:
        yield started


class Site(ThreadingHTTPServer):
    """A site as a user's proxy makes it: pages, and behind the same origin the server's events."""

    daemon_threads = True

    def __init__(self, server_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _SiteHandler)
        self.server_url = server_url
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.seen: list[str] = []


class _SiteHandler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.close_connection = True
        if self.path.startswith("/api/v1/stream"):
            with suppress(OSError, http.client.HTTPException):  # a lost connection is lost on both sides
                self._pass_on()
        else:
            page = EXAMPLE.read_bytes() if self.path == "/stream.html" else b"<!doctype html><title>empty</title>"
            self._begin(200, "text/html")
            self.wfile.write(page)

    def _pass_on(self) -> None:
        upstream = http.client.HTTPConnection(self.server.server_url.removeprefix("http://"), timeout=60)
        try:
            last_event_id = self.headers.get("Last-Event-ID")
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            self.server.seen.append(f"Last-Event-ID: {last_event_id}")
            upstream.request("GET", self.path, headers=headers)
            answer = upstream.getresponse()
            self._begin(answer.status, answer.headers["content-type"])
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        finally:
            upstream.close()

    def _begin(self, status: int, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the key stands in addresses."""


@contextmanager
def serving(server: ServerProcess) -> Iterator[Site]:
    site = Site(server.url)
    thread = Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture
def site(server: ServerProcess) -> Iterator[Site]:
    with serving(server) as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """An empty page of the site; its connections end with it."""
    opened = browser.open(f"{site.url}/")
    yield opened
    opened.close()


def open_example(page: Page, site: Site, server: ServerProcess, key: str | None = None) -> None:
    """The example page with everything behind the #."""
    address = f"ws{server.url.removeprefix('http')}/ws/v1/stream"
    page.go(f"{site.url}/stream.html#{urlencode({'key': key or server.key, 'url': address, 'replay': 1})}")


def wait_for_entry(page: Page, seq: int) -> list[list[str]]:
    """The rows shown, oldest first, once that entry is among them."""
    page.wait_for(f"({SHOWN}).some((row) => row[0] === '{seq}')")
    rows: list[list[str]] = page.evaluate(SHOWN)
    return rows[::-1]


def test_the_example_page_shows_the_chain_live_and_resumes_when_the_server_was_killed(
    page: Page, site: Site, server: ServerProcess
) -> None:
    client = Client(server)
    client.decide(1)
    open_example(page, site, server)
    wait_for_entry(page, client.data("GET", "/ledger/head")["seq"])
    page.wait_for(f"({STATE}).startsWith('caught up')")
    live = client.decide(2)
    assert wait_for_entry(page, live["seq"])[-1][1:] == ["decision.created", live["timestamp"], "ok", live["hash"]]

    port = server.url.rpartition(":")[2]
    server.kill()
    page.wait_for(f"({STATE}).includes('1006')")
    server.start_on(port)
    page.wait_for(f"({STATE}).startsWith('caught up')")
    last = client.decide(3)["seq"]
    rows = wait_for_entry(page, last)
    assert [int(row[0]) for row in rows] == list(range(1, last + 1))
    assert {row[3] for row in rows} == {"ok"}
    assert server.key not in page.evaluate("location.href")
    assert all(server.key not in path for path in site.seen), "what stands behind # is sent to nobody"


def test_the_example_page_says_why_it_stops(page: Page, site: Site, server: ServerProcess) -> None:
    open_example(page, site, server, "pq_test_wrong")
    page.wait_for(f"({STATE}) === 'stopped: 4401 invalid or missing api key'")

    page.go("about:blank")
    made = Client(server).data("POST", "/api-keys", json={"scopes": ["read"]})
    open_example(page, site, server, made["key"])
    page.wait_for(f"({STATE}).startsWith('caught up')")
    Client(server).data("DELETE", f"/api-keys/{made['id']}")
    page.wait_for(f"({STATE}) === 'stopped: 4510 the api key was revoked'")


def test_the_example_page_comes_back_by_itself_when_the_server_stops(
    page: Page, site: Site, server: ServerProcess
) -> None:
    open_example(page, site, server)
    page.wait_for(f"({STATE}).startsWith('caught up')")
    port = server.url.rpartition(":")[2]
    page.evaluate(f"window.states = []; setInterval(() => states.push({STATE}), 20); 0")
    assert server.stop() == 0
    page.wait_for("states.some((state) => state.startsWith('again in') && state.includes('4503'))")
    server.start_on(port)
    page.wait_for(f"({STATE}).startsWith('caught up')")


@pytest.mark.parametrize(("subprotocols", "code"), [("[]", 1006), ("['precipiq.v1']", 4401)])
def test_only_with_the_subprotocol_a_browser_learns_why_it_was_refused(
    page: Page, server: ServerProcess, subprotocols: str, code: int
) -> None:
    address = json.dumps(stream_url(server, "pq_test_wrong"))
    closed = page.evaluate(
        f"new Promise((done) => {{ new WebSocket({address}, {subprotocols}).onclose = (event) => done(event.code); }})"
    )
    assert closed == code


def test_the_browsers_event_source_receives_and_resumes_by_itself(
    page: Page, site: Site, server: ServerProcess
) -> None:
    client = Client(server)
    start = client.decide(1)["seq"]
    address = json.dumps(f"/api/v1/stream?{urlencode({'api_key': server.key})}")
    page.evaluate(
        f"window.source = new EventSource({address}); window.got = [];"
        "source.onmessage = (event) => got.push([event.lastEventId, JSON.parse(event.data)]); 0"
    )
    page.wait_for("got.length === 1 && got[0][1].type === 'connection.ready'")
    live = client.decide(2)
    page.wait_for("got.length === 2")

    port = server.url.rpartition(":")[2]
    server.kill()
    server.start_on(port)
    missed = client.decide(3)
    page.wait_for(f"got.some((item) => item[1].seq === {missed['seq']} && item[1].id)")
    assert f"Last-Event-ID: {live['seq']}" in site.seen
    entries = [(int(event_id), frame["hash"]) for event_id, frame in page.evaluate("got") if frame["id"] is not None]
    assert entries == [(live["seq"], live["hash"]), (missed["seq"], missed["hash"])]
    assert [seq for seq, _ in entries] == [start + 1, start + 2]


def test_an_event_source_is_told_why_its_stream_ends_and_then_gives_up(page: Page, server: ServerProcess) -> None:
    made = Client(server).data("POST", "/api-keys", json={"scopes": ["read"]})
    address = json.dumps(f"/api/v1/stream?{urlencode({'api_key': made['key']})}")
    page.evaluate(
        f"window.source = new EventSource({address}); window.last = null;"
        "source.onmessage = (event) => { last = JSON.parse(event.data); }; 0"
    )
    page.wait_for("last && last.type === 'connection.ready'")
    Client(server).data("DELETE", f"/api-keys/{made['id']}")
    page.wait_for("last.type === 'connection.closing' && last.data.code === 4510")
    page.wait_for("source.readyState === EventSource.CLOSED")


def test_an_event_source_of_another_origin_is_refused_by_the_browser(page: Page, server: ServerProcess) -> None:
    address = json.dumps(f"{server.url}/api/v1/stream?{urlencode({'api_key': server.key})}")
    state = page.evaluate(
        f"new Promise((done) => {{ const source = new EventSource({address});"
        "source.onmessage = () => done('open'); source.onerror = () => done(source.readyState); })"
    )
    assert state == 2
