"""Manners of HTTP: what proxies and libraries do to requests is no fault of theirs, and every refusal is precise."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess

from .client import Client, decision

pytestmark = pytest.mark.slow

EVENT = {"source": "manual", "event_type": "payment", "amount": "5.00", "currency": "USD"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(shared_server: ServerProcess) -> Client:
    """None of these tests minds the entries of another."""
    return Client(shared_server)


def refusal(answer: httpx2.Response) -> tuple[int, str, dict[str, list[str]]]:
    error = json.loads(answer.text)["error"]
    return answer.status_code, error["code"], error.get("details", {})


def exchange(server: ServerProcess, *requests: bytes) -> bytes:
    """What the server sends on one connection until it ends it, or nothing more comes."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        for request in requests:
            connection.sendall(request)
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            received += b"<open>"
    return received


@pytest.mark.parametrize(
    "scheme", ["Basic YWRtaW46YWRtaW4=", "Digest username=x", "Negotiate abc", "Basic", "token", ""]
)
def test_a_scheme_of_a_proxy_counts_for_nothing_beside_a_key(shared_server: ServerProcess, scheme: str) -> None:
    url, key = f"{shared_server.url}/api/v1/ledger/head", shared_server.key
    assert httpx2.get(url, headers={"X-Precipiq-Key": key, "Authorization": scheme}).status_code == 200
    assert httpx2.get(url, headers={"Authorization": scheme}).status_code == 401
    assert httpx2.get(url, headers={"X-Precipiq-Key": "wrong", "Authorization": scheme}).status_code == 401
    other = {"X-Precipiq-Key": key, "Authorization": "Bearer another"}
    assert httpx2.get(url, headers=other).status_code == 401


@pytest.mark.parametrize("scheme", ["Basic YWRtaW46YWRtaW4=", "Negotiate abc", ""])
def test_a_scheme_of_a_proxy_counts_for_nothing_beside_a_key_in_the_query(
    shared_server: ServerProcess, scheme: str
) -> None:
    """Browsers can give streams no header, and a proxy in front of them adds its own."""

    def status(path: str, key: str, **headers: str) -> int:
        url = f"{shared_server.url}{path}?api_key={key}"
        with httpx2.stream("GET", url, headers={"Authorization": scheme, **headers}) as answer:
            return answer.status_code

    upgrade = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for path, open_status, headers in (
        ("/api/v1/stream", 200, {}),
        ("/ws/v1/stream", 101, upgrade | {"Connection": "Upgrade"}),
    ):
        assert status(path, shared_server.key, **headers) == open_status
        assert status(path, "wrong", **headers) == 401
    assert status("/api/v1/ledger/head", shared_server.key) == 401
    both = {"Authorization": "Bearer another"}
    assert httpx2.get(f"{shared_server.url}/api/v1/stream?api_key={shared_server.key}", headers=both).status_code == 401


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf-8;",
        "application/json;",
        "application/json ; charset=UTF-8 ;",
        'Application/JSON; charset="utf-8";;',
    ],
)
def test_a_media_type_may_end_in_a_semicolon(client: Client, media_type: str) -> None:
    body = json.dumps(decision())
    answer = client.http.post("/decisions", content=body, headers={"Content-Type": media_type})
    assert answer.is_success, answer.text


@pytest.mark.parametrize("charset", ["charset=latin-1;", "; charset=utf-16;"])
def test_another_charset_is_still_refused(client: Client, charset: str) -> None:
    headers = {"Content-Type": f"application/json; {charset}"}
    assert client.http.post("/decisions", content="{}", headers=headers).status_code == 415


@pytest.mark.parametrize("authority", ["http://anything.example", "HTTP://127.0.0.1:1", "https://user@x"])
def test_a_target_in_absolute_form_works(shared_server: ServerProcess, authority: str) -> None:
    head = f"Host: x\r\nX-Precipiq-Key: {shared_server.key}\r\nConnection: close\r\n\r\n"
    answer = exchange(shared_server, f"GET {authority}/api/v1/ledger/head?x=1 HTTP/1.1\r\n{head}".encode())
    assert answer.startswith(b"HTTP/1.1 422"), answer  # the path was found; it takes no parameter
    answer = exchange(shared_server, f"GET {authority}/healthz HTTP/1.1\r\n{head}".encode())
    assert answer.startswith(b"HTTP/1.1 200"), answer
    answer = exchange(shared_server, f"GET {authority} HTTP/1.1\r\n{head}".encode())
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 200")), answer


