"""The first start of a deployment with that setting: makes an organisation and a test key, and shows their use once."""

from __future__ import annotations

from precipiq_auth_keys.service import KeyService
from precipiq_contracts.auth import SCOPES
from precipiq_contracts.chain import SYSTEM
from precipiq_contracts.deployment import Console, DeploymentInfo

_WELCOME = """
First start: organisation {org_id} ({name}) and a test key were made.

  key   {key}
  data  {data_dir}

The key is shown this once and stored nowhere. Record a decision:

  curl -sS {url}/api/v1/decisions -H 'X-Precipiq-Key: {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"agent_id":"pricing-bot","action_type":"discount_offer","confidence":0.82,
         "inputs":{{"tier":"gold"}},"outputs":{{"discount_pct":15}}}}'

The same in Python (pip install precipiq):

  from precipiq import Precipiq
  pq = Precipiq(api_key="{key}", base_url="{url}", enable_batching=False)
  receipt = pq.log_decision(agent_id="pricing-bot", action_type="discount_offer",
                            inputs={{"tier": "gold"}}, outputs={{"discount_pct": 15}}, confidence=0.82)
  print(receipt["decision_id"], receipt["hash"])
"""


async def first_start(service: KeyService, info: DeploymentInfo, console: Console, name: str) -> None:
    """Make the organisation and its key, unless an organisation exists. Of several processes, one makes them."""
    organisation = await service.create_first_organisation(name)
    if organisation is None:
        return
    new = await service.create_key(organisation.org_id, "test", SCOPES, None, SYSTEM)
    console.say(
        _WELCOME.format(
            org_id=organisation.org_id, name=name, key=new.secret, data_dir=info.data_dir, url=info.public_url
        )
    )
