"""The columns beside a statement in PostgreSQL's table of entries, by which entries are queried."""

from __future__ import annotations

from typing import Any

import orjson

from precipiq_chain.chain_format import parse_json
from precipiq_postgres.entries.schema import TEXT_COLUMN_CHARACTERS_MAX


def indexed_columns(statement: bytes) -> tuple[str, str, str | None, str | None, int | None]:
    """Id, kind, agent_id, action_type and redacts_seq as they stand beside that statement."""
    fields: Any = parse_json(statement)
    body = fields["body"]
    target = body.get("target_seq")
    return (
        fields["id"],
        column_text(fields["kind"]) or "",
        column_text(body.get("agent_id")),
        column_text(body.get("action_type")),
        target if isinstance(target, int) and not isinstance(target, bool) and 0 < target < 2**63 else None,
    )


def column_text(value: object) -> str | None:
    """That value in a text column: the inside of its JSON string, cut; None for anything but a string."""
    if not isinstance(value, str):
        return None
    return orjson.dumps(value)[1:-1].decode()[:TEXT_COLUMN_CHARACTERS_MAX]


def stands_beside(statement: bytes, stored: tuple[str, str, str | None, str | None, int | None]) -> bool:
    """Whether these columns are those of the statement, without parsing it when it is an ordinary decision.

    In canonical JSON a quote inside a string is escaped, so the first ``,"body":{`` and the last ``,"id":"`` are the
    statement's own; keys are sorted, so what follows them is known. A stored text with a quote or a backslash could
    reach past the end of the statement's own text, or end before it, so it is compared with the parsed one.
    """
    entry_id, kind, agent_id, action_type, redacts_seq = stored
    if (
        kind == "decision" and agent_id and action_type and redacts_seq is None
        and not any(mark in text for text in (agent_id, action_type) for mark in ('"', "\\"))
        and b'"target_seq":' not in statement
    ):  # fmt: skip
        body = statement.find(b',"body":{')
        named = f',"body":{{"action_type":"{action_type}","agent_id":"{agent_id}",'.encode()
        identified = f',"id":"{entry_id}","kind":"decision","org_id":"'.encode()
        if statement.startswith(named, body) and statement.startswith(identified, statement.rfind(b',"id":"')):
            return True
    return stored == indexed_columns(statement)
