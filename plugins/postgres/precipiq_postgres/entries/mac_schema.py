"""The table of entries on PostgreSQL, version 2: the sealer's MAC beside each entry.

It is NULL where an older version sealed. Servers of that version go on with the function ``append_entries`` of
fourteen arguments until the upgrade's end.
"""

from __future__ import annotations

from precipiq_postgres.entries import schema

COLUMNS = {**schema.COLUMNS, "mac": "text C"}

_ARGUMENTS = "in_keys bytea[], in_checks text[]"
_COLUMNS = "hash, idempotency_key, idempotency_check\n"
_VALUES = "new.hash, new.key, new.check_\n"
_ARRAYS = "coalesce(in_checks, '{}'))"
_NAMES = "hash, key, check_, position"

APPEND_ENTRIES = (
    schema.APPEND_ENTRIES.replace(_ARGUMENTS, f"{_ARGUMENTS}, in_macs text[]")
    .replace(_COLUMNS, "hash, idempotency_key, idempotency_check, mac\n")
    .replace(_VALUES, "new.hash, new.key, new.check_, new.mac\n")
    .replace(_ARRAYS, "coalesce(in_checks, '{}'), in_macs)")
    .replace(_NAMES, "hash, key, check_, mac, position")
)
"""As that of version 1, with a MAC for each entry."""

STATEMENTS = (
    'ALTER TABLE entries ADD COLUMN mac text COLLATE "C"',
    APPEND_ENTRIES,
    """
CREATE OR REPLACE FUNCTION refuse_change_of_entry() RETURNS trigger
LANGUAGE plpgsql SET search_path = precipiq, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.payload IS NULL AND OLD.payload IS NOT NULL
            AND (NEW.org_id, NEW.environment, NEW.seq, NEW.statement, NEW.hash, NEW.idempotency_key,
                 NEW.idempotency_check, NEW.id, NEW.kind, NEW.agent_id, NEW.action_type, NEW.redacts_seq, NEW.mac)
                IS NOT DISTINCT FROM
                (OLD.org_id, OLD.environment, OLD.seq, OLD.statement, OLD.hash, OLD.idempotency_key,
                 OLD.idempotency_check, OLD.id, OLD.kind, OLD.agent_id, OLD.action_type, OLD.redacts_seq, OLD.mac)
            AND EXISTS (
                SELECT 1 FROM entries AS redaction
                WHERE redaction.org_id = OLD.org_id AND redaction.environment = OLD.environment
                AND redaction.redacts_seq = OLD.seq AND redaction.kind = 'redaction'
                AND convert_from(redaction.statement, 'UTF8')::json -> 'body' ->> 'target_hash' = OLD.hash
            )
        THEN
            RETURN NEW;
        END IF;
        RAISE 'entries are never changed; a payload goes only after its redaction entry';
    END IF;
    RAISE 'entries are never deleted';
END
$$
""",
)

DROP_APPEND_WITHOUT_MACS = """
DROP FUNCTION append_entries(
    text, text, bigint, text, uuid[], text[], text[], text[], bigint[], bytea[], bytea[], text[], bytea[], text[]
)
"""
