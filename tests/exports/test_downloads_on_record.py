"""Every byte of a bundle that leaves is on record: an entry for each download, sealed first, and counts under it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.system.organisations import organisations

from .evidence import bundle_of, exported, kinds, on_sqlite, restarted, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.system]

FULL = {
    "sqlite": (
        ["CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(FAIL, 'full'); END"],
        ["DROP TRIGGER full"],
        409,
    ),
    "postgres": (
        [
            "CREATE FUNCTION refuse_entries() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$",
            "CREATE TRIGGER refused BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION refuse_entries()",
        ],
        ["DROP TRIGGER refused ON entries", "DROP FUNCTION refuse_entries()"],
        503,
    ),
}
"""The chain takes no entry: SQL that begins it, SQL that ends it, and the status that tells a client."""


@pytest.fixture(scope="module")
def strangers(shared_server: ServerProcess) -> Iterator[tuple[str, str]]:
    """Organisations that no test has used."""
    return iter(organisations(shared_server, 14))


@pytest.fixture
def client(shared_server: ServerProcess, strangers: Iterator[tuple[str, str]]) -> Client:
    """A client of an organisation of its own."""
    return Client(shared_server, next(strangers)[1])


def path_of(record: dict[str, Any]) -> str:
    return f"/exports/{record['id']}/download"


def part(client: Client, record: dict[str, Any], start: int, end: int | str = "") -> httpx2.Response:
    """The bytes from ``start`` to ``end``, both included."""
    return client.http.get(path_of(record), headers={"Range": f"bytes={start}-{end}"})


def downloads(client: Client, record: dict[str, Any]) -> list[dict[str, Any]]:
    return list(client.data("GET", "/exports/downloads", params={"export_id": record["id"]})["items"])


def entries(client: Client) -> list[dict[str, Any]]:
    """The statements of the chain's downloads."""
    found = [entry["statement"] for entry in client.entries(500)]
    return [statement for statement in found if statement["kind"] == "export_downloaded"]


def test_the_first_part_is_an_entry_and_what_follows_is_counted_under_it(client: Client) -> None:
    record = exported(client)
    size = record["size"]
    rest = part(client, record, 1)
    assert (rest.status_code, len(rest.content)) == (206, size - 1)
    [entry] = entries(client)
    assert part(client, record, 0, 99).status_code == part(client, record, size - 5).status_code == 206
    assert entries(client) == [entry]

    [download] = downloads(client, record)
    assert entry["actor"] == download["key_id"] == record["requested_by"]
    body = {"export_id": record["id"], "sha256": record["sha256"], "download_id": download["id"]}
    assert (entry["body"], entry["seq"]) == (body, download["entry_seq"])
    assert (download["requests"], download["asked_bytes"]) == (3, size - 1 + 100 + 5)
    wait_for(
        lambda: downloads(client, record)[0]["sent_bytes"] == download["asked_bytes"], "sent bytes are not counted"
    )
    assert client.verify()["is_valid"]


def test_each_whole_bundle_is_a_download_and_parts_go_on_with_the_latest(client: Client) -> None:
    record = exported(client)
    whole = bundle_of(client, record)
    assert part(client, record, 100).content == whole[100:]
    assert len(entries(client)) == 1
    assert part(client, record, 0).content == whole
    assert part(client, record, 100).content == whole[100:]
    assert len(entries(client)) == 2
    assert [download["requests"] for download in downloads(client, record)] == [2, 2]


