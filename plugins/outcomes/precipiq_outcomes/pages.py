"""A batch of a chain as the projection takes it: statements first, payloads only of the links, for their notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import orjson

from precipiq_chain.chain_format import (
    STATEMENT_KEYS,
    VERSION,
    Statement,
    parse_json,
    parse_statement,
    split_payload,
    statement_kind,
)
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.ledger import Ledger
from precipiq_core.entry_pages import read_page
from precipiq_outcomes import kinds
from precipiq_outcomes.fold import Decided, Group, group_of
from precipiq_outcomes.liability import LOW_CONFIDENCE

_FOLDED = frozenset(
    (
        kinds.LINK,
        kinds.LINK_CONFIRMED,
        kinds.LINK_REJECTED,
        kinds.LINK_DELETED,
        kinds.LIABILITY_ESTIMATE,
        kinds.REDACTION,
    )
)
_GROUPS_KEPT_MAX = 10_000
_LINKS_AT_ONCE = 200


@runtime_checkable
class StatementReader(Protocol):
    """A ``Ledger`` that reads statements without payloads."""

    async def statements(
        self, chain: Chain, after_seq: int, limit: int, bytes_max: int
    ) -> tuple[Sequence[bytes], int]: ...


async def read_statements(
    ledger: Ledger, chain: Chain, after_seq: int, limit: int, bytes_max: int
) -> tuple[Sequence[bytes], int]:
    """Up to ``limit`` statements with seq > ``after_seq``, in order, of about ``bytes_max``; and the last one's seq."""
    if isinstance(ledger, StatementReader):
        return await ledger.statements(chain, after_seq, limit, bytes_max)
    entries, _ = await read_page(partial(ledger.read, chain), after_seq, limit, bytes_max)
    return [entry.statement for entry in entries], entries[-1].seq if entries else after_seq


async def read_notes(ledger: Ledger, chain: Chain, links: Sequence[Statement]) -> Mapping[int, str | Exception | None]:
    """The notes of these links by their seqs; an exception where the payload is not as a server writes it."""
    notes: dict[int, str | Exception | None] = {}
    for start in range(0, len(links), _LINKS_AT_ONCE):
        some = links[start : start + _LINKS_AT_ONCE]
        for entry in await ledger.read(chain, some[0].seq - 1, len(some), kinds.LINK):
            try:
                notes[entry.seq] = notes_in(entry)
            except Exception as error:  # noqa: BLE001  (one entry must not end the sums of its chain)
                notes[entry.seq] = error
    return notes


def notes_in(entry: Entry) -> str | None:
    """The notes of a link; None when they were erased."""
    if entry.payload is None:
        return None
    payload = parse_json(split_payload(entry.payload)[0])
    notes = payload.get("notes") if isinstance(payload, dict) else None
    return notes if isinstance(notes, str) else None


@dataclass
class Page:
    """A batch, parsed. ``statements``: of what links and estimates say, by seq. ``unread``: what cannot be parsed."""

    decisions: list[Decided] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    unread: list[tuple[int, Exception]] = field(default_factory=list)


class PageParser:
    """Parses batches, in any thread. Remembers the groups of decisions that it met, up to a number."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, bool, bool], tuple[str, Group]] = {}

    def parse(self, statements: Sequence[bytes], last_seq: int) -> Page:
        """The page of these statements, of which the last has that seq."""
        page = Page()
        for index, statement in enumerate(statements):
            try:
                kind = statement_kind(statement)
                if kind == kinds.DECISION:
                    page.decisions.append(self._decided(statement))
                elif kind in _FOLDED:
                    page.statements.append(_within(parse_statement(statement), last_seq))
            except Exception as error:  # noqa: BLE001  (only an intruder can have written it; the others count)
                page.unread.append((last_seq - len(statements) + 1 + index, error))
        page.statements.sort(key=lambda statement: statement.seq)
        return page

    def _decided(self, statement: bytes) -> Decided:
        """Reads by itself what every server writes; leaves anything else to the strict reading of all statements."""
        fields = orjson.loads(statement)
        if not isinstance(fields, dict) or fields.keys() != STATEMENT_KEYS or fields["v"] != VERSION:
            raise ValueError("not a statement of chain version 1")
        body = fields["body"]
        agent_id, action_type, confidence = body["agent_id"], body["action_type"], body["confidence"]
        if type(agent_id) is str and type(action_type) is str and type(confidence) in (float, int):
            key = agent_id, action_type, confidence < LOW_CONFIDENCE, body["human_in_loop"] is True
        else:
            key = group_of(parse_statement(statement).body)
        known = self._groups.get(key)
        if known is None:
            if len(self._groups) >= _GROUPS_KEPT_MAX:
                self._groups.clear()
            group = Group(*key)
            known = self._groups[key] = (group.group_id, group)
        return Decided(parse_timestamp(fields["timestamp"]), *known)


def _within(statement: Statement, last_seq: int) -> Statement:
    if type(statement.seq) is not int or not 0 < statement.seq <= last_seq:
        raise ValueError("the statement names another place in the chain")
    return statement
