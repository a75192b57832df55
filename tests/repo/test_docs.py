"""The documentation tells the truth of the code."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import click
import pytest

from precipiq_chain.ledger_hooks import LedgerHooks
from precipiq_core.boot import assemble
from precipiq_core.cli.context import TerminalConsole
from precipiq_core.cli.main import cli
from precipiq_core.deployment import load_deployment
from precipiq_core.plugin import PluginBase
from precipiq_core.system import SystemClock, SystemRandomness

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "plugin-authors.md"
PAGES = [path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
SPECIFICATIONS = {
    name: spec
    for owner in (PluginBase, LedgerHooks)
    for name, spec in vars(owner).items()
    if hasattr(spec, "precipiq_spec")
}
HOOKS = list(SPECIFICATIONS)
SLICE = re.compile(r"<!-- (\S+) -->\n```\w+\n(.*?)\n```", re.DOTALL)
FENCE = re.compile(r"^```\w*$", re.MULTILINE)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_heading_and_exact_signature(hook: str) -> None:
    text = GUIDE.read_text()
    signature = str(inspect.signature(SPECIFICATIONS[hook])).replace("'", "")
    assert f"\n### {hook}\n\n`{hook}{signature}`\n" in text


@pytest.mark.parametrize("hook", HOOKS)
def test_the_guide_says_of_a_hook_what_its_specification_says(hook: str) -> None:
    section = GUIDE.read_text().partition(f"\n### {hook}\n")[2].partition("\n#")[0]
    specification = inspect.getdoc(SPECIFICATIONS[hook]) or ""
    assert " ".join(specification.replace("``", "`").split()) in " ".join(section.split())


def test_every_example_is_a_slice_of_a_file_that_runs() -> None:
    slices = SLICE.findall(GUIDE.read_text())
    assert len(FENCE.findall(GUIDE.read_text())) == 2 * len(slices) >= 10, "a block of code that names no file"
    for name, code in slices:
        assert _without_space(code) in _without_space((ROOT / name).read_text()), (name, code)


def _without_space(text: str) -> str:
    """The formatter sets blocks of code in pages to the left margin, and breaks their lines anew."""
    return "".join(text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target.strip()).exists(), target


def test_files_that_the_pages_name_exist() -> None:
    named = re.compile(r"`((?:core|plugins|tests|docs|scripts|deployments)/[\w./-]+)`")
    missing = {name for page in PAGES for name in named.findall(page.read_text()) if not (ROOT / name).exists()}
    assert not missing


def test_scripts_that_the_readme_runs_can_be_run() -> None:
    named = set(re.findall(r"\bscripts/[a-z]+", (ROOT / "README.md").read_text()))
    assert named >= {"scripts/serve", "scripts/test"}
    assert [name for name in sorted(named) if not os.access(ROOT / name, os.X_OK)] == []


def test_commands_of_the_operators_guide_exist() -> None:
    assembly = assemble(
        load_deployment(ROOT / "deployments" / "embedded" / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=TerminalConsole(),
        serving=False,
    )
    commands = {**cli.commands, **assembly.command_by_name}
    text = (ROOT / "docs" / "operators.md").read_text() + (ROOT / "README.md").read_text()
    for first, second in re.findall(r"precipiq ([\w-]+)(?: (\w+))?", text):
        command = commands.get(first)
        if isinstance(command, click.Group) and second:
            assert second in command.commands, (first, second)
        elif command is None:
            assert first in ("Python", "server", "SDK"), first


def test_each_row_of_what_is_vouched_for_names_tests_that_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    part = text[text.index("## What the ledger vouches for") : text.index("## Who may do what in PostgreSQL")]
    rows = [line for line in part.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"\]\((tests/[a-z_0-9/]+\.py)\)", row.rsplit("|", 2)[1])
        assert named, row
        assert all((ROOT / path).exists() for path in named), row
