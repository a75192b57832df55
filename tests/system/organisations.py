"""Many organisations at once, each with a key: a command for each would take a second and a half."""

from __future__ import annotations

import json

from precipiq_testkit.server import ServerProcess

MAKE_KEYS = """
import asyncio, json, os, sys
from pathlib import Path
from precipiq_auth_keys.service import KeyService
from precipiq_core.running import run_lifespans
from precipiq_core.cli.context import assemble_for_command
from precipiq_contracts.auth import SCOPES
from precipiq_core.deployment import load_deployment

async def main():
    deployment = load_deployment(Path(os.environ["PRECIPIQ_CONFIG"]), os.environ)
    assembly = assemble_for_command(deployment)
    async with run_lifespans(assembly):
        keys = assembly.services.get(KeyService)
        for number in range(int(sys.argv[1])):
            organisation = await keys.create_organisation(f"organisation {number}")
            new = await keys.create_key(organisation.org_id, "test", SCOPES, None, "system")
            print(json.dumps([organisation.org_id, new.secret]))

asyncio.run(main())
"""


def organisations(server: ServerProcess, count: int) -> list[tuple[str, str]]:
    """So many new organisations, each with a key for its environment `test`: ids and keys."""
    made = server.run_warm(str(count), script=MAKE_KEYS).stdout
    return [(org_id, key) for org_id, key in map(json.loads, made.splitlines())]
