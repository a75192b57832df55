"""Compares the database's schema with the recorded one: who disarms a trigger or empties an index is noticed."""

from __future__ import annotations

from hashlib import sha256

import structlog

from precipiq_ledger.integrity import Integrity
from precipiq_schema.schema_state import GuardedDatabase, SchemaState

log = structlog.get_logger("precipiq.ledger")

SCHEMA_DRIFT = "SCHEMA_DRIFT"

_NAMED_MAX = 20


class SchemaWatch:
    """Looks at one database. The record is in the book of the sweep, so that a database cannot change it."""

    def __init__(self, database: GuardedDatabase, integrity: Integrity) -> None:
        self._database = database
        self._integrity = integrity
        self._revisions: frozenset[str] | None = None

    async def look(self) -> None:
        """Compare once; record the schema where none is recorded, or where migrations came before this start.

        A server does not start on revisions that it does not know, so those of its start are right.
        """
        now = _digest(await self._database.schema_state())
        is_first, started = self._revisions is None, self._revisions or now.revisions
        self._revisions = started
        book = self._integrity.book
        if now.revisions != started:
            return  # migrated while this server runs: the next start records it
        if book.schema is None or (is_first and book.schema.revisions != now.revisions):
            log.info("the guards of the schema are recorded", objects=len(now.guards) + len(now.indexes))
            book.schema = now
        drift = tuple(book.schema.drift(now))
        if drift == book.drift:
            return
        book.drift = drift
        self._integrity.changed.set()
        if drift:
            names = list(drift[:_NAMED_MAX])
            log.critical(
                "the schema was changed, and not by a migration", code=SCHEMA_DRIFT, objects=names, count=len(drift)
            )
        else:
            log.warning("the schema is as it was recorded again")


def _digest(state: SchemaState) -> SchemaState:
    """Each definition as its SHA-256: the record stays small."""
    guards, indexes = (
        {name: sha256(text.encode(errors="surrogatepass")).hexdigest() for name, text in each.items()}
        for each in (state.guards, state.indexes)
    )
    return SchemaState(state.revisions, guards, indexes)
