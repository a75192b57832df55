"""The first start of a deployment with that setting: makes a master key, and tells the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from precipiq_contracts.deployment import Console
from precipiq_contracts.errors import PrecipiqError
from precipiq_contracts.vault import WrappedSecrets
from precipiq_vault_local.service import LocalVault

log = structlog.get_logger("precipiq.vault")

_CREATED = """
A master key for stored secrets was made: {path}

Whoever has it and the database can sign evidence; without it nobody can. Keep a copy apart from the database.
"""


async def first_start(vault: LocalVault, path: Path, holders: Iterable[WrappedSecrets], console: Console) -> None:
    """Make a key, unless there is one. Of several processes that start, one makes the key and tells the operator.

    Raises none of the vault's errors: the server starts without a key too, and each look logs that.
    """
    if await asyncio.to_thread(path.exists):
        return
    try:
        if await vault.create_master_key(await _is_anything_wrapped(holders)):
            console.say(_CREATED.format(path=path))
    except PrecipiqError as error:
        log.error("the vault's master key was not made", reason=error.message)


async def _is_anything_wrapped(holders: Iterable[WrappedSecrets]) -> bool:
    for holder in holders:
        async for _ in holder.all():
            return True
    return False
