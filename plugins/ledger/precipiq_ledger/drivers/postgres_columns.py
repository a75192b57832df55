"""What stands beside a statement in PostgreSQL's table of entries, so that it can be queried."""

from __future__ import annotations

import orjson

from precipiq_ledger.drivers.postgres_schema import TEXT_COLUMN_CHARACTERS_MAX


def indexed_columns(statement: bytes) -> tuple[str, str, str | None, str | None, int | None]:
    """Id, kind, agent_id, action_type and redacts_seq as they stand beside that statement."""
    fields = orjson.loads(statement)
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
    """What stands for that value in a text column: the inside of its JSON string, cut; None for anything else."""
    if not isinstance(value, str):
        return None
    return orjson.dumps(value)[1:-1].decode()[:TEXT_COLUMN_CHARACTERS_MAX]
