"""Commands at their edges: they bless nothing that is not there, make nothing, and end in one line and an exit code."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_testkit.server import DEPLOYMENT, ServerProcess, running_server

from .client import Client

pytestmark = pytest.mark.system

CHAIN = ["--org", "org_unknown", "--env", "test"]
READING = {
    "orgs list": ["orgs", "list"],
    "keys list": ["keys", "list", *CHAIN],
    "ledger verify": ["ledger", "verify", *CHAIN],
    "ledger verify --all": ["ledger", "verify", "--all"],
    "ledger entries": ["ledger", "entries", *CHAIN, "--output", "made"],
    "ledger export": ["ledger", "export", *CHAIN, "--output", "made"],
    "signing-keys list": ["signing-keys", "list", *CHAIN],
    "signing-keys create": ["signing-keys", "create", *CHAIN],
    "stripe endpoints list": ["stripe", "endpoints", "list", *CHAIN],
    "outcomes rebuild": ["outcomes", "rebuild", *CHAIN],
    "vault status": ["vault", "status"],
    "keys create": ["keys", "create", *CHAIN],
}
OF_A_CHAIN = [name for name, arguments in READING.items() if "org_unknown" in arguments]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server")) as started:
        for number in range(3):
            Client(started).decide(number)
        yield started


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that could not do its work."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done
    assert lines[0].startswith("error: "), done
    return lines[0]


def shell(server: ServerProcess, arguments: list[str], redirections: str) -> subprocess.CompletedProcess[str]:
    command = shlex.join([sys.executable, "-m", "precipiq_core.cli", *arguments])
    return subprocess.run(
        ["bash", "-c", f"{command} {redirections}"],
        env={**os.environ, "PRECIPIQ_CONFIG": str(server.config)},
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", OF_A_CHAIN)
def test_an_organisation_that_is_unknown_is_an_error_and_makes_nothing(server: ServerProcess, name: str) -> None:
    said(server.run_warm(*READING[name], check=False))
    assert not (server.folder / "made").exists()


@pytest.mark.parametrize("name", READING)
def test_an_empty_data_folder_stays_empty(tmp_path: Path, name: str) -> None:
    server = ServerProcess(tmp_path)
    server.data_dir.mkdir()
    before = everything_in(tmp_path)

    assert "there is no database" in said(server.run_warm(*READING[name], check=False))
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("name", ["orgs list", "ledger verify --all", "ledger verify"])
@pytest.mark.parametrize("content", [b"", b"this is no database", None], ids=["empty", "other", "a folder"])
def test_what_is_no_database_of_ours_is_left_as_it_is(tmp_path: Path, name: str, content: bytes | None) -> None:
    server = ServerProcess(tmp_path)
    server.data_dir.mkdir()
    if content is None:
        server.database_file.mkdir()
    else:
        server.database_file.write_bytes(content)
    before = everything_in(tmp_path)

    said(server.run_warm(*READING[name], check=False))
    assert everything_in(tmp_path) == before
    assert content is None or server.database_file.read_bytes() == content


def test_a_master_key_that_is_gone_is_not_made_anew_by_a_command(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        Client(server).decide()
    (server.data_dir / "master.key").unlink()

    assert "master.key" in said(server.run("ledger", "verify", "--all", check=False))
    assert not (server.data_dir / "master.key").exists()


@pytest.mark.parametrize("command", ["serve", "migrate", "orgs create x", "orgs list", "ledger verify --all"])
def test_a_data_folder_that_is_a_file_is_said_in_one_line(tmp_path: Path, command: str) -> None:
    server = ServerProcess(tmp_path)
    server.data_dir.write_text("a file")
    done = server.run(*command.split(), check=False)

    if command == "serve":
        [line] = map(json.loads, (done.stdout + done.stderr).splitlines())
        assert (done.returncode, line["event"], "is no folder" in line["problem"]) == (2, "cannot start", True)
    else:
        said(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", ["serve", "migrate", "orgs create x"])
def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path, command: str) -> None:
    server = ServerProcess(tmp_path)
    tmp_path.chmod(0o500)
    done = server.run(*command.split(), check=False)
    tmp_path.chmod(0o700)

    assert (done.returncode, len((done.stdout + done.stderr).splitlines())) == (2, 1), done
    assert "Permission denied" in done.stdout + done.stderr


def test_a_part_that_cannot_have_its_folder_is_a_start_that_failed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, overrides={"PRECIPIQ__DATABASE__URL": f"sqlite:///{tmp_path}/file/precipiq.db"})
    (tmp_path / "file").write_text("a file")
    done = server.run("serve", check=False)
    failures = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if '"critical"' in line]

    assert (done.returncode, [line["event"] for line in failures]) == (2, ["cannot start"]), done


def test_a_deployment_that_cannot_be_read_is_a_start_that_failed_in_the_same_form(tmp_path: Path) -> None:
    for text in (None, "this is no TOML", DEPLOYMENT + "[oops]\n"):
        server = ServerProcess(tmp_path, deployment=text or DEPLOYMENT)
        if text is None:
            server.config.unlink()
        done = server.run("serve", check=False)
        [line] = map(json.loads, (done.stdout + done.stderr).splitlines())
        assert (done.returncode, line["event"], line["level"]) == (2, "cannot start", "critical")


def test_a_path_may_begin_with_the_users_folder(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace('data_dir = "data"', 'data_dir = "~/data"').replace("sqlite:///p", "sqlite:///~/db/p")
    server = ServerProcess(tmp_path / "elsewhere", deployment=text, overrides={"HOME": str(tmp_path / "home")})
    (tmp_path / "home").mkdir()
    server.run("orgs", "create", "x")

    assert (tmp_path / "home" / "db" / "precipiq.db").is_file()
    assert "~" not in " ".join(map(str, everything_in(tmp_path)))
    server._environment["PRECIPIQ_DATA_DIR"] = "~nobody-of-that-name/data"
    assert "begins with ~" in said(server.run("orgs", "list", check=False))


@pytest.mark.parametrize("mask", ["000", "022", "777"])
def test_what_the_server_makes_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, mask: str) -> None:
    server = ServerProcess(tmp_path)
    (server.data_dir / "checkpoints").mkdir(parents=True)
    (server.data_dir / "checkpoints" / "old.test.jsonl").touch()
    for path in (server.data_dir, *everything_in(server.data_dir)):
        path.chmod(0o777)
    before = os.umask(int(mask, 8))
    try:
        server.log_file.touch()
        server.log_file.chmod(0o600)
        server.start()
    finally:
        os.umask(before)
    Client(server).decide()
    server.run("ledger", "export", "--org", server.org_id, "--env", "test", "--output", "evidence.zip")
    running = everything_in(server.data_dir)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (server.data_dir, *running)}
    assert server.stop() == 0

    assert {path.name for path in running} >= {"precipiq.db", "precipiq.db-wal", "first.key", "vault.key", "bundles"}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    assert stat.S_IMODE((server.folder / "evidence.zip").stat().st_mode) == 0o600


def test_a_folder_with_the_deployment_file_in_it_is_not_the_servers_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running_server(tmp_path, deployment=DEPLOYMENT.replace('data_dir = "data"', 'data_dir = "."')):
        database = tmp_path / "precipiq.db"
        assert (stat.S_IMODE(tmp_path.stat().st_mode), stat.S_IMODE(database.stat().st_mode)) == (0o755, 0o600)


def test_all_chains_are_verified_with_those_that_only_checkpoints_know(server: ServerProcess) -> None:
    Client(server, server.create_key("live")).decide()
    lines = server.run_warm("ledger", "verify", "--all").stdout.splitlines()
    for environment in ("live", "test"):
        assert any(line.startswith(f"{server.org_id} {environment}: intact: ") for line in lines)

    server.stop()  # it signs at its end
    server.start()
    gone = server.data_dir / "checkpoints" / "org_gone.test.jsonl"
    [some] = gone.parent.glob("*.test.jsonl")
    gone.write_bytes(some.read_bytes())
    try:
        done = server.run_warm("ledger", "verify", "--all", "--json", check=False)
    finally:
        gone.unlink()
    document = json.loads(done.stdout)
    found = {(chain["org_id"], chain["environment"]): chain["is_valid"] for chain in document["chains"]}
    assert (done.returncode, document["is_valid"]) == (1, False)
    assert found == {(server.org_id, "live"): True, (server.org_id, "test"): True, ("org_gone", "test"): False}


@pytest.mark.parametrize(
    "arguments", [[], ["--org", "x"], ["--all", "--org", "x"], ["--all", "--from-seq", "2"], ["--from-seq", "0"]]
)
def test_which_chain_is_to_be_verified_must_be_clear(server: ServerProcess, arguments: list[str]) -> None:
    said(server.run_warm("ledger", "verify", *arguments, check=False))


def test_entries_beyond_the_end_are_no_broken_chain(server: ServerProcess) -> None:
    chain = ("--org", server.org_id, "--env", "test")
    last = len(server.run_warm("ledger", "entries", *chain).stdout.splitlines())

    assert server.run_warm("ledger", "verify", *chain, "--from-seq", str(last)).returncode == 0
    for beyond in (1, 50):
        done = server.run_warm("ledger", "verify", *chain, "--from-seq", str(last + beyond), check=False)
        assert f"is beyond the chain's last entry, {last}" in said(done)
    assert server.run_warm("ledger", "entries", *chain, "--after-seq", str(last)).stdout == ""
    assert "nothing after" in said(
        server.run_warm("ledger", "entries", *chain, "--after-seq", str(last + 1), check=False)
    )


def test_output_goes_through_pipes_devices_and_standard_output(server: ServerProcess, tmp_path: Path) -> None:
    export = ["ledger", "export", "--org", server.org_id, "--env", "test", "--output"]
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.extend(pipe.read_bytes()))
    reader.start()
    server.run(*export, str(pipe))
    reader.join(30)
    assert (got[:4], stat.S_ISFIFO(pipe.stat().st_mode)) == (b"PK\3\4", True)

    server.run(*export, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert shell(server, [*export, "-"], f"> {tmp_path}/standard.zip").returncode == 0
    assert server.run("bundle", "verify", str(tmp_path / "standard.zip")).returncode == 0

    (tmp_path / "link.zip").symlink_to(tmp_path / "target.zip")
    server.run(*export, str(tmp_path / "link.zip"))
    assert (tmp_path / "link.zip").is_symlink()
    assert (tmp_path / "target.zip").is_file()


def test_output_into_a_folder_that_is_not_there_is_refused_before_any_work(server: ServerProcess) -> None:
    listed = Client(server).data("GET", "/exports")["items"]
    chain = ("--org", server.org_id, "--env", "test")
    for command in ("export", "entries"):
        line = said(server.run_warm("ledger", command, *chain, "--output", "no/such/file", check=False))
        assert "no/such" in line
    assert "directory" in said(server.run_warm("ledger", "export", *chain, "--output", ".", check=False))
    assert Client(server).data("GET", "/exports")["items"] == listed


@pytest.mark.parametrize("arguments", [["orgs", "list"], ["ledger", "verify", "--all"], ["check"], ["serve"]], ids=str)
def test_closed_and_full_standard_streams_end_in_one_line(server: ServerProcess, arguments: list[str]) -> None:
    for redirections in (">&-", "2>&-", ">&- <&-"):
        done = shell(server, arguments, redirections)
        assert (done.returncode, "is closed" in done.stdout + done.stderr) == (2, True), done
        assert len((done.stdout + done.stderr).splitlines()) == 1
    assert shell(server, arguments, ">&- 2>&-").returncode == 2
    if arguments != ["serve"]:
        assert shell(server, arguments, "<&-").returncode == 0
        assert "No space left" in said(shell(server, arguments, "> /dev/full"))


def test_a_reader_that_goes_away_is_no_broken_chain(server: ServerProcess) -> None:
    done = shell(server, ["ledger", "verify", "--all"], "| (exec <&-; sleep 4); echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ledger", "entries", "--org", "\udcff", "--env", "test"],
        ["ledger", "verify", "--org", "../../x", "--env", "test"],
        ["ledger", "verify", "--org", "x" * 5000, "--env", "live"],
        ["keys", "revoke", "\udcff"],
        ["orgs", "create", "a\udcffb"],
        ["nonsense"],
        ["ledger", "verify", "--env", "production", "--org", "x"],
    ],
    ids=str,
)
def test_odd_arguments_are_an_error_in_one_line(server: ServerProcess, arguments: list[str]) -> None:
    said(server.run_warm(*arguments, check=False))


def test_sums_are_compared_rightly_beside_writes(server: ServerProcess) -> None:
    client, stop = Client(server), threading.Event()

    def write() -> None:
        while not stop.is_set():
            client.decide()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            done = server.run_warm(
                "outcomes", "rebuild", "--org", server.org_id, "--env", "test", "--json", check=False
            )
            assert (done.returncode, json.loads(done.stdout)["differing"]) == (0, [])
    finally:
        stop.set()
        writer.join()
    server.sql("UPDATE outcome_groups SET decisions = decisions + 1")
    done = server.run_warm("outcomes", "rebuild", "--org", server.org_id, "--env", "test", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["differing"]) == (1, ["outcome_groups"])
    assert server.sql("SELECT count(*) FROM outcome_cursors WHERE org_id LIKE '%~%'") == [(0,)]
