"""A deployment that enables what is not installed hears at boot which extra is missing, all of them at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import assemble
from precipiq_core.cli.context import TerminalConsole
from precipiq_core.deployment import load_deployment
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_testkit.server import DEPLOYMENT

S3 = '\n[plugins.bundles_s3]\nbucket = "evidence"\nregion = "eu-central-1"\n'
REDIS = {"PRECIPIQ__PLUGINS__AUTH_KEYS__RATE_LIMIT_REDIS_URL": "redis://cache.internal:6379/0"}
POSTGRES = {"PRECIPIQ__DATABASE__URL": "postgresql://precipiq@db.internal/precipiq"}


def problems(folder: Path, text: str, overrides: dict[str, str]) -> list[str]:
    file = folder / "precipiq.toml"
    file.write_text(text)
    with pytest.raises(DeploymentError) as caught:
        assemble(
            load_deployment(file, overrides),
            clock=SystemClock(),
            randomness=SystemRandomness(),
            console=TerminalConsole(),
            serving=False,
        )
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("package", "text", "overrides", "wanted_by", "extra", "distribution"),
    [
        ("asyncpg", DEPLOYMENT, POSTGRES, "database.url", "postgres", "precipiq-postgres"),
        ("redis", DEPLOYMENT, REDIS, "plugins.auth_keys.rate_limit_redis_url", "redis", "precipiq-auth-keys[redis]"),
        ("boto3", DEPLOYMENT + S3, {}, "plugins.bundles_s3", "aws", "precipiq-bundles-s3[aws]"),
    ],
)
def test_one_problem_names_the_package_the_setting_and_the_command(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    package: str,
    text: str,
    overrides: dict[str, str],
    wanted_by: str,
    extra: str,
    distribution: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (problem,) = problems(tmp_path, text, overrides)
    assert problem == (
        f"{wanted_by}: needs the package {package}, which is not installed: "
        f"run `scripts/bootstrap --extra {extra}` (it comes with {distribution})"
    )


def test_two_plugins_that_lack_an_extra_are_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "boto3", None)
    named = [problem.partition(":")[0] for problem in problems(tmp_path, DEPLOYMENT + S3, REDIS)]
    assert sorted(named) == ["plugins.auth_keys.rate_limit_redis_url", "plugins.bundles_s3"]
