"""Does in a process of its own what a server does with keys, and stands still after each step to be looked at.

Arguments: a folder for key files; a secret, in hex, that is to be found in this process's memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from hashlib import sha256
from pathlib import Path

from precipiq_contracts.secret_location import SecretLocation
from precipiq_contracts.settings import SecretReference
from precipiq_core.deployment import SecretSettings
from precipiq_core.secrets import DeploymentMasterKey
from precipiq_core.system import SystemRandomness
from precipiq_exports.signer import Signer
from precipiq_vault_local.keys import LocalVaultAccess
from precipiq_vault_local.service import LocalVault

CONTEXT = {"purpose": "export signing key", "org_id": "org_1", "environment": "test", "key_id": "sk_1"}
SIGNED = b"what is signed"


async def shown(**values: bytes) -> None:
    """Tell what came of a step, and go on when told to."""
    print(json.dumps({name: value.hex() for name, value in values.items()}), flush=True)
    assert await asyncio.to_thread(sys.stdin.readline)


async def main() -> None:
    folder, planted = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
    settings = SecretSettings(master_key=SecretReference(file=folder / "master.key"), create_master_key=True)
    derived = DeploymentMasterKey(settings, SystemRandomness()).derive("test")
    await shown(derived=derived)

    vault = LocalVault(LocalVaultAccess(SecretLocation(file=folder / "vault.key"), (), SystemRandomness()))
    await vault.create_master_key(is_anything_wrapped=False)
    await vault.check()
    await shown()

    signer = Signer(vault.access())
    public_key, wrapped = await signer.generate(CONTEXT)
    await shown(public_key=public_key, wrapped=wrapped)

    signature = await signer.sign(await vault.rewrap(wrapped, CONTEXT), CONTEXT, sha256(SIGNED).digest())
    await shown(signature=signature, planted=planted)
    await signer.close()
    await vault.close()


asyncio.run(main())
