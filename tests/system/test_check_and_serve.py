"""``precipiq check`` and ``precipiq serve`` refuse the same files with the same sentences, in the words of the file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from precipiq_testkit.server import DEPLOYMENT, ServerProcess

pytestmark = pytest.mark.system

TLS = '\n[server.tls]\ncertificate_file = "{}"\nkey_file = "{}"\n'
PLANS = """
[plugins.billing.plans]
webhook_secret = { env = "ABSENT_WEBHOOK" }
default = "free"
[plugins.billing.plans.tiers.free]
"""
POSTGRES = '[database]\nurl = "postgresql://precipiq@localhost/precipiq"\npassword = {{ {} }}\n'
SQLITE = DEPLOYMENT[DEPLOYMENT.index("[database]") : DEPLOYMENT.index("[secrets]")]
SECRETS = DEPLOYMENT[DEPLOYMENT.index("[secrets]") : DEPLOYMENT.index("[plugins.ledger]")]
SHORT_OF_32 = "secrets.master_key: needs at least 32 characters"


def having(table: str, lines: str) -> str:
    """The deployment with these lines at the beginning of a table."""
    assert f"[{table}]\n" in DEPLOYMENT
    return DEPLOYMENT.replace(f"[{table}]\n", f"[{table}]\n{lines}\n")


def without(text: str, instead: str = "") -> str:
    assert text in DEPLOYMENT
    return DEPLOYMENT.replace(text, instead)


BROKEN: dict[str, tuple[str, list[str]]] = {
    "bind": (without("127.0.0.1:0", "nowhere"), ["server.bind: write host:port, such as 127.0.0.1:8000"]),
    "bind's port": (without("127.0.0.1:0", "127.0.0.1:70000"), ["server.bind: a port is at most 65535"]),
    "proxies": (
        having("server", 'trusted_proxies = ["10.0.0.0/8", "all"]'),
        ["server.trusted_proxies.1: must be a network, such as 10.0.0.0/8"],
    ),
    "no tables": (
        having("server", "tls = true").replace("[plugins.exports]\n", "") + "\n[plugins]\nexports = 3\n",
        ["plugins.exports: must be a table, [plugins.exports]", "server.tls: must be a table"],
    ),
    "kinds of values": (
        having("plugins.ledger", 'driver = 7\nverify_processes = "many"').replace(
            'master_key = { file = "vault.key" }', "master_key = 3"
        ),
        [
            "plugins.ledger.driver: must be a valid string",
            "plugins.ledger.verify_processes: must be a whole number",
            "plugins.vault_local.master_key: must be a table",
        ],
    ),
    "currency": (
        having("plugins.outcomes", 'default_currency = "euro"'),
        ["plugins.outcomes.default_currency: write three capital letters, such as USD"],
    ),
    "certificate absent": (
        DEPLOYMENT + TLS.format("absent.pem", "absent.key"),
        [
            "server.tls.certificate_file: {data}/absent.pem cannot be read: No such file or directory",
            "server.tls.key_file: {data}/absent.key cannot be read: No such file or directory",
        ],
    ),
    "certificate of another key": (
        DEPLOYMENT + TLS.format("{folder}/one.pem", "{folder}/two.key"),
        ["server.tls: certificate and key cannot be used together: the key is another certificate's"],
    ),
    "no certificate": (
        DEPLOYMENT + TLS.format("{folder}/text", "{folder}/text"),
        ["server.tls: certificate and key cannot be used together: both must be PEM, and the key unencrypted"],
    ),
    "master key absent": (
        without("create_master_key = true\n\n[plugins.ledger]", "\n[plugins.ledger]"),
        [
            "secrets.master_key: there is no file {data}/master.key: copy it from another machine of this deployment, "
            "or make it once, with at least 32 random characters"
        ],
    ),
    "master key in no variable": (
        without(SECRETS, '[secrets]\nmaster_key = { env = "ABSENT_KEY" }\n'),
        ["secrets.master_key: the secret in environment variable ABSENT_KEY is missing or empty"],
    ),
    "master key short": (without('"master.key"', '"{folder}/short"'), [SHORT_OF_32]),
    "master key empty": (
        without('"master.key"', '"{folder}/empty"'),
        ["secrets.master_key: the secret in file {folder}/empty is missing or empty"],
    ),
    "master key a folder": (
        without('"master.key"', '"{folder}"'),
        ["secrets.master_key: the secret in file {folder} cannot be read: Is a directory"],
    ),
    "master key unsaid": (without(SECRETS), ["secrets.master_key: is required by an enabled plugin"]),
    "password absent": (
        without(SQLITE, POSTGRES.format('env = "ABSENT_PASSWORD"')),
        ["database.password: the secret in environment variable ABSENT_PASSWORD is missing or empty"],
    ),
    "password in no file": (
        without(SQLITE, POSTGRES.format('file = "absent"')),
        ["database.password: the secret in file {data}/absent is missing: there is no such file"],
    ),
    "Redis password absent": (
        having(
            "plugins.auth_keys",
            'rate_limit_redis_url = "redis://localhost:1/0"\nrate_limit_redis_password = { env = "ABSENT_REDIS" }',
        ),
        [
            "plugins.auth_keys.rate_limit_redis_password: "
            "the secret in environment variable ABSENT_REDIS is missing or empty"
        ],
    ),
    "webhook secret absent": (
        DEPLOYMENT + PLANS,
        ["plugins.billing.plans.webhook_secret: the secret in environment variable ABSENT_WEBHOOK is missing or empty"],
    ),
    "two processes on SQLite": (
        having("server", "workers = 2"),
        ["server.workers: 2 processes cannot serve one SQLite database: use PostgreSQL"],
    ),
    "data folder": (
        without('data_dir = "data"', 'data_dir = "{folder}/text/data"'),
        ["deployment.data_dir: {folder}/text is no folder"],
    ),
    "many at once": (
        without('"master.key"', '"{folder}/short"').replace("127.0.0.1:0", "nowhere")
        + "\n[oops]\n"
        + PLANS.replace("default =", "defalt ="),
        [
            "server.bind: write host:port, such as 127.0.0.1:8000",
            "[oops]: unknown section",
            "plugins.billing.plans.defalt: unknown key; did you mean 'default'?",
            SHORT_OF_32,
        ],
    ),
}
NOT_OF_THE_FILE = re.compile(r"(?!PostgreSQL)[A-Z][a-z]+[A-Z]\w*|\^|\\|Input|String|instance of|\bstr\b|\bint\b|Error")
"""Names of classes, regular expressions, and what the library that checks settings would say."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that deployments name: two certificates, and what is none."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("one", "two"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        options = ["-out", f"{name}.pem", "-keyout", f"{name}.key"]
        subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True, timeout=60)
    for name, text in {"text": "this is no certificate", "short": "too short", "empty": "\n"}.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("what", BROKEN)
