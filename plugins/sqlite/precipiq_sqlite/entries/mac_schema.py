"""The table of entries on SQLite, version 2: the sealer's MAC beside each entry; NULL where an older version sealed."""

from __future__ import annotations

from precipiq_sqlite.entries import schema

ENTRIES_TABLE = f"{schema.ENTRIES_TABLE.removesuffix(')')}, mac TEXT)"
"""As SQLite keeps the definition of the altered table."""

STATEMENTS = (
    "ALTER TABLE entries ADD COLUMN mac TEXT",
    "DROP TRIGGER entries_are_never_changed",
    """\
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
WHEN NOT (
    NEW.payload IS NULL AND OLD.payload IS NOT NULL AND NEW.rowid IS OLD.rowid
    AND NEW.org_id IS OLD.org_id AND NEW.environment IS OLD.environment AND NEW.seq IS OLD.seq
    AND NEW.statement IS OLD.statement AND NEW.hash IS OLD.hash AND NEW.mac IS OLD.mac
    AND NEW.idempotency_key IS OLD.idempotency_key AND NEW.idempotency_check IS OLD.idempotency_check
    AND EXISTS (
        SELECT 1 FROM entries AS redaction
        WHERE redaction.kind = 'redaction' AND redaction.redacts_seq = OLD.seq
        AND redaction.org_id = OLD.org_id AND redaction.environment = OLD.environment
        AND json_extract(redaction.statement, '$.body.target_hash') = OLD.hash
    )
)
BEGIN
    SELECT RAISE(ABORT, 'entries are never changed; a payload goes only after its redaction entry');
END""",
)
