"""``precipiq check``: boot everything, open nothing."""

from __future__ import annotations

import json

import click

from precipiq_contracts.errors import DeploymentError
from precipiq_core.app import Application
from precipiq_core.boot import Assembly
from precipiq_core.cli.context import assemble_for_command, deployment_of, json_option
from precipiq_core.cli.outcome import EXIT_NO, say_problems

_WORDS = {"migrations": "tables", "provide": "provides"}
"""The report's word for a hook's contributions, where that is not the hook's name."""


@click.command()
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Boot without opening sockets or databases, and say what each plugin contributes."""
    try:
        assembly = assemble_for_command(deployment_of(ctx), edge=True, commands=True)
        Application(assembly)
    except DeploymentError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": list(error.problems)}))
        say_problems(error)
        ctx.exit(EXIT_NO)
    report = _report(assembly)
    if as_json:
        click.echo(json.dumps({"ok": True, "deployment": assembly.deployment.name, "plugins": report}))
        return
    click.echo(f"deployment {assembly.deployment.name}: ok (data in {assembly.deployment.data_dir})")
    for name, parts in report.items():
        click.echo(f"  {name}")
        for what, values in parts.items():
            click.echo(f"    {what}: {', '.join(values)}")


def _report(assembly: Assembly) -> dict[str, dict[str, list[str]]]:
    report: dict[str, dict[str, list[str]]] = {name: {} for name in assembly.plugins}
    for call in assembly.calls:
        if shown := call.names:
            report[call.plugin].setdefault(_WORDS.get(call.hook, call.hook.replace("_", " ")), []).extend(shown)
    return report