def test_two_lengths_end_the_connection(shared_server: ServerProcess) -> None:
    body = json.dumps(decision()).encode()
    head = (
        f"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nX-Precipiq-Key: {shared_server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(shared_server, head + chunks + smuggled)
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert b"connection: close" in answer.lower()
    assert not answer.endswith(b"<open>")


@pytest.mark.parametrize(
    "path",
    [
        "/decisions/%00",
        "/decisions/a%00b",
        "/decisions/x%00/proof",
        "/exports/%00",
        "/links/%00",
        "/financial-events/%00",
        "/integrations/stripe/endpoints/%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_nul_in_a_path_is_not_found(client: Client, path: str, method: str) -> None:
    assert client.http.request(method, path).status_code in (404, 405)


def test_a_nul_without_a_key_is_no_fault(shared_server: ServerProcess) -> None:
    lines = len(shared_server.log_lines())
    for path in ("/api/v1/decisions/%00", "/webhooks/stripe/%00", "/%00", "/.well-known/precipiq/%00/signing-keys"):
        for method in ("GET", "POST"):
            answer = httpx2.request(method, f"{shared_server.url}{path}")
            assert answer.status_code in (400, 401, 404, 405), (path, answer.text)
    assert not [line for line in shared_server.log_lines()[lines:] if line["level"] == "error"]


@pytest.mark.parametrize(
    "query",
    ["agent_id=%00", "action_type=a%00", "metadata.x=%00", "metadata.%00=x", "cursor=%00", "external_id=%00", "%00=1"],
)
@pytest.mark.parametrize("path", ["/decisions", "/financial-events", "/links", "/exports", "/ledger/entries"])
def test_a_nul_in_a_parameter_is_refused(client: Client, path: str, query: str) -> None:
    status, code, _ = refusal(client.http.get(f"{path}?{query}"))
    assert (status, code) == (422, "validation_error")


def test_a_decision_over_its_size_is_too_large(client: Client) -> None:
    large = decision(inputs={"text": "x" * 300_000})
    head = client.data("GET", "/ledger/head")
    status, code, details = refusal(client.http.post("/decisions", json=large))
    assert (status, code, list(details)) == (413, "payload_too_large", ["body"])
    batch = {"decisions": [decision(), large]}
    status, code, details = refusal(client.http.post("/decisions/batch", json=batch))
    assert (status, code, list(details)) == (413, "payload_too_large", ["decisions.1"])
    assert client.data("GET", "/ledger/head") == head


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("/decisions", {**decision(), "confidence": "high"}, "confidence"),
        ("/decisions", {**decision(), "confidence": {"a": 1}}, "confidence"),
        ("/decisions", {**decision(), "confidence": 7}, "confidence"),
        ("/decisions", {**decision(), "alternatives": [{}, 5]}, "alternatives.1"),
        ("/decisions/batch", {"decisions": [decision(), {**decision(), "confidence": []}]}, "decisions.1.confidence"),
        ("/decisions", [], "body"),
        ("/decisions", 5, "body"),
        ("/exports", {"start": "2026-02-01", "end": "2026-01-01"}, "end"),
        ("/exports", {"after_seq": 5, "through_seq": 4}, "through_seq"),
        ("/exports", {"formats": "csv"}, "formats"),
        ("/exports", {"formats": ["xml"]}, "formats.0"),
        ("/api-keys", {"scopes": ["read", "fly"]}, "scopes.1"),
        ("/financial-events", {**EVENT, "amount": "ten"}, "amount"),
        ("/financial-events", {**EVENT, "amount": "-5"}, "amount"),
        ("/financial-events", {**EVENT, "currency": "XXX"}, "currency"),
        ("/financial-events", {**EVENT, "currency": "JPY", "amount": "0.5"}, "amount"),
        ("/financial-events", {**EVENT, "amount": "0"}, "amount"),
        ("/api-keys", {"scopes": 5}, "scopes"),
    ],
)
def test_details_name_the_field(client: Client, path: str, content: Any, field: str) -> None:
    status, _, details = refusal(client.http.post(path, json=content))
    assert (status, list(details)) == (422, [field])


@pytest.mark.parametrize("body", [b"", b"{", b"[1,", b"\xff", b'{"a":1}{"b":2}'])
def test_what_is_no_json_is_a_fault_of_the_body(client: Client, body: bytes) -> None:
    status, _, details = refusal(client.http.post("/decisions", content=body, headers=JSON))
    assert (status, list(details)) == (422, ["body"])
