"""Whether an entry matches a query, by value: drivers narrow the candidates, this module decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from precipiq_chain.canonical import Json, canonical
from precipiq_chain.chain_format import parse_json, parse_statement, statement_parts
from precipiq_contracts.chain import Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.entry_store import EntryPage, EntryQuery

_NOT_A_STRING = re.compile(r"true|false|null|-?[0-9][0-9.eE+-]*")


def member_fragments(wanted: Mapping[str, str], *, with_scalars: bool) -> Iterator[list[str]]:
    """For each wanted member, the texts of which one must occur in canonical JSON that has it.

    Canonical JSON has one way to write a member; elsewhere in the JSON the text may occur as well. ``with_scalars``:
    the wanted text may also mean a number, true, false or null.
    """
    for name, text in wanted.items():
        fragments = [_member(name, text)]
        if with_scalars and _NOT_A_STRING.fullmatch(text):
            fragments.append(f"{canonical(name).decode()}:{text}")
        yield fragments


def matcher(query: EntryQuery) -> Callable[[Entry], bool]:
    """Compares all conditions but kind and time; made once for many entries."""
    members = [_member(name, text).encode() for name, text in query.body.items()]

    def is_match(entry: Entry) -> bool:
        return _has_members(entry.statement, query.body, members) and (
            not query.metadata or _has_metadata(entry, query.metadata)
        )

    return is_match


def meets(query: EntryQuery, entry: Entry) -> bool:
    """Whether the entry meets every condition, kind and time too: for drivers without an index of these."""
    statement = parse_statement(entry.statement)
    time_us = parse_timestamp(statement.timestamp)
    return (
        statement.kind == query.kind
        and (query.start_us is None or query.start_us <= time_us)
        and (query.end_us is None or time_us < query.end_us)
        and matcher(query)(entry)
    )


def page_of(found: Sequence[Entry], limit: int, first_seq: int) -> EntryPage:
    """The page of the found entries, newest first, where entries from ``first_seq`` on were looked at."""
    next_before_seq = found[-1].seq if len(found) == limit else first_seq
    return EntryPage(tuple(found), next_before_seq if next_before_seq > 1 else None)


def _has_members(statement: bytes, wanted: Mapping[str, str], members: Sequence[bytes]) -> bool:
    """In a canonical body without an object inside, a member is where its text is: no string holds a plain quote."""
    parts = statement_parts(statement) if wanted else None
    if parts is not None and parts.body.count(b"{") == 1:
        return all(b"{" + member in parts.body or b"," + member in parts.body for member in members)
    body = parse_statement(statement).body if wanted else {}
    return all(body.get(name) == value for name, value in wanted.items())


def _has_metadata(entry: Entry, wanted: Mapping[str, str]) -> bool:
    whole = parse_json(entry.payload) if entry.payload is not None else None
    payload = whole.get("payload") if isinstance(whole, dict) else None
    metadata = payload.get("metadata") if isinstance(payload, dict) else None
    return isinstance(metadata, dict) and all(
        name in metadata and _text(metadata[name]) == text for name, text in wanted.items()
    )


def _member(name: str, text: str) -> str:
    return f"{canonical(name).decode()}:{canonical(text).decode()}"


def _text(value: Json) -> str | None:
    if isinstance(value, str):
        return value
    return None if isinstance(value, dict | list) else canonical(value).decode()
