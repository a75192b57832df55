"""The table of entries on SQLite, version 1: what the migration makes and what an audit expects to find.

``statement``, ``payload`` and ``hash`` are the truth. What is queried is generated from the statement when it is read,
so it cannot differ from what was hashed. There is no INTEGER PRIMARY KEY: rows lie in the order in which they came.
"""

from __future__ import annotations

ENTRIES_TABLE = """\
CREATE TABLE entries (
    org_id             TEXT NOT NULL,
    environment        TEXT NOT NULL,
    seq                INTEGER NOT NULL,
    statement          TEXT NOT NULL,
    payload            TEXT,
    hash               TEXT NOT NULL,
    idempotency_key    TEXT,
    idempotency_check  TEXT,
    id           GENERATED ALWAYS AS (json_extract(statement, '$.id')) VIRTUAL,
    kind         GENERATED ALWAYS AS (json_extract(statement, '$.kind')) VIRTUAL,
    agent_id     GENERATED ALWAYS AS (json_extract(statement, '$.body.agent_id')) VIRTUAL,
    action_type  GENERATED ALWAYS AS (json_extract(statement, '$.body.action_type')) VIRTUAL,
    redacts_seq  GENERATED ALWAYS AS (json_extract(statement, '$.body.target_seq')) VIRTUAL
)"""

INDEXES = (
    "CREATE UNIQUE INDEX entries_seq ON entries (org_id, environment, seq)",
    "CREATE UNIQUE INDEX entries_id ON entries (id)",
    "CREATE UNIQUE INDEX entries_idempotency_key ON entries (org_id, environment, idempotency_key) "
    "WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX entries_agent_id ON entries (agent_id, org_id, environment, seq, action_type)",
    "CREATE INDEX entries_action_type ON entries (action_type, org_id, environment, seq)",
    "CREATE INDEX entries_kind ON entries (kind, org_id, environment, seq) WHERE kind <> 'decision'",
    "CREATE INDEX entries_redacts_seq ON entries (redacts_seq, org_id, environment) WHERE kind = 'redaction'",
)

TRIGGERS = (
    """\
CREATE TRIGGER entries_are_dense BEFORE INSERT ON entries
WHEN NEW.seq IS NOT 1 + (
    SELECT coalesce(max(seq), 0) FROM entries WHERE org_id = NEW.org_id AND environment = NEW.environment
)
BEGIN
    SELECT RAISE(ABORT, 'an entry must follow the last one of its chain');
END""",
    """\
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
WHEN NOT (
    NEW.payload IS NULL AND OLD.payload IS NOT NULL AND NEW.rowid IS OLD.rowid
    AND NEW.org_id IS OLD.org_id AND NEW.environment IS OLD.environment AND NEW.seq IS OLD.seq
    AND NEW.statement IS OLD.statement AND NEW.hash IS OLD.hash
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
    """\
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'entries are never deleted');
END""",
)
