"""``precipiq check``: boot everything, open nothing."""

from __future__ import annotations

import json

import click

from precipiq_contracts.errors import DeploymentError
from precipiq_core.app import Application
from precipiq_core.boot import Assembly
from precipiq_core.cli.context import assemble_for_command, deployment_of
from precipiq_core.cli.options import json_option
from precipiq_core.cli.outcome import EXIT_NO, say_problems


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

    def add(owner: str, what: str, value: str) -> None:
        report[owner].setdefault(what, []).append(value)

    for capability, owner in assembly.services.owners.items():
        if owner in report:
            add(owner, "provides", capability.__name__)
    for kind in assembly.kinds:
        add(kind.owner, "entry kinds", kind.value.name)
    for driver in assembly.drivers:
        add(driver.owner, "entry store drivers", driver.value.name)
    for endpoint in assembly.endpoints:
        add(endpoint.owner, "routes", f"{endpoint.value.method} {endpoint.value.path}")
    for page in assembly.plain_endpoints:
        add(page.owner, "routes", f"{page.value.method} {page.value.path}")
    for websocket in assembly.websocket_endpoints:
        add(websocket.owner, "routes", f"WS {websocket.value.path}")
    for layer in assembly.middleware:
        add(layer.owner, "middleware", layer.value.layer)
    for authenticator in assembly.authenticators:
        add(authenticator.owner, "authenticators", type(authenticator.value).__name__)
    for migration in assembly.migrations:
        add(migration.owner, "tables", ", ".join(migration.value.tenant_tables))
    for command in assembly.commands:
        add(command.owner, "commands", command.value.name or "")
    for secret in assembly.secret_names:
        add(secret.owner, "secret names", secret.value)
    for wrapped in assembly.wrapped_secrets:
        add(wrapped.owner, "wrapped secrets", wrapped.value.name)
    for follower in assembly.followers:
        add(follower.owner, "followers", follower.value.name)
    return report