def test_parts_that_are_loaded_beside_each_other_make_one_entry(client: Client) -> None:
    record = exported(client)
    size, count = record["size"], 16
    edges = [size * number // count for number in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(lambda n: part(client, record, edges[n], edges[n + 1] - 1).content, range(count)))
    assert b"".join(parts) == bundle_of(client, record)
    assert [download["requests"] for download in downloads(client, record)] == [1, count]
    assert len(entries(client)) == 2


def test_another_key_and_another_export_are_other_downloads(shared_server: ServerProcess, client: Client) -> None:
    first, second = exported(client), exported(client)
    other = Client(shared_server, client.data("POST", "/api-keys", json={"scopes": ["export"]})["key"])
    for who, record in ((client, first), (client, second), (other, first)):
        assert part(who, record, 7).status_code == 206
    assert len(entries(client)) == 3
    assert len({entry["actor"] for entry in entries(client)}) == 2
    listed = client.data("GET", "/exports/downloads")["items"]
    assert [download["export_id"] for download in listed] == [first["id"], second["id"], first["id"]]
    assert len({download["key_id"] for download in listed}) == 2
    assert other.http.get("/exports/downloads").status_code == 403
    stranger = Client(shared_server)
    assert downloads(stranger, first) == []


def test_answers_without_bytes_need_no_entry(client: Client) -> None:
    record = exported(client)
    path, tag = path_of(record), f'"{record["sha256"]}"'
    assert client.http.head(path).status_code == 200
    assert client.http.head(path, headers={"Range": "bytes=1-"}).status_code == 200
    assert client.http.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.http.get(path, headers={"Range": f"bytes={record['size']}-"}).status_code == 416
    assert entries(client) == downloads(client, record) == []


def test_no_byte_leaves_while_no_entry_can_be_sealed(shared_server: ServerProcess, client: Client) -> None:
    record = exported(client)
    refuse, allow, status = FULL["sqlite" if shared_server.postgres is None else "postgres"]
    shared_server.sql(*refuse)
    try:
        answers = [client.http.get(path_of(record)), part(client, record, 1), part(client, record, 1)]
    finally:
        shared_server.sql(*allow)
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert entries(client) == downloads(client, record) == []
    assert part(client, record, 1).status_code == 206
    assert ([download["requests"] for download in downloads(client, record)], len(entries(client))) == ([1], 1)


def test_a_row_without_its_entry_lets_nothing_out(shared_server: ServerProcess, client: Client) -> None:
    """An intruder who can write the table makes up a download: the next request seals its entry nevertheless."""
    record = exported(client)
    part(client, record, 1)
    [download], [made_up] = downloads(client, record), client.entries(1)[:1]
    shared_server.sql(
        f"UPDATE export_downloads SET download_id = 'dl_{'f' * 32}', entry_id = '{made_up['statement']['id']}', "
        f"entry_seq = 1 WHERE download_id = '{download['id']}'"
    )
    assert part(client, record, 1).status_code == 206
    assert [entry["body"]["download_id"] for entry in entries(client)] == [download["id"], f"dl_{'f' * 32}"]


def test_after_a_kill_the_next_part_goes_on_under_the_same_entry(server: ServerProcess) -> None:
    client = Client(server)
    record = exported(client)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as peer:
        lines = [
            f"GET /api/v1{path_of(record)} HTTP/1.1",
            "host: t",
            f"x-precipiq-key: {server.key}",
            "range: bytes=1-",
        ]
        peer.sendall("\r\n".join([*lines, "", ""]).encode())
        assert peer.recv(12) == b"HTTP/1.1 206"
        restarted(server)
    client = Client(server)
    assert part(client, record, 1).status_code == 206
    [download] = downloads(client, record)
    assert len(entries(client)) == 1
    assert (download["requests"], download["asked_bytes"]) == (2, 2 * (record["size"] - 1))


def test_a_revoked_key_resumes_nothing(shared_server: ServerProcess, client: Client) -> None:
    record = exported(client)
    made = client.data("POST", "/api-keys", json={"scopes": ["export"]})
    other = Client(shared_server, made["key"])
    assert part(other, record, 0, 9).status_code == 206
    client.data("DELETE", f"/api-keys/{made['id']}")
    assert part(other, record, 10).status_code == 401
    assert [download["requests"] for download in downloads(client, record)] == [1]


def test_a_download_that_runs_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    with running_server(tmp_path, overrides={"PRECIPIQ__SERVER__SOCKET_SEND_BUFFER_BYTES": "4096"}) as server:
        client = Client(server)
        for number in range(10):
            client.decide(number, inputs={"noise": os.urandom(100_000).hex()})
        record = exported(client)
        made = client.data("POST", "/api-keys", json={"scopes": ["export"]})
        received = 0
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            peer.sendall(
                f"GET /api/v1{path_of(record)} HTTP/1.1\r\nhost: t\r\nx-precipiq-key: {made['key']}\r\n\r\n".encode()
            )
            assert peer.recv(12) == b"HTTP/1.1 200"
            client.data("DELETE", f"/api-keys/{made['id']}")
            while piece := _next(peer):
                received += len(piece)
                time.sleep(0.002)  # a client that is slower than the server looks at keys
        assert received < record["size"]
        wait_for(lambda: "its key is not accepted" in server.log_text(), "it is not told")
        [download] = downloads(client, record)
        assert download["sent_bytes"] < download["asked_bytes"] == record["size"]


def _next(peer: socket.socket) -> bytes:
    try:
        return peer.recv(2048)
    except ConnectionError:
        return b""


def test_a_bundle_that_the_command_writes_is_a_download_of_the_system(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    client, output = Client(shared_server), tmp_path / "evidence.zip"
    chain = ("--org", shared_server.org_id, "--env", "test")
    record = json.loads(shared_server.run_warm("ledger", "export", *chain, "--output", str(output), "--json").stdout)
    assert kinds(client)[-2:] == ["export_completed", "export_downloaded"]
    assert entries(client)[-1]["actor"] == "system"
    [download] = downloads(client, record)
    assert (download["key_id"], download["requests"]) == ("system", 1)
    assert download["sent_bytes"] == download["asked_bytes"] == output.stat().st_size


@on_sqlite
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_goes_on_with_a_download_under_its_entry(
    client: Client, shared_server: ServerProcess, tmp_path: Path
) -> None:
    record = exported(client)
    output = tmp_path / "evidence.zip"
    url = f"{shared_server.url}/api/v1{path_of(record)}"
    key = client.http.headers["X-Precipiq-Key"]
    command = ["curl", "-sS", "--fail", "-H", f"X-Precipiq-Key: {key}", "-o", str(output), url]
    subprocess.run(command, check=True, timeout=30)
    whole = output.read_bytes()
    output.write_bytes(whole[:100])
    subprocess.run([*command, "-C", "-"], check=True, timeout=30)
    assert output.read_bytes() == whole
    assert [download["requests"] for download in downloads(client, record)] == [2]
    assert len(entries(client)) == 1


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_parts_from_two_nodes_at_once_make_one_entry(
    server_database: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    overrides = {
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER": str(tmp_path_factory.mktemp("bundles")),
        "PRECIPIQ__PLUGINS__EXPORTS__FOLDER_IS_SHARED": "true",
    }
    with ExitStack() as stack:
        first, second = (
            ServerProcess(tmp_path_factory.mktemp("node"), postgres=server_database, overrides=overrides)
            for _ in range(2)
        )
        first.start()
        stack.callback(first.kill)
        second.data_dir.mkdir(mode=0o700)
        for secret in ("master.key", "vault.key"):
            shutil.copy(first.data_dir / secret, second.data_dir / secret)
        second.start()
        stack.callback(second.kill)
        nodes = [Client(first), Client(second, first.key)]
        record = exported(nodes[0])
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: part(nodes[n % 2], record, n, n).status_code, range(16)))
        assert answers == [206] * 16
        [download] = downloads(nodes[0], record)
        assert (len(entries(nodes[0])), download["requests"], download["asked_bytes"]) == (1, 16, 16)
