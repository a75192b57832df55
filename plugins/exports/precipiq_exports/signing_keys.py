"""The keys that sign a chain's evidence: made, announced in the chain, replaced, published. Knows no HTTP.

A key belongs to one organisation and environment. Its private half is stored wrapped, is plain in the signing process
alone, and is forgotten when the key is replaced; its public half stays published for ever.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from precipiq_contracts.chain import SYSTEM, Chain, Draft
from precipiq_contracts.clock import Clock, Randomness, format_moment, format_timestamp, uuid7
from precipiq_contracts.errors import IdempotencyConflict, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_exports.errors import KeyUnanchored
from precipiq_exports.kinds import KEY_CREATED, KEY_ROTATED
from precipiq_exports.rotation_limit import RotationLimit
from precipiq_exports.signer import Signer, fingerprint, public_key_pem
from precipiq_exports.signing_key_store import SigningKey, SigningKeyStore, context_of
from precipiq_exports.signing_key_trust import AnnouncedKeys, SigningKeyTrust

ALGORITHM = "RSA-2048 PKCS#1 v1.5 SHA-256"

_ATTEMPTS = range(5)

log = structlog.get_logger("precipiq.exports")


class SigningKeys:
    """The operations on signing keys."""

    def __init__(
        self,
        store: SigningKeyStore,
        trust: SigningKeyTrust,
        signer: Signer,
        ledger: Ledger,
        clock: Clock,
        randomness: Randomness,
        rotations: RotationLimit | None = None,
    ) -> None:
        """``rotations``: None where the operator alone rotates."""
        self._store = store
        self._trust = trust
        self._signer = signer
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._rotations = rotations

    async def current(self, chain: Chain) -> SigningKey:
        """The chain's key; makes a missing key, and announces it in the chain.

        Raises ``Unavailable`` when the vault or the ledger cannot be reached, and ``KeyUnanchored``.
        """
        for _ in _ATTEMPTS:
            said = await self._trust.said(chain)  # before the row, which changes before its entry is sealed
            key = await self._store.active(chain)
            if key is None and said.current is None:
                await self._store.add(await self._generate(chain, None))  # another process may have been first
                continue
            if key is not None and await self._trust.is_ours(key):
                if (found := _as_announced(key, said)) is not None:
                    return found
                if said.awaits(key):
                    return await self._announce(key)
            if said == await self._trust.said(chain):
                raise KeyUnanchored(await self._why_not(key, said))
        raise Unavailable("the signing key was replaced meanwhile; try again")

    async def rotate(self, chain: Chain, actor: str) -> SigningKey:
        """Replace the chain's key by a new one, and forget the old private half.

        A key whose row is gone, or retired by somebody else, is replaced too. Raises as :meth:`current`, and
        ``RateLimited`` while the chain rotates or when it did too often: before a key is made, which costs most.
        """
        if self._rotations is None:
            return await self._rotate(chain, actor)
        with self._rotations.admit(chain):
            return await self._rotate(chain, actor)

    async def _rotate(self, chain: Chain, actor: str) -> SigningKey:
        said = await self._trust.said(chain)
        if said.current is not None and await self._store.active(chain) is None:
            new = await self._generate(chain, said.current)
            is_stored = await self._store.add(new)
        else:
            old = await self.current(chain)
            new = await self._generate(chain, old.key_id)
            is_stored = await self._store.rotate(old, new)
        if not is_stored:
            raise Unavailable("the signing key was replaced meanwhile; try again")
        return await self._announce(new, actor)

    async def sign(self, key: SigningKey, digest: bytes) -> bytes:
        """The signature (256 bytes) over a SHA-256 digest. Raises ``VaultRefused`` and ``Unavailable``."""
        assert key.wrapped is not None
        return await self._signer.sign(key.wrapped, key.context, digest)

    async def of_chain(self, chain: Chain) -> list[SigningKey]:
        """The keys of that chain that it announces, newest first, retired ones included."""
        return await self._trust.published(await self._store.of_chain(chain))

    async def of_organisation(self, org_id: str) -> list[SigningKey]:
        """The keys of that organisation that its chains announce, newest first: they are public."""
        return await self._trust.published(await self._store.of_organisation(org_id))

    async def _generate(self, chain: Chain, replaces: str | None) -> SigningKey:
        now_us = self._clock.now_us()
        key_id = f"sk_{uuid7(now_us, self._randomness.bytes(10)).replace('-', '')}"
        public_key, wrapped = await self._signer.generate(context_of(chain, key_id))
        return SigningKey(key_id, chain, public_key, wrapped, now_us, None, replaces, None)

    async def _announce(self, key: SigningKey, actor: str = SYSTEM) -> SigningKey:
        """Announce a key whose row is this deployment's and which the chain awaits."""
        body: dict[str, object] = {
            "key_id": key.key_id,
            "algorithm": ALGORITHM,
            "fingerprint": fingerprint(key.public_key),
        }
        kind = KEY_CREATED
        if key.replaces is not None:
            replaced = (await self._trust.said(key.chain)).by_id.get(key.replaces)
            kind = KEY_ROTATED
            body["replaced_key_id"] = key.replaces
            body["replaced_fingerprint"] = None if replaced is None else replaced.fingerprint
        draft = Draft(kind, actor, body, None, f"exports:signing_key:{key.key_id}")
        try:
            seq = (await self._ledger.append(key.chain, [draft])).entries[0].seq
        except IdempotencyConflict:  # another process announced it meanwhile, in another's name
            found = _as_announced(key, await self._trust.said(key.chain))
            if found is None:
                raise
            return found
        await self._store.note_announced(key, seq)
        log.info(
            "signing key announced",
            org_id=key.chain.org_id,
            environment=key.chain.environment,
            key_id=key.key_id,
            fingerprint=body["fingerprint"],
            seq=seq,
        )
        return replace(key, announced_seq=seq)

    async def _why_not(self, key: SigningKey | None, said: AnnouncedKeys) -> str:
        if key is None:
            return f"the chain announces {said.current}, and it has no row that may sign: rotate the signing key"
        problem = await self._trust.report(key, said)
        return f"the signing key {key.key_id} does not count: {problem}; see the server's log"


def _as_announced(key: SigningKey, said: AnnouncedKeys) -> SigningKey | None:
    """The key as the chain announces it, if it is the current one."""
    announced = said.by_id.get(key.key_id)
    if key.key_id != said.current or announced is None or announced.fingerprint != fingerprint(key.public_key):
        return None
    return replace(key, announced_seq=announced.seq)


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
