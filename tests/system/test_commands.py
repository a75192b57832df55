"""Core's own commands, as scripts and supervisors see them: output, exit codes, and nothing opened that need not be."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import httpx2
import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import DEPLOYMENT, ServerProcess, running_server

pytestmark = pytest.mark.system

OTHER_PLUGIN = "\n[plugins.ledgr]\n"


def deployment(folder: Path, text: str = DEPLOYMENT, **overrides: str) -> ServerProcess:
    return ServerProcess(folder, deployment=text, overrides=overrides)


def problems_of_a_start(server: ServerProcess) -> list[str]:
    """What ``serve`` logs when it cannot start; its exit code is 2."""
    done = server.run("serve", check=False)
    assert done.returncode == 2, done
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    return [str(line.get("problem", line)) for line in lines if line.get("level") in ("critical", "error")]


def test_check_says_what_each_plugin_contributes_and_exits_0(tmp_path: Path) -> None:
    done = deployment(tmp_path).run("check")

    assert (done.returncode, done.stderr) == (0, "")
    for part in ("deployment test: ok", "  ledger\n", "  auth_keys\n", "POST /decisions", "key_created", "sqlite"):
        assert part in done.stdout, part


def test_check_as_json_is_one_document(tmp_path: Path) -> None:
    done = deployment(tmp_path).run("check", "--json")
    report = json.loads(done.stdout)

    assert (done.stderr, report["ok"], report["deployment"]) == ("", True, "test")
    assert report["plugins"]["ledger"]["provides"][0] == "Ledger"
    assert report["plugins"]["auth_keys"]["commands"] == ["orgs", "keys"]


def test_check_opens_and_makes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = deployment(tmp_path, PRECIPIQ__SERVER__BIND=f"127.0.0.1:{taken.getsockname()[1]}")
        before = sorted(tmp_path.rglob("*"))
        server.run("check")

    assert sorted(tmp_path.rglob("*")) == before


def test_check_lists_every_problem_and_exits_1(tmp_path: Path) -> None:
    server = deployment(
        tmp_path,
        DEPLOYMENT + OTHER_PLUGIN,
        PRECIPIQ__PLUGINS__AUTH_KEYS__CACHED_KEYS_MX="3",
        PRECIPIQ__PLUGINS__LEDGER__CHECKPOINT_INTERVAL_S='"often"',
    )
    done = server.run("check", "--json", check=False)
    report = json.loads(done.stdout)

    assert (done.returncode, report["ok"], len(report["problems"])) == (1, False, 3)
    for part in ("did you mean 'ledger'", "did you mean 'cached_keys_max'", "plugins.ledger.checkpoint_interval_s"):
        assert part in "\n".join(report["problems"])
        assert part in done.stderr


def test_an_absent_deployment_file_is_said_in_one_line(tmp_path: Path) -> None:
    server = deployment(tmp_path)
    server.config.unlink()
    codes = {}
    for command in (["check"], ["serve"], ["migrate"], ["orgs", "list"]):
        done = server.run(*command, check=False)
        assert "cannot be read: No such file" in done.stderr
        assert "Traceback" not in done.stderr
        codes[command[0]] = done.returncode

    assert codes == {"check": 1, "serve": 2, "migrate": 2, "orgs": 2}


def test_plugins_lists_what_is_installed_and_enabled(tmp_path: Path) -> None:
    text = DEPLOYMENT.partition("[plugins.auth_keys]")[0]
    done = deployment(tmp_path, text).run("plugins", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}

    assert done.stderr == ""
    assert rows["ledger"]["distribution"] == "precipiq-ledger"
    assert rows["ledger"]["version"]
    assert (rows["ledger"]["enabled"], rows["auth_keys"]["enabled"]) == (True, False)
    assert "precipiq-auth-keys" in deployment(tmp_path, text).run("plugins").stdout


def test_serve_refuses_a_schema_that_is_not_migrated_and_says_what_to_run(
    empty_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    server = ServerProcess(
        tmp_path, postgres=empty_database, overrides={"PRECIPIQ__DATABASE__MIGRATE_AT_START": "false"}
    )
    [problem] = problems_of_a_start(server)
    refused = server.run("orgs", "list", check=False)
    first, second = server.run("migrate").stdout, server.run("migrate").stdout

    assert "precipiq migrate" in problem
    assert refused.returncode == 2
    assert "precipiq migrate" in refused.stderr
    assert {"applied auth_keys_0001", "applied ledger_0001"} <= set(first.splitlines())
    assert second == "the schema is up to date\n"
    server.start()
    assert server.stop() == 0


def test_a_port_in_use_ends_the_start_with_the_address_in_the_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        problems = problems_of_a_start(deployment(tmp_path, PRECIPIQ__SERVER__BIND=f"127.0.0.1:{port}"))

    assert any(str(port) in problem and "in use" in problem for problem in problems), problems


def test_certificates_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    text = DEPLOYMENT + '\n[server.tls]\ncertificate_file = "absent.pem"\nkey_file = "absent.key"\n'
    problems = "\n".join(problems_of_a_start(deployment(tmp_path, text)))

    assert "server.tls.certificate_file" in problems
    assert "absent.pem" in problems
    assert "server.tls.key_file" in problems
    assert "absent.key" in problems


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("this is no certificate")
    text = DEPLOYMENT + f'\n[server.tls]\ncertificate_file = "{tmp_path}/c.pem"\nkey_file = "{tmp_path}/k.pem"\n'

    assert "certificate and key cannot be used together" in "\n".join(problems_of_a_start(deployment(tmp_path, text)))


def test_all_problems_of_a_deployment_end_the_start_at_once(tmp_path: Path) -> None:
    done = deployment(tmp_path, DEPLOYMENT.replace("bind", "bnd") + "[oops]\n").run("serve", check=False)

    assert done.returncode == 2
    assert "server.bnd" in done.stderr
    assert "[oops]" in done.stderr


@pytest.mark.parametrize("bind", ["nowhere", "127.0.0.1:99999", "127.0.0.1"])
def test_a_bad_bind_is_refused_in_words(tmp_path: Path, bind: str) -> None:
    done = deployment(tmp_path).run("serve", "--bind", bind, check=False)

    assert done.returncode == 2
    assert "bind" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_bind_wins_over_the_deployment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        done = deployment(tmp_path, PRECIPIQ__SERVER__BIND="127.0.0.1:0").run("serve", "--bind", busy, check=False)

    assert done.returncode == 2
    assert busy.rpartition(":")[2] in done.stdout + done.stderr


def test_the_data_folder_moves_by_a_variable(tmp_path: Path) -> None:
    server = deployment(tmp_path / "a")
    server._environment["PRECIPIQ_DATA_DIR"] = str(tmp_path / "elsewhere")
    server.run("orgs", "create", "x")

    assert (tmp_path / "elsewhere" / "precipiq.db").exists()
    assert not server.data_dir.exists()


def test_what_a_start_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        answer = httpx2.get(f"{server.url}/readyz")

    assert answer.status_code == 200
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.data_dir / "master.key").stat().st_mode) == 0o600


def test_version_and_help_need_no_deployment(tmp_path: Path) -> None:
    server = deployment(tmp_path)
    server.config.unlink()

    assert server.run("--version").stdout.startswith("precipiq")
    assert "serve" in server.run("--help").stdout
