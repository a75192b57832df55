"""The decisions of an append, for any store: the new drafts and the answer. On top of them, group commit."""

from __future__ import annotations

from collections.abc import Container, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from precipiq_chain.chain_format import head_of
from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import Appended, Seal
from precipiq_contracts.errors import InternalError, ValidationFailed


@dataclass(frozen=True, slots=True)
class AppendJob:
    """One append. ``erased_seq``: the entry whose payload is erased once this append's entry is stored."""

    chain: Chain
    drafts: Sequence[PreparedDraft]
    seal: Seal
    erased_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The state of the chains while the group is sealed. ``new``: the entries to store."""

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
    """Seal the new drafts of one append. An exception of its ``seal`` is its result, and changes nothing."""
    places = wanted_keys([job])
    known = {place[1]: group.known[place] for place in places if place in group.known}
    new = new_drafts(job.drafts, known)
    try:
        sealed = list(job.seal(group.heads.get(job.chain), new))
        if len(sealed) != len(new):
            raise InternalError("a seal must give one entry for each draft")
    except Exception as error:  # noqa: BLE001  (an error of a seal belongs to its caller)
        return error
    if sealed:
        group.heads[job.chain] = head_of(sealed[-1])
        group.new.extend(sealed)
    appended = answer(job.drafts, sealed, known)
    group.known.update({(job.chain, key): entry for key, entry in known.items()})
    return appended


def new_drafts(drafts: Sequence[PreparedDraft], known: Container[str]) -> list[PreparedDraft]:
    """The drafts to seal: a key that occurs twice in an append is known the second time."""
    new: list[PreparedDraft] = []
    seen: set[str] = set()
    for draft in drafts:
        key = draft.idempotency_key
        if key is None or (key not in known and key not in seen):
            new.append(draft)
        if key is not None:
            seen.add(key)
    return new


def answer(drafts: Sequence[PreparedDraft], sealed: Iterable[Entry], known: MutableMapping[str, Entry]) -> Appended:
    """An append's result: in the drafts' order, the stored entry of each known key, and the next of ``sealed`` else.

    ``known``: the stored entries by key; the sealed ones that have keys are added.
    """
    rest = iter(sealed)
    entries: list[Entry] = []
    created: list[bool] = []
    for draft in drafts:
        key = draft.idempotency_key
        stored = None if key is None else known.get(key)
        created.append(stored is None)
        entries.append(next(rest) if stored is None else stored)
        if key is not None:
            known[key] = entries[-1]
    return Appended(tuple(entries), tuple(created))


def idempotency_check(key: str, entry_hash: str) -> str:
    """The hash stored beside a key: it binds the key to its entry, so that verification finds an altered key."""
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
