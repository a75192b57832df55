"""The keys that sign a chain's evidence: made, announced in the chain, replaced, published. Knows no HTTP.

A key belongs to one organisation and environment. Its private half is stored wrapped, is plain in the signing process
alone, and is forgotten when the key is replaced; its public half stays published for ever.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from precipiq_contracts.chain import SYSTEM, Chain, Draft
from precipiq_contracts.clock import Clock, Randomness, format_moment, format_timestamp, uuid7
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_exports.kinds import KEY_CREATED, KEY_ROTATED
from precipiq_exports.signer import Signer, fingerprint, public_key_pem
from precipiq_exports.signing_key_store import SigningKey, SigningKeyStore, context_of

ALGORITHM = "RSA-2048 PKCS#1 v1.5 SHA-256"

log = structlog.get_logger("precipiq.exports")


class SigningKeys:
    """The operations on signing keys."""

    def __init__(
        self, store: SigningKeyStore, signer: Signer, ledger: Ledger, clock: Clock, randomness: Randomness
    ) -> None:
        self._store = store
        self._signer = signer
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness

    async def current(self, chain: Chain) -> SigningKey:
        """The chain's key; makes a missing key, and announces it in the chain.

        Raises ``Unavailable`` when the vault or the ledger cannot be reached.
        """
        key = await self._store.active(chain)
        if key is None:
            await self._store.add(await self._generate(chain, None))
            key = await self._store.active(chain)  # another process may have been first
        if key is None:
            raise Unavailable("the signing key was replaced meanwhile; try again")
        return await self._announce(key)

    async def rotate(self, chain: Chain, actor: str) -> SigningKey:
        """Replace the chain's key by a new one, and forget the old private half. Raises as :meth:`current`."""
        old = await self.current(chain)
        new = await self._generate(chain, old.key_id)
        if not await self._store.rotate(old, new):
            raise Unavailable("the signing key was replaced meanwhile; try again")
        return await self._announce(new, actor)

    async def sign(self, key: SigningKey, digest: bytes) -> bytes:
        """The signature (256 bytes) over a SHA-256 digest. Raises ``VaultRefused`` and ``Unavailable``."""
        assert key.wrapped is not None
        return await self._signer.sign(key.wrapped, key.context, digest)

    async def of_chain(self, chain: Chain) -> list[SigningKey]:
        """All keys of that chain, newest first, retired ones included."""
        return await self._store.of_chain(chain)

    async def of_organisation(self, org_id: str) -> list[SigningKey]:
        """All keys of that organisation, newest first: they are public."""
        return await self._store.of_organisation(org_id)

    async def _generate(self, chain: Chain, replaces: str | None) -> SigningKey:
        now_us = self._clock.now_us()
        key_id = f"sk_{uuid7(now_us, self._randomness.bytes(10)).replace('-', '')}"
        public_key, wrapped = await self._signer.generate(context_of(chain, key_id))
        return SigningKey(key_id, chain, public_key, wrapped, now_us, None, replaces, None)

    async def _announce(self, key: SigningKey, actor: str = SYSTEM) -> SigningKey:
        if key.announced_seq is not None:
            return key
        body: dict[str, object] = {
            "key_id": key.key_id,
            "algorithm": ALGORITHM,
            "fingerprint": fingerprint(key.public_key),
        }
        kind = KEY_CREATED
        if key.replaces is not None:
            replaced = await self._store.get(key.chain, key.replaces)
            kind = KEY_ROTATED
            body["replaced_key_id"] = key.replaces
            body["replaced_fingerprint"] = None if replaced is None else fingerprint(replaced.public_key)
        draft = Draft(kind, actor, body, None, f"exports:signing_key:{key.key_id}")
        entry = (await self._ledger.append(key.chain, [draft])).entries[0]
        await self._store.note_announced(key, entry.seq)
        log.info(
            "signing key announced",
            org_id=key.chain.org_id,
            environment=key.chain.environment,
            key_id=key.key_id,
            fingerprint=body["fingerprint"],
            seq=entry.seq,
        )
        return replace(key, announced_seq=entry.seq)


def key_record(key: SigningKey) -> dict[str, object]:
    """A key as it is published, in the contract's shape. ``announced_seq``: the entry of the chain that names it."""
    return {
        "key_id": key.key_id,
        "environment": key.chain.environment,
        "algorithm": ALGORITHM,
        "fingerprint": fingerprint(key.public_key),
        "public_key_pem": public_key_pem(key.public_key),
        "created_at": format_timestamp(key.created_us),
        "retired_at": format_moment(key.retired_us),
        "announced_seq": key.announced_seq,
    }
