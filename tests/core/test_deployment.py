"""The deployment file: strict, overridable by one rule, and never holding a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from precipiq_contracts.errors import DeploymentError
from precipiq_core.deployment import Deployment, load_deployment

MINIMAL = '[deployment]\nname = "t"\n'


def load(folder: Path, text: str = MINIMAL, **environ: str) -> Deployment:
    path = folder / "precipiq.toml"
    path.write_text(text)
    return load_deployment(path, environ)


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    prefix = f"{folder / 'precipiq.toml'}: "
    return [problem.removeprefix(prefix) for problem in load(folder, text, **environ).problems]


def test_a_minimal_file_has_documented_defaults(tmp_path: Path) -> None:
    deployment = load(tmp_path)

    assert (deployment.name, deployment.data_dir) == ("t", tmp_path / "data")
    assert (deployment.server, deployment.database, deployment.plugins) == ({}, None, {})
    assert deployment.problems == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[servr]\n", "[servr]: unknown section; did you mean 'server'?"),
        ("[http]\nzzzzzzzz = 1\n", "http.zzzzzzzz: unknown key"),
        ("plugins = 3\n", "plugins: must be a table, [plugins]"),
        ("[plugins]\nledger = true\n", "plugins.ledger: must be a table, [plugins.ledger]"),
        ("[plugins.Bad-Name]\n", "plugins.Bad-Name: a plugin's name is"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_the_nearest_known_name(tmp_path: Path, text: str, problem: str) -> None:
    found = problems(tmp_path, text + MINIMAL if text.startswith("plugins") else MINIMAL + text)

    assert any(item.startswith(problem) for item in found), found


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    text = '[deployment]\nnam = "t"\n[http]\ndepth_max = "deep"\n[serverr]\n'

    found = problems(tmp_path, text)

    for start in ("deployment.nam: ", "deployment.name: ", "http.depth_max: ", "[serverr]: "):
        assert [item for item in found if item.startswith(start)], (start, found)


def test_a_file_that_is_absent_or_no_toml_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="cannot be read: No such file"):
        load_deployment(tmp_path / "absent.toml", {})
    with pytest.raises(DeploymentError, match="is not TOML"):
        load(tmp_path, "[deployment")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DeploymentError, match="cannot be read"):
        load_deployment(tmp_path / "bytes.toml", {})


def test_a_secret_is_a_reference_and_a_value_is_refused_without_being_shown(tmp_path: Path) -> None:
    value = "0123456789abcdef" * 4
    for written in (f'"{value}"', f'{{ value = "{value}" }}'):
        found = problems(tmp_path, f"{MINIMAL}[secrets]\nmaster_key = {written}\n")
        assert found
        assert value not in "".join(found)
    assert problems(tmp_path, f'{MINIMAL}[secrets]\nmaster_key = "{value}"\n') == [
        'secrets.master_key: write { env = "NAME" } or { file = "path" }, never the secret itself'
    ]


@pytest.mark.parametrize("reference", ["{}", '{ env = "A", file = "b" }'])
def test_a_secret_has_exactly_one_source(tmp_path: Path, reference: str) -> None:
    [problem] = problems(tmp_path, f"{MINIMAL}[secrets]\nmaster_key = {reference}\n")

    assert "exactly one of" in problem


def test_relative_paths_of_secrets_start_at_the_data_folder(tmp_path: Path) -> None:
    text = MINIMAL + '[secrets]\nmaster_key = { file = "m.key" }\n'

    deployment = load(tmp_path, text)

    assert deployment.secrets.master_key is not None
    assert deployment.secrets.master_key.file == tmp_path / "data/m.key"


def test_a_variable_moves_the_data_folder(tmp_path: Path) -> None:
    assert load(tmp_path, PRECIPIQ_DATA_DIR="/elsewhere").data_dir == Path("/elsewhere")
    assert load(tmp_path, PRECIPIQ_DATA_DIR="").data_dir == tmp_path / "data"


def test_variables_override_by_one_rule_and_are_read_as_toml(tmp_path: Path) -> None:
    deployment = load(
        tmp_path,
        MINIMAL + "[plugins.ledger]\n",
        PRECIPIQ__SERVER__BIND="0.0.0.0:9",
        PRECIPIQ__HTTP__DEPTH_MAX="32",
        PRECIPIQ__SERVER__TRUSTED_PROXIES='["10.0.0.0/8"]',
        PRECIPIQ__SERVER__TLS__KEY_FILE="k.pem",
        PRECIPIQ__SERVER__TLS__CERTIFICATE_FILE="c.pem",
        PRECIPIQ__PLUGINS__LEDGER__DRIVER="other",
        UNRELATED="1",
    )

    assert deployment.http.depth_max == 32
    assert deployment.server == {
        "bind": "0.0.0.0:9",
        "trusted_proxies": ["10.0.0.0/8"],
        "tls": {"certificate_file": "c.pem", "key_file": "k.pem"},
    }
    assert deployment.plugins["ledger"] == {"driver": "other"}


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("PRECIPIQ__SERVER", "expected PRECIPIQ__SECTION__KEY"),
        ("PRECIPIQ__SERVER__", "expected PRECIPIQ__SECTION__KEY"),
        ("PRECIPIQ__PLUGINS__NOBODY__X", "does not enable plugin nobody"),
        ("PRECIPIQ__DEPLOYMENT__NAME__X", "name is not a table"),
        ("PRECIPIQ__SERVR__BIND", "[servr]: unknown section; did you mean 'server'?"),
    ],
)
def test_a_variable_that_means_nothing_is_an_error(tmp_path: Path, variable: str, problem: str) -> None:
    assert problem in "\n".join(problems(tmp_path, MINIMAL, **{variable: "1"}))


def test_variables_do_not_hide_that_plugins_is_no_table(tmp_path: Path) -> None:
    found = problems(tmp_path, "plugins = 3\n" + MINIMAL, PRECIPIQ__PLUGINS__LEDGER__DRIVER="x")

    assert "plugins: must be a table, [plugins]" in found
