"""Erasing a payload over the interface: the request, the work and the answer that all kinds of entry share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictStr

from precipiq_chain.chain_format import parse_statement, statement_id, statement_timestamp
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.errors import Conflict
from precipiq_contracts.ledger import Ledger
from precipiq_core.http.endpoint import REPLAYED, Call, NoQuery, Reply
from precipiq_core.http.validation import RequestModel, no_nul


class RedactionIn(RequestModel):
    """Why a payload is erased. The reason stays in the chain permanently."""

    reason: Annotated[StrictStr, Field(min_length=1, max_length=1000), AfterValidator(no_nul)]


async def redact(ledger: Ledger, call: Call[RedactionIn, NoQuery], kind: str, id_name: str) -> Reply:
    """Erase the payload of the entry that the path names; the answer names it ``id_name``.

    With an ``Idempotency-Key``, a repeat of the request that erased it gets the first answer. Raises as
    ``Ledger.redact``.
    """
    entry_id, chain, actor, reason = call.path["id"], call.principal.chain, call.principal.key_id, call.body.reason
    headers: tuple[tuple[bytes, bytes], ...] = ()
    try:
        entry = await ledger.redact(chain, entry_id, kind, reason, actor)
    except Conflict:
        recorded = None if call.idempotency_key is None else await _redaction_of(ledger, chain, entry_id)
        if recorded is None or not _tells(recorded, actor, reason):
            raise
        entry, headers = recorded, (REPLAYED,)
    return Reply({**_record(entry), id_name: entry_id}, headers=headers)


async def _redaction_of(ledger: Ledger, chain: Chain, entry_id: str) -> Entry | None:
    target = await ledger.get(chain, entry_id)
    if target is None:
        return None
    redaction_id = (await ledger.redaction_ids(chain, [target.seq])).get(target.seq)
    return None if redaction_id is None else await ledger.get(chain, redaction_id)


def _tells(entry: Entry, actor: str, reason: str) -> bool:
    told = parse_statement(entry.statement)
    return (told.actor, told.body.get("reason")) == (actor, reason)


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "redaction_id": statement_id(entry.statement),
        "seq": entry.seq,
        "hash": entry.hash,
        "timestamp": statement_timestamp(entry.statement),
    }
