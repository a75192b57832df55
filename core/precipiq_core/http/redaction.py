"""Erasing a payload over the interface: the request, and the part of the answer that all kinds of entry share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictStr

from precipiq_chain.chain_format import statement_id, statement_timestamp
from precipiq_contracts.chain import Entry
from precipiq_core.http.validation import RequestModel, no_nul


class RedactionIn(RequestModel):
    """Why a payload is erased. The reason stays in the chain permanently."""

    reason: Annotated[StrictStr, Field(min_length=1, max_length=1000), AfterValidator(no_nul)]


def redaction_record(entry: Entry) -> dict[str, Any]:
    """The redaction entry that took a payload's place."""
    return {
        "redaction_id": statement_id(entry.statement),
        "seq": entry.seq,
        "hash": entry.hash,
        "timestamp": statement_timestamp(entry.statement),
    }
