"""The edge: from the request's model to the service and back."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, StrictStr

from acme_plugin.service import Notes
from precipiq_chain.chain_format import parse_statement, split_payload
from precipiq_contracts.chain import Entry
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, NoQuery
from precipiq_core.http.validation import RequestModel


class NoteIn(RequestModel):
    """A note to write."""

    text: StrictStr


class NoteOut(BaseModel):
    """A note. ``text`` is null once it was erased."""

    id: str
    author: str
    text: str | None
    hash: str


class NoteList(BaseModel):
    """The oldest notes."""

    items: list[NoteOut]


class NoteRoutes:
    """Handlers; the docstring's first line is the summary in OpenAPI."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint("POST", "/acme/notes", self.write_note, "write", NoteOut, body=NoteIn, status=201),
            Endpoint("GET", "/acme/notes", self.list_notes, "read", NoteList),
        ]

    async def write_note(self, call: Call[NoteIn, NoQuery]) -> object:
        """Write a note."""
        principal = call.principal
        return _note(await self._notes.write(principal.chain, principal.key_id, call.body.text, call.idempotency_key))

    async def list_notes(self, call: Call[NoBody, NoQuery]) -> object:
        """List the oldest notes."""
        return {"items": [_note(entry) for entry in await self._notes.read(call.principal.chain, 50)]}


def _note(entry: Entry) -> dict[str, object]:
    statement = parse_statement(entry.statement)
    text = None if entry.payload is None else json.loads(split_payload(entry.payload)[0])["text"]
    return {"id": statement.id, "author": statement.body["author"], "text": text, "hash": entry.hash}