def test_both_refuse_the_file_with_the_same_sentences(tmp_path: Path, files: Path, what: str) -> None:
    text, expected = BROKEN[what]
    server = ServerProcess(tmp_path, deployment=text.replace("{folder}", str(files)))
    before = sorted(tmp_path.rglob("*"))

    checked = server.run_warm("check", "--json", check=False)
    started = server.run_warm("serve", check=False)

    assert (checked.returncode, started.returncode) == (1, 2), checked.stdout + started.stderr
    said = json.loads(checked.stdout)["problems"]
    lines = (json.loads(line) for line in started.stderr.splitlines() if line.startswith("{"))
    assert [line["problem"] for line in lines if line.get("event") == "cannot start"] == said
    places = {"data": str(server.data_dir), "folder": str(files)}
    for sentence in expected:
        wanted = sentence.format(**places)
        assert [problem for problem in said if wanted in problem], (wanted, said)
    words = [re.sub(re.escape(str(tmp_path)) + r"\S*|plugin \w+ requires \w+", "", problem) for problem in said]
    assert [problem for problem in words if NOT_OF_THE_FILE.search(problem)] == []
    assert sorted(tmp_path.rglob("*")) == before, "neither made a file"


def test_what_is_made_at_the_first_start_may_be_absent(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    assert server.run("check").returncode == 0
    assert not server.data_dir.exists()
    server.start()
    try:
        assert server.run("check").returncode == 0
    finally:
        server.stop()


def test_other_commands_need_neither_certificate_nor_webhook_secret(tmp_path: Path) -> None:
    broken = DEPLOYMENT + TLS.format("absent.pem", "absent.key") + PLANS
    assert ServerProcess(tmp_path, deployment=broken).run("migrate").returncode == 0
