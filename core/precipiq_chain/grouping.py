"""Group commit, whatever the database: appends that share a transaction, sealed one after the other on known heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from precipiq_chain.chain_format import head_of
from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import Appended, Seal
from precipiq_contracts.errors import InternalError, ValidationFailed


@dataclass(frozen=True, slots=True)
class AppendJob:
    """One append. ``erased_seq``: the entry whose payload goes once this append's entry is there."""

    chain: Chain
    drafts: Sequence[PreparedDraft]
    seal: Seal
    erased_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """What is known of the chains as the group goes on. ``new``: what is to be stored."""

    heads: dict[Chain, Head]
    known: dict[tuple[Chain, str], Entry]
    new: list[Entry] = field(default_factory=list)


def wanted_keys(jobs: Sequence[AppendJob]) -> list[tuple[Chain, str]]:
    """The idempotency keys of all drafts, each once."""
    return list(
        dict.fromkeys(
            (job.chain, draft.idempotency_key)
            for job in jobs
            for draft in job.drafts
            if draft.idempotency_key is not None
        )
    )


def seal_job(group: Group, job: AppendJob) -> Appended | Exception:
    """Seal what is new of one append, if anything. What its ``seal`` raises is its result, and leaves nothing."""
    created: list[bool] = []
    seen: set[str] = set()
    for draft in job.drafts:
        key = draft.idempotency_key
        created.append(key is None or ((job.chain, key) not in group.known and key not in seen))
        if key is not None:
            seen.add(key)
    new = [draft for draft, is_new in zip(job.drafts, created, strict=True) if is_new]
    try:
        sealed = list(job.seal(group.heads.get(job.chain), new))
        if len(sealed) != len(new):
            raise InternalError("a seal must give one entry for each draft")
    except Exception as error:  # noqa: BLE001  (whatever a seal raises is its caller's)
        return error
    if sealed:
        group.heads[job.chain] = head_of(sealed[-1])
        group.new.extend(sealed)
    rest = iter(sealed)
    entries: list[Entry] = []
    for draft, is_new in zip(job.drafts, created, strict=True):
        key = draft.idempotency_key
        entries.append(next(rest) if is_new or key is None else group.known[job.chain, key])
        if key is not None:
            group.known[job.chain, key] = entries[-1]
    return Appended(tuple(entries), tuple(created))


def idempotency_check(key: str, entry_hash: str) -> str:
    """What is stored beside a key, so that an altered key is found: it binds the key to its entry."""
    return sha256(f"{key}\n{entry_hash}".encode()).hexdigest()


def check_storable(chain: Chain, drafts: Sequence[PreparedDraft]) -> None:
    """Raises ``ValidationFailed`` for a name or key that a database's text cannot hold."""
    for text in (chain.org_id, *(draft.idempotency_key for draft in drafts)):
        if text is not None and ("\0" in text or not _is_unicode(text)):
            raise ValidationFailed("an idempotency key holds a character that cannot be stored (NUL or half a pair)")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
