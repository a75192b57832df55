"""The first start of a deployment with that setting: makes an organisation and a test key, and shows their use once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from shlex import quote

import structlog

from precipiq_auth_keys.service import KeyService
from precipiq_contracts.auth import SCOPES
from precipiq_contracts.chain import SYSTEM
from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_core.key_files import make_folder, write_private

log = structlog.get_logger("precipiq.auth_keys")

_WELCOME = """
First start: organisation {org_id} ({name}) and a test key were made.

  key   {shown}
  data  {data_dir}

{where} Record a decision:

  curl -sS {url}/api/v1/decisions -H {header} \\
    -H 'Content-Type: application/json' \\
    -d '{{"agent_id":"pricing-bot","action_type":"discount_offer","confidence":0.82,
         "inputs":{{"tier":"gold"}},"outputs":{{"discount_pct":15}}}}'

The same in Python (pip install precipiq):

  from precipiq import Precipiq
  pq = Precipiq(api_key={value}, base_url="{url}", enable_batching=False)
  receipt = pq.log_decision(agent_id="pricing-bot", action_type="discount_offer",
                            inputs={{"tier": "gold"}}, outputs={{"discount_pct": 15}}, confidence=0.82)
  print(receipt["decision_id"], receipt["hash"])
"""

_ON_THE_TERMINAL = "The key is shown this once and stored nowhere."
_IN_A_FILE = "The file is readable for its owner alone; delete it once the key is kept elsewhere."


async def first_start(service: KeyService, info: DeploymentInfo, console: Console, name: str) -> None:
    """Make the organisation and its key, unless an organisation exists. Of several processes, one makes them.

    The key is shown on a terminal; where standard output is none, it goes to a private file whose path is shown.
    """
    organisation = await service.create_first_organisation(name)
    if organisation is None:
        return
    org_id = organisation.org_id
    new = await service.create_key(org_id, "test", SCOPES, None, SYSTEM)
    if console.is_terminal:
        words = {"shown": new.secret, "where": _ON_THE_TERMINAL, "value": f'"{new.secret}"'}
        words["header"] = f"'X-Precipiq-Key: {new.secret}'"
    else:
        try:
            path = await asyncio.to_thread(_write_key, info.data_dir, org_id, new.secret)
        except OSError as error:
            advice = f"make another: precipiq keys create --org {org_id} --env test"
            log.error("the first key cannot be written to a file", reason=error.strerror, advice=advice)
            return
        words = {"shown": f"in {path}", "where": _IN_A_FILE, "value": f"open({str(path)!r}).read().strip()"}
        words["header"] = f'"X-Precipiq-Key: $(cat {quote(str(path))})"'
    console.say(_WELCOME.format(org_id=org_id, name=name, data_dir=info.data_dir, url=info.public_url, **words))


def _write_key(data_dir: Path, org_id: str, secret: str) -> Path:
    """The path of the new file, which has another name where a first start before this one left its own."""
    make_folder(data_dir)
    path = data_dir / "first.key"
    try:
        write_private(path, secret + "\n")
    except FileExistsError:
        path = data_dir / f"first.{org_id}.key"
        write_private(path, secret + "\n")
    return path
