"""The capability ``KeyVault`` over master keys in files. No master key ever reaches this process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import structlog
from prometheus_client import Gauge

from precipiq_contracts.background import Background
from precipiq_contracts.errors import PrecipiqError, VaultRefused
from precipiq_contracts.vault import Context
from precipiq_core.chain_columns import chain_of_context
from precipiq_vault_local.keys import KeyReport, LocalVaultAccess, key_id_in
from precipiq_work.child_process import ChildProcess

log = structlog.get_logger("precipiq.vault")


class LocalVault:
    """See ``precipiq_contracts.vault.KeyVault``. Organisations take turns; ``waiting_max``: calls that wait."""

    def __init__(self, access: LocalVaultAccess, *, waiting_max: int = 1_000) -> None:
        self._access = access
        self._process = ChildProcess(access, waiting_max=waiting_max)
        self._newest_key_id: bytes | None = None

    def access(self) -> LocalVaultAccess:
        """See ``KeyVault.access``."""
        return self._access

    async def wrap(self, secret: bytes, context: Context) -> bytes:
        """See ``KeyVault.wrap``."""
        return self._note_newest(await self._call("wrap", secret, context))

    async def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.unwrap``."""
        return bytes(await self._call("unwrap", wrapped, context))

    async def rewrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.rewrap``."""
        return self._note_newest(await self._call("rewrap", wrapped, context))

    def is_current(self, wrapped: bytes) -> bool:
        """See ``KeyVault.is_current``; False until :meth:`check` has succeeded, and for another vault's secrets."""
        try:
            return key_id_in(wrapped) == self._newest_key_id
        except VaultRefused:
            return False

    async def check(self) -> str:
        """See ``KeyVault.check``."""
        report: KeyReport = await self._process.call("check")
        self._newest_key_id = report.newest_key_id
        previous = [f"unwraps under {key_id.hex()} too" for key_id in report.previous_key_ids]
        return "; ".join(
            [f"vault_local wraps under the master key {report.newest_key_id.hex()}", *previous, *report.problems]
        )

    async def create_master_key(self, is_anything_wrapped: bool) -> bool:
        """Make an absent key file; gives whether this call made it. Raises ``Unavailable``."""
        return bool(await self._process.call("create", is_anything_wrapped))

    async def close(self) -> None:
        """End the process that holds the keys."""
        await self._process.close()

    async def _call(self, method: str, secret: bytes, context: Context) -> bytes:
        result: bytes = await self._process.call(method, secret, dict(context), chain=chain_of_context(context))
        return result

    def _note_newest(self, wrapped: bytes) -> bytes:
        self._newest_key_id = key_id_in(wrapped)
        return wrapped


class VaultWatch:
    """Tells the operator when the vault cannot serve, and when it can again. ``ready``: 1 or 0."""

    def __init__(self, vault: LocalVault, ready: Gauge, interval_s: float) -> None:
        self._vault = vault
        self._ready = ready
        self._interval_s = interval_s
        self._said: tuple[bool, str] | None = None

    async def look(self) -> None:
        """Check the vault once, and log a changed finding. Raises none of the vault's errors."""
        try:
            finding = True, await self._vault.check()
        except PrecipiqError as error:
            finding = False, error.message
        is_ready, text = finding
        self._ready.set(is_ready)
        if finding == self._said:
            return
        self._said = finding
        if is_ready:
            log.info("the vault can serve", detail=text)
        else:
            log.critical("the vault cannot serve: nothing can be wrapped or signed", reason=text)

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Look repeatedly while the context is entered."""
        return background(
            "vault_local.watch",
            self.look,
            every_s=self._interval_s,
            failing="the vault cannot be looked at",
            waits_first=True,
        )
