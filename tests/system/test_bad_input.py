"""Bad input: the documented error, nothing stored, the process healthy and no larger."""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys.secret_format import make_key
from precipiq_testkit.server import ServerProcess, running_server

from .client import Client, decision

MEMORY_MAX_MB = 220
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def target(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    overrides = {"PRECIPIQ__HTTP__BODY_TIMEOUT_S": "1"}
    postgres = None if database == "sqlite" else request.getfixturevalue("shared_postgres")
    with running_server(tmp_path_factory.mktemp("server"), overrides=overrides, postgres=postgres) as server:
        yield server
        assert _peak_memory_mb(server) < MEMORY_MAX_MB
        assert server.stop() == 0


@pytest.fixture
def client(target: ServerProcess) -> Iterator[Client]:
    """A client that checks afterwards that nothing was stored and the process still serves."""
    client = Client(target)
    head = client.data("GET", "/ledger/head")
    yield client
    assert client.data("GET", "/ledger/head") == head
    assert httpx2.get(f"{target.url}/healthz").status_code == 200


def _peak_memory_mb(server: ServerProcess) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def assert_error(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert error["code"] == code
    assert answer.content.index(b'"message"') < 400
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    return dict(error)


def raw(text: str | bytes) -> dict[str, Any]:
    return {"content": text, "headers": JSON}


VALID = json.dumps(decision())


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "nonsense",
        VALID + "x",
        VALID.replace("0.82", "NaN"),
        VALID.replace("0.82", "Infinity"),
        VALID.replace("0.82", "1e999"),
        VALID.replace('"customer": 0', '"customer": "\\ud800"'),
        VALID.replace('"customer": 0', '"customer": 0, "customer": 1'),
        VALID.replace('"customer": 0', '"customer": 0, "\\u0063ustomer": 1'),
        VALID.replace('"customer": 0', '"customer": ' + "[" * 65 + "]" * 65),
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        b"\xff\xfe" + VALID.encode(),
        "null",
        "[]",
        '"text"',
    ],
)
def test_what_is_not_acceptable_json_is_refused(client: Client, body: str | bytes) -> None:
    assert_error(client.http.post("/decisions", **raw(body)), 422, "validation_error")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"confidence": 1.01}, "confidence"),
        ({"confidence": -0.1}, "confidence"),
        ({"confidence": "0.5"}, "confidence"),
        ({"confidence": True}, "confidence"),
        ({"agent_id": ""}, "agent_id"),
        ({"agent_id": "x" * 256}, "agent_id"),
        ({"agent_id": 7}, "agent_id"),
        ({"agent_id": "a\x00b"}, "agent_id"),
        ({"inputs": []}, "inputs"),
        ({"outputs": None}, "outputs"),
        ({"alternatives": [1]}, "alternatives.0"),
        ({"human_in_loop": "yes"}, "human_in_loop"),
        ({"metadata": "x"}, "metadata"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_fields_are_named(client: Client, changes: dict[str, Any], path: str) -> None:
    error = assert_error(client.http.post("/decisions", json=decision(0, **changes)), 422, "validation_error")
    assert any(found.startswith(path) for found in error["details"]), error


def test_a_wrong_decision_of_a_batch_is_named_and_none_is_stored(client: Client) -> None:
    batch = [decision(number) for number in range(5)]
    batch[3]["confidence"] = 2
    error = assert_error(client.http.post("/decisions/batch", json={"decisions": batch}), 422, "validation_error")
    assert any(path.startswith("decisions.3.confidence") for path in error["details"])


@pytest.mark.parametrize("count", [0, 101])
def test_batches_hold_1_to_100_decisions(client: Client, count: int) -> None:
    batch = {"decisions": [decision(number) for number in range(count)]}
    assert_error(client.http.post("/decisions/batch", json=batch), 422, "validation_error")


def test_a_decision_over_the_limit_is_refused(client: Client) -> None:
    assert_error(
        client.http.post("/decisions", json=decision(0, inputs={"text": "x" * 300_000})), 413, "payload_too_large"
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_50_megabytes_is_refused(client: Client, chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 1_000_000

    content: Any = pieces() if chunked else b" " * 50_000_000
    try:
        answer = client.http.post("/decisions", content=content, headers=JSON)
    except httpx2.TransportError:
        return  # the refusal closed the connection while the body was still being sent
    assert_error(answer, 413, "payload_too_large")


def test_compressed_bodies_are_refused_before_they_are_unpacked(client: Client) -> None:
    bomb = gzip.compress(b" " * 20_000_000)
    answer = client.http.post("/decisions", content=bomb, headers={**JSON, "Content-Encoding": "gzip"})
    assert_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_other_content_types_are_refused(client: Client, content_type: str) -> None:
    answer = client.http.post("/decisions", content=VALID, headers={"Content-Type": content_type})
    assert_error(answer, 415, "unsupported_media_type")


def test_a_missing_content_type_is_refused(client: Client) -> None:
    assert_error(client.http.post("/decisions", content=VALID), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "cursor=nonsense",
        "start=yesterday",
        "surprise=1",
        "limit=5&limit=6",
        "agent_id=%ff",
        "metadata=x",
        "&".join(f"metadata.k{n}=v" for n in range(100)),
        "limit=-1",
        "limit=1e3",
        "limit=",
        "limit=" + "9" * 30,
        "cursor=" + "A" * 300,
        "cursor=c2VxOi01",
        "start=2026-13-01",
        "end=10000-01-01",
        "agent_id=" + "x" * 256,
        "metadata.k=1&metadata.k=2",
        "%00=1",
    ],
)
def test_wrong_query_parameters_are_refused(client: Client, query: str) -> None:
    assert_error(client.http.get(f"/decisions?{query}"), 422, "validation_error")


@pytest.mark.parametrize(
    "path",
    [
        "/ledger/entries?after_seq=-1",
        "/ledger/entries?after_seq=9223372036854775808",
        "/ledger/entries?limit=501",
        "/ledger/entries?kind=Not-A-Kind",
        "/ledger/entries?cursor=x",
        "/decisions/chain/verify?from_seq=0",
        "/decisions/chain/verify?from_seq=x",
        "/ledger/head?surprise=1",
        "/decisions/some-id?surprise=1",
    ],
)
def test_wrong_parameters_of_other_reads_are_refused(client: Client, path: str) -> None:
    assert_error(client.http.get(path), 422, "validation_error")


@pytest.mark.parametrize("path", ["/decisions/%00", "/decisions/%ff", "/decisions/a%2Fb", "/decisions/" + "x" * 5000])
def test_ids_that_cannot_be_are_unknown(client: Client, path: str) -> None:
    assert_error(client.http.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/ledger/head", "/decisions?limit=0", "/nothing"])
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    got, head = client.http.get(path), client.http.head(path)
    assert head.content == b""
    assert head.status_code == got.status_code
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["x-request-id"] != got.headers["x-request-id"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_every_other_method_is_refused_with_those_allowed(client: Client, method: str) -> None:
    for path, allowed in (
        ("/decisions", "GET, HEAD, POST"),
        ("/decisions/batch", "POST"),
        ("/ledger/head", "GET, HEAD"),
    ):
        answer = client.http.request(method, path)
        assert_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_unknown_paths_and_methods_have_the_envelope(client: Client) -> None:
    assert_error(client.http.get("/nothing/here"), 404, "not_found")
    assert_error(client.http.get("/decisions/"), 404, "not_found")
    assert_error(client.http.get("/decisions/00000000-0000-7000-8000-000000000000"), 404, "not_found")
    answer = client.http.put("/decisions", json={})
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_bad_idempotency_key_is_refused(client: Client, key: str) -> None:
    answer = client.http.post("/decisions", json=decision(), headers={"Idempotency-Key": key})
    assert_error(answer, 422, "validation_error")


@pytest.mark.parametrize("headers", [{"X-Big": "x" * 100_000}, {f"X-{n}": "v" for n in range(1000)}])
def test_absurd_headers_are_refused(client: Client, headers: dict[str, str]) -> None:
    try:
        answer = client.http.get("/ledger/head", headers=headers)
    except httpx2.TransportError:
        return  # closed before the whole head was read
    assert_error(answer, 431, "headers_too_large")


def test_a_query_string_longer_than_a_head_may_be_is_refused(client: Client) -> None:
    assert_error(client.http.get("/decisions", params={"agent_id": "x" * 40_000}), 431, "headers_too_large")


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x01nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n{}",
        b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
        b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n{}",
        b"GET /api/v1/decisions HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_in_the_envelope_too(client: Client, target: ServerProcess, head: bytes) -> None:
    answer = exchange(target, head, until=b"}}")
    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert b"\r\nx-request-id: req_" in start
    assert json.loads(body)["error"]["code"] == "bad_request"


def exchange(target: ServerProcess, sent: bytes, until: bytes) -> bytes:
    """What the server answers to these bytes, up to those bytes or the connection's end."""
    host, port = target.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        while until not in answer and (piece := connection.recv(65536)):
            answer += piece
    return answer


@pytest.mark.parametrize("framing", ["Content-Length: 1000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_does_not_arrive_is_not_waited_for(client: Client, target: ServerProcess, framing: str) -> None:
    head = (
        f"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nX-Precipiq-Key: {target.key}\r\n"
        f"Content-Type: application/json\r\n{framing}"
    )
    answer = exchange(target, head.encode(), until=b'"request_timeout"')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


def test_every_wrong_key_gets_the_same_bytes(target: ServerProcess) -> None:
    revoked = json.loads(target.run("keys", "create", "--org", target.org_id, "--env", "test", "--json").stdout)
    target.run("keys", "revoke", revoked["id"])
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    expired = Client(target).data("POST", "/api-keys", json={"scopes": ["read"], "expires_at": soon})["key"]
    malformed = target.key[:8] + "0" * 49
    unknown = make_key("test", secrets.token_bytes(32))
    deadline = time.monotonic() + 20
    ending = Client(target, expired)
    while ending.http.get("/ledger/head").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    answers = [
        httpx2.get(f"{target.url}/api/v1/ledger/head", headers=headers)
        for headers in (
            {},
            {"X-Precipiq-Key": "x"},
            {"X-Precipiq-Key": "pq_test_demo_key_REPLACE_ME"},
            {"X-Precipiq-Key": malformed},
            {"X-Precipiq-Key": unknown},
            {"X-Precipiq-Key": make_key("live", secrets.token_bytes(32))},
            {"X-Precipiq-Key": expired},
            {"X-Precipiq-Key": "x" * 10_000},
            {"X-Precipiq-Key": target.key + "0"},
            {"X-Precipiq-Key": target.key.swapcase()},
            {"X-Precipiq-Key": revoked["key"]},
            {"Authorization": f"Bearer {revoked['key']}"},
            {"Authorization": "Basic eDp5"},
            {"X-Precipiq-Key": target.key, "Authorization": f"Bearer {revoked['key']}"},
        )
    ]
    expected = b'{"error":{"code":"unauthorized","message":"invalid or missing api key"}}'
    assert {(answer.status_code, answer.content) for answer in answers} == {(401, expected)}
    names = [sorted(name for name in answer.headers if name not in ("date", "x-request-id")) for answer in answers]
    assert all(found == names[0] for found in names)
