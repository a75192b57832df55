"""The words of the chain: chain, draft, entry, head, kind. Data only; bytes: ``precipiq_chain.chain_format``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Environment: TypeAlias = Literal["live", "test"]

ENVIRONMENTS: tuple[Environment, ...] = ("live", "test")

GENESIS_HASH = "0" * 64

SYSTEM = "system"
"""The actor of entries that no API key wrote."""

ADOPTION = "adoption"
"""The kind of the entry after a chain's entries from before the sealer's MAC; its body names the last of these."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The ordered entries of one (organisation, environment)."""

    org_id: str
    environment: Environment


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain. ``timestamp_us``: microseconds since the epoch; ``hash``: 64 hex digits."""

    seq: int
    hash: str
    timestamp_us: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it is sealed.

    ``body`` is permanent, ``payload`` may be erased. Both hold JSON values only. ``actor`` is the id of the API key
    that writes, or ``system``. ``idempotency_key`` is unique per chain: a known one returns the first entry.
    """

    kind: str
    actor: str
    body: Mapping[str, object]
    payload: Mapping[str, object] | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedDraft:
    """A draft made canonical, its payload salted and hashed, so that sealing under the chain's lock is short.

    ``body``: canonical bytes of the body. ``payload``: canonical bytes of ``{"payload": ..., "salt": ...}`` or None;
    ``payload_hash``: their SHA-256 in hex.
    """

    draft: Draft
    body: bytes
    payload: bytes | None
    payload_hash: str | None

    @property
    def idempotency_key(self) -> str | None:
        return self.draft.idempotency_key


@dataclass(frozen=True, slots=True)
class Entry:
    """A sealed item of a chain, byte for byte as it was hashed.

    ``statement``: canonical statement, UTF-8. ``hash``: its SHA-256 in hex. ``payload``: canonical payload and salt,
    None when the entry has none or it was erased. ``idempotency_key``: as in the draft; not part of the proof.
    ``mac``: the sealer's, 64 hex digits; None when an older version sealed the entry.
    """

    chain: Chain
    seq: int
    hash: str
    statement: bytes
    payload: bytes | None
    idempotency_key: str | None = None
    mac: str | None = None


Present: TypeAlias = Callable[[Chain, Sequence[Entry]], Awaitable[Sequence[bytes]]]
"""Turns entries of one kind and one chain into the JSON text by which the REST interface shows them, in their order.

The caller retries after ``Unavailable``; the content of an entry may cause no other exception.
"""


@dataclass(frozen=True, slots=True)
class EntryKind:
    """A kind of entry that a plugin registers. ``name``: ``[a-z][a-z0-9_]*``; ``summary``: one line for the docs.

    ``event``: the name of its event in streams and webhooks, such as ``decision.created``; default: the kind's name
    and ``.created``. ``present``: its REST shape; default: the raw entry, as ``GET /ledger/entries`` shows it.
    ``table``: the name of the file in exports that lists the entries of this kind beside the raw ones, such as
    ``decisions``; several kinds may share one. Default: exports hold them as raw entries only.
    """

    name: str
    summary: str
    body_fields: tuple[str, ...] = ()
    payload_fields: tuple[str, ...] = ()
    event: str | None = None
    present: Present | None = None
    table: str | None = None

    @property
    def event_name(self) -> str:
        return self.event or f"{self.name}.created"
