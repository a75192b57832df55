"""Options that commands of several plugins share."""

from __future__ import annotations

from collections.abc import Callable

import click

json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")


def chain_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--org`` and ``--env``: which chain; parameters ``org_id`` and ``environment``."""
    command = click.option("--env", "environment", type=click.Choice(["live", "test"]), required=True)(command)
    return click.option("--org", "org_id", required=True, help="the organisation's id")(command)
