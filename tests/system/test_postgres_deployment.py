"""The PostgreSQL deployment as its README prints it: every step run by the real command line, over a real database."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from precipiq_testkit.postgres import PostgresDatabase

FOLDER = Path(__file__).parents[2] / "deployments" / "postgres"
README = (FOLDER / "README.md").read_text()
PRINTED_ADDRESS = "127.0.0.1:8000"
TIMEOUT_S = 90


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


STEPS = blocks(section("Step by step"))


def step_with(command: str) -> str:
    (step,) = (step for step in STEPS if command in step)
    return step


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The JSON documents that a text begins with."""
    while text.startswith("{"):
        document, end = json.JSONDecoder().raw_decode(text)
        yield document
        text = text[end:].lstrip()


@dataclass
class Terminal:
    """A shell in a copy of the project's folder. What a block exports, the next one finds, as in one terminal.

    ``typed``: what the reader puts where the README says what a command printed.
    """

    root: Path
    environment: dict[str, str]
    typed: dict[str, str] = field(default_factory=dict)

    def run(self, block: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        for printed, actual in self.typed.items():
            block = block.replace(printed, actual)
        script = f"{block}\nstatus=$?; env -0 > environment; exit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert not check or done.returncode == 0, done
        pairs = (self.root / "environment").read_text().rstrip("\0").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        return done

    @property
    def log_text(self) -> str:
        return (self.root / "serve.log").read_text()

    def serve(self, block: str) -> subprocess.Popen[bytes]:
        with (self.root / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {block}"], cwd=self.root, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + TIMEOUT_S
        while '"event":"serving"' not in self.log_text:
            assert process.poll() is None, self.log_text
            assert time.monotonic() < deadline, self.log_text
            time.sleep(0.05)
        return process


@pytest.fixture
def terminal(tmp_path: Path, postgres: PostgresDatabase) -> Terminal:
    """The folder as it is checked out, the reader's environment, and the database at another address than printed."""
    shutil.copytree(FOLDER, tmp_path / "deployments" / "postgres", ignore=shutil.ignore_patterns("data", ".env"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bootstrap").symlink_to(shutil.which("true") or "/bin/true")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRECIPIQ")}
    settings = postgres.settings()
    overrides = {
        "PRECIPIQ__DATABASE__URL": str(settings["url"]),
        "PRECIPIQ__DATABASE__MIGRATE_URL": str(settings["migrate_url"]),
        "PRECIPIQ__SERVER__BIND": address,
    }
    return Terminal(tmp_path, kept | overrides, {PRINTED_ADDRESS: address})


@pytest.fixture
def prepared(terminal: Terminal, postgres: PostgresDatabase) -> Terminal:
    """After the first step; the role that migrates has the password that it has."""
    terminal.run(step_with("scripts/bootstrap"))
    secrets = terminal.root / "deployments/postgres/.env"
    password = postgres.environment["PRECIPIQ_TEST_ADMIN_PASSWORD"]
    secrets.write_text(re.sub("(?m)^(PRECIPIQ_MIGRATE_PASSWORD)=.*", rf"\1={password}", secrets.read_text()))
    return terminal


def test_every_step_works_as_printed(prepared: Terminal) -> None:
    terminal = prepared
    migrated = terminal.run(step_with("precipiq migrate"))
    assert "deployment postgres: ok" in migrated.stdout
    assert "applied ledger_0001" in migrated.stdout
    assert "the schema is up to date" in terminal.run(step_with("precipiq migrate")).stdout

    create_organisation, _, create_key = step_with("orgs create").partition("export ORG=")
    terminal.typed["org_..."] = terminal.run(create_organisation).stdout.split()[0]
    create_key, _, export_key = f"export ORG={create_key}".partition("export KEY=")
    terminal.typed["pq_test_..."] = terminal.run(create_key).stdout.split()[1]
    terminal.run(f"export KEY={export_key}")
    assert "PRECIPIQ_MIGRATE_PASSWORD" not in terminal.environment

    server = terminal.serve(step_with("precipiq serve"))
    try:
        done = terminal.run(step_with("curl"))
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(TIMEOUT_S) == 0, terminal.log_text

    receipt, listed, verdict = (answer["data"] for answer in documents(done.stdout))
    assert [item["id"] for item in listed["items"]] == [receipt["decision_id"]]
    assert verdict["is_valid"] is True
    assert f"intact: {receipt['seq']} entries, head {receipt['seq']} {receipt['hash']}" in done.stdout
    assert terminal.log_text.count('"event":"worker serving"') == 2


CHECK = ".venv/bin/precipiq check --config deployments/postgres/precipiq.toml"
SECRETS = "set -a; . deployments/postgres/.env; set +a\n"


def test_check_needs_no_database(prepared: Terminal) -> None:
    for name in [name for name in prepared.environment if name.startswith("PRECIPIQ__")]:
        del prepared.environment[name]
    before = sorted((prepared.root / "deployments").rglob("*"))
    assert "entry store drivers: postgres" in prepared.run(SECRETS + CHECK).stdout
    assert sorted((prepared.root / "deployments").rglob("*")) == before


def test_check_names_every_secret_that_is_missing_and_makes_none(terminal: Terminal) -> None:
    done = terminal.run(CHECK, check=False)
    assert done.returncode == 1
    assert "database.password: the secret in environment variable PRECIPIQ_DATABASE_PASSWORD is missing" in done.stderr
    assert "secrets.master_key: there is no file" in done.stderr
    assert not (terminal.root / "deployments" / "postgres" / "data").exists()


@pytest.mark.parametrize("block", blocks(README, "toml"), ids=["with TLS", "behind a pooler"])
def test_every_variant_of_the_deployment_file_passes_the_check(prepared: Terminal, block: str) -> None:
    table = tomllib.loads(block)
    for key, value in table.get("database", table).items():
        prepared.environment[f"PRECIPIQ__DATABASE__{key.upper()}"] = str(value).lower() if value is True else value
    prepared.run(SECRETS + CHECK)


def test_the_secrets_have_the_same_names_everywhere() -> None:
    deployment = tomllib.loads((FOLDER / "precipiq.toml").read_text())
    used = {deployment["database"][key]["env"] for key in ("password", "migrate_password")}
    example = (FOLDER / ".env.example").read_text()
    assert set(re.findall(r"(?m)^(\w+)=$", example)) == used
    assert set(re.findall(r"(?m)^([^#\s].*)$", example)) == {f"{name}=" for name in used}, "no value in the example"
    assert set(re.findall(r"PRECIPIQ_\w+_PASSWORD", README)) == used
    assert ".env" in (FOLDER / ".gitignore").read_text().split()
    assert "data/" in (FOLDER / ".gitignore").read_text().split()
    assert "create_master_key" not in deployment["secrets"]


def test_the_compose_file_starts_a_durable_database_on_loopback_and_nothing_else() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    assert list(compose["services"]) == ["database"]
    database = compose["services"]["database"]
    assert re.fullmatch(r"postgres:\d+", database["image"])
    assert database["ports"] == ["127.0.0.1:5432:5432"]
    assert database["volumes"] == ["database:/var/lib/postgresql"], "where the image keeps its data from 18 on"
    assert list(compose["volumes"]) == ["database"]
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert database["environment"]["POSTGRES_PASSWORD"].startswith("${PRECIPIQ_MIGRATE_PASSWORD:?")
    settings = " ".join(database.get("command", []))
    assert not re.search("fsync|full_page_writes|synchronous_commit", settings), "acknowledged means on disk"
    deployment = tomllib.loads((FOLDER / "precipiq.toml").read_text())["database"]
    names = database["environment"]
    assert deployment["migrate_url"].endswith(f"//{names['POSTGRES_USER']}@127.0.0.1:5432/{names['POSTGRES_DB']}")
    assert deployment["url"].endswith(f"@127.0.0.1:5432/{names['POSTGRES_DB']}")


def test_the_first_step_overwrites_nothing_and_keeps_its_secrets_to_the_owner(terminal: Terminal) -> None:
    folder = terminal.root / "deployments" / "postgres"
    terminal.run(step_with("scripts/bootstrap"))
    secrets = [folder / ".env", *(folder / "data" / name for name in ("master.key", "vault.key"))]
    before = [path.read_text() for path in secrets]
    assert terminal.run(step_with("scripts/bootstrap"), check=False).returncode != 0
    assert [path.read_text() for path in secrets] == before
    values = [*(line.partition("=")[2] for line in before[0].splitlines()), *(text.strip() for text in before[1:])]
    assert len(set(values)) == 4
    assert [path.stat().st_mode & 0o077 for path in secrets] == [0, 0, 0]


@pytest.mark.parametrize("has_role", [False, True], ids=["before anything", "before the tables"])
def test_serve_before_migrate_ends_with_2_and_names_the_command(
    prepared: Terminal, postgres: PostgresDatabase, has_role: bool
) -> None:
    if has_role:
        postgres.sql(f'CREATE ROLE "{postgres.runtime_role}" LOGIN')
    prepared.run(
        "set -a; . deployments/postgres/.env; set +a; export PRECIPIQ_CONFIG=deployments/postgres/precipiq.toml"
    )
    for workers in "12":
        done = prepared.run(f".venv/bin/precipiq serve --workers {workers}", check=False)
        assert done.returncode == 2
        assert "run `precipiq migrate`" in done.stderr


def test_a_role_that_is_no_superuser_can_migrate(prepared: Terminal, postgres: PostgresDatabase) -> None:
    """The rights that the README names are enough."""
    (printed,) = blocks(section("A database of your own"), "sql")
    migrator = f"{postgres.name}_migrate"
    actual = printed.replace("precipiq_migrate", migrator).replace("DATABASE precipiq ", f"DATABASE {postgres.name} ")
    statements = [line for line in actual.splitlines() if "CREATE DATABASE" not in line]
    password = "only-for-tests"
    postgres.sql(*(statement.replace("'...'", f"'{password}'") for statement in statements))
    url = re.sub("//[^@]*@", f"//{migrator}@", prepared.environment["PRECIPIQ__DATABASE__MIGRATE_URL"])
    prepared.environment |= {"PRECIPIQ__DATABASE__MIGRATE_URL": url}
    secrets = prepared.root / "deployments/postgres/.env"
    secrets.write_text(re.sub("(?m)^(PRECIPIQ_MIGRATE_PASSWORD)=.*", rf"\1={password}", secrets.read_text()))
    try:
        assert "applied ledger_0001" in prepared.run(step_with("precipiq migrate")).stdout
        assert prepared.run(".venv/bin/precipiq orgs create x").stdout.startswith("org_")
    finally:
        postgres.server.sql(f"DROP DATABASE {postgres.name} WITH (FORCE)")
        for role in ("", "_system", "_auditor", "_owner"):
            postgres.server.sql(f'DROP ROLE IF EXISTS "{postgres.runtime_role}{role}"')
        postgres.server.sql(f'DROP ROLE "{migrator}"')
