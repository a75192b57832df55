"""Whether an entry is one that a query asks for."""

from __future__ import annotations

from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import parse_json, parse_statement
from precipiq_contracts.chain import Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.entry_store import EntryQuery


def matches(query: EntryQuery, entry: Entry) -> bool:
    """All conditions hold. An erased entry has no metadata to match."""
    statement = parse_statement(entry.statement)
    time_us = parse_timestamp(statement.timestamp)
    return (
        statement.kind == query.kind
        and all(statement.body.get(name) == text for name, text in query.body.items())
        and (query.start_us is None or query.start_us <= time_us)
        and (query.end_us is None or time_us < query.end_us)
        and (not query.metadata or query.metadata.items() <= _metadata(entry).items())
    )


def _metadata(entry: Entry) -> dict[str, str]:
    whole = None if entry.payload is None else parse_json(entry.payload)
    payload = whole.get("payload") if isinstance(whole, dict) else None
    metadata = payload.get("metadata") if isinstance(payload, dict) else None
    if not isinstance(metadata, dict):
        return {}
    scalars = {key: value for key, value in metadata.items() if not isinstance(value, dict | list)}
    return {key: value if isinstance(value, str) else canonical(value).decode() for key, value in scalars.items()}
