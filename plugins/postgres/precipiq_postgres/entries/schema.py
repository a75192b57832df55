"""The table of entries on PostgreSQL, version 1: what the migration makes and what an audit expects to find.

``statement``, ``payload`` and ``hash`` are the truth, to the byte. What is queried stands beside them, written by the
driver from the statement and compared with it by every audit: columns that PostgreSQL generates from JSON would make an
append several times dearer. Text columns hold the JSON string's inside, cut to what an index takes.
"""

from __future__ import annotations

TEXT_COLUMN_CHARACTERS_MAX = 200

COLUMNS = {
    "org_id": "text C not null",
    "environment": "text C not null",
    "seq": "bigint not null",
    "statement": "bytea not null",
    "payload": "bytea",
    "hash": "text C not null",
    "idempotency_key": "bytea",
    "idempotency_check": "text C",
    "id": "uuid not null",
    "kind": "text C not null",
    "agent_id": "text C",
    "action_type": "text C",
    "redacts_seq": "bigint",
}

CHAINS_AFTER = """
WITH RECURSIVE chain AS (
    (SELECT org_id, environment FROM entries WHERE (org_id, environment) > ($1, $2)
     ORDER BY org_id, environment LIMIT 1)
    UNION ALL
    SELECT next.org_id, next.environment FROM chain CROSS JOIN LATERAL (
        SELECT entries.org_id, entries.environment FROM entries
        WHERE (entries.org_id, entries.environment) > (chain.org_id, chain.environment)
        ORDER BY entries.org_id, entries.environment LIMIT 1
    ) AS next
)
SELECT org_id, environment FROM chain LIMIT 500
"""
"""The next chains in order: steps from group to group along the primary key, past the rows in between."""

ENTRIES_TABLE = """
CREATE TABLE entries (
    org_id             text COLLATE "C" NOT NULL,
    environment        text COLLATE "C" NOT NULL,
    seq                bigint NOT NULL,
    statement          bytea NOT NULL,
    payload            bytea,
    hash               text COLLATE "C" NOT NULL,
    idempotency_key    bytea,
    idempotency_check  text COLLATE "C",
    id                 uuid NOT NULL,
    kind               text COLLATE "C" NOT NULL,
    agent_id           text COLLATE "C",
    action_type        text COLLATE "C",
    redacts_seq        bigint,
    PRIMARY KEY (org_id, environment, seq),
    CHECK (seq > 0)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)
"""
"""Dead rows come from erasures alone; with these settings the next round of autovacuum removes them."""

INDEXES = (
    "CREATE INDEX entries_agent_id ON entries (org_id, environment, agent_id, seq)",
    "CREATE INDEX entries_action_type ON entries (org_id, environment, action_type, seq)",
    "CREATE INDEX entries_kind ON entries (org_id, environment, kind, seq) WHERE kind <> 'decision'",
    "CREATE INDEX entries_redacts_seq ON entries (org_id, environment, redacts_seq) WHERE redacts_seq IS NOT NULL",
    "CREATE UNIQUE INDEX entries_id ON entries (org_id, environment, id)",
    "CREATE UNIQUE INDEX entries_idempotency_key ON entries (org_id, environment, sha256(idempotency_key)) "
    "WHERE idempotency_key IS NOT NULL",
)

LOCK_CHAIN = """
CREATE FUNCTION lock_chain(in_org_id text, in_environment text) RETURNS void
LANGUAGE sql SET search_path = precipiq, pg_temp
AS $$ SELECT pg_advisory_xact_lock(hashtextextended(in_environment || ' ' || in_org_id, 0)) $$
"""

APPEND_ENTRIES = """
CREATE FUNCTION append_entries(
    in_org_id text, in_environment text, in_head_seq bigint, in_head_hash text,
    in_ids uuid[], in_kinds text[], in_agent_ids text[], in_action_types text[], in_redacts_seqs bigint[],
    in_statements bytea[], in_payloads bytea[], in_hashes text[], in_keys bytea[], in_checks text[]
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = precipiq, pg_temp
AS $$
DECLARE
    last_seq bigint;
    last_hash text;
    violated text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'the head must be read after the lock: append in a transaction that is READ COMMITTED';
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM set_config('precipiq.org_id', in_org_id, true), set_config('precipiq.environment', in_environment, true);
    PERFORM lock_chain(in_org_id, in_environment);
    SELECT seq, hash INTO last_seq, last_hash FROM entries
    WHERE org_id = in_org_id AND environment = in_environment ORDER BY seq DESC LIMIT 1;
    IF coalesce(last_seq, 0) <> in_head_seq OR coalesce(last_hash, '') <> in_head_hash THEN
        RETURN 'moved';
    END IF;
    BEGIN
        INSERT INTO entries (
            org_id, environment, seq, id, kind, agent_id, action_type, redacts_seq,
            statement, payload, hash, idempotency_key, idempotency_check
        )
        SELECT in_org_id, in_environment, in_head_seq + new.position, new.id, new.kind, new.agent_id, new.action_type,
               new.redacts_seq, new.statement, new.payload, new.hash, new.key, new.check_
        FROM unnest(in_ids, in_kinds, in_agent_ids, in_action_types, in_redacts_seqs,
                    in_statements, in_payloads, in_hashes, coalesce(in_keys, '{}'), coalesce(in_checks, '{}'))
        WITH ORDINALITY AS new (
            id, kind, agent_id, action_type, redacts_seq, statement, payload, hash, key, check_, position
        );
    EXCEPTION WHEN unique_violation THEN
        GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
        IF violated = 'entries_idempotency_key' THEN
            RETURN 'known';
        END IF;
        RAISE;
    END;
    RETURN 'appended';
END
$$
"""
"""One call, one round trip: the tenant is set, the chain locked and its head compared; then the rows follow it.

Gives ``appended``, or what is in the way: ``moved`` (another head) or ``known`` (an idempotency key is taken).
"""

ERASE_PAYLOAD = """
CREATE FUNCTION erase_payload(in_org_id text, in_environment text, in_seq bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = precipiq, pg_temp
AS $$
    UPDATE entries SET payload = NULL
    WHERE org_id = in_org_id AND environment = in_environment AND seq = in_seq AND payload IS NOT NULL
$$
"""

TRIGGERS = (
    """
CREATE FUNCTION refuse_change_of_entry() RETURNS trigger
LANGUAGE plpgsql SET search_path = precipiq, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.payload IS NULL AND OLD.payload IS NOT NULL
            AND (NEW.org_id, NEW.environment, NEW.seq, NEW.statement, NEW.hash, NEW.idempotency_key,
                 NEW.idempotency_check, NEW.id, NEW.kind, NEW.agent_id, NEW.action_type, NEW.redacts_seq)
                IS NOT DISTINCT FROM
                (OLD.org_id, OLD.environment, OLD.seq, OLD.statement, OLD.hash, OLD.idempotency_key,
                 OLD.idempotency_check, OLD.id, OLD.kind, OLD.agent_id, OLD.action_type, OLD.redacts_seq)
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
    "CREATE TRIGGER entries_are_never_changed BEFORE UPDATE OR DELETE ON entries "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change_of_entry()",
    "CREATE TRIGGER entries_are_never_emptied BEFORE TRUNCATE ON entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_entry()",
    "ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_are_never_changed",
    "ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_are_never_emptied",
)

CHECKPOINTS_TABLE = """
CREATE TABLE ledger_checkpoints (
    org_id       text COLLATE "C" NOT NULL,
    environment  text COLLATE "C" NOT NULL,
    seq          bigint NOT NULL,
    line         text NOT NULL,
    shared_us    bigint NOT NULL,
    PRIMARY KEY (org_id, environment, seq)
)
"""
"""On their way from the node that signed them to the others, which keep them in files of their own."""

CHECKPOINTS_INDEX = "CREATE INDEX ledger_checkpoints_shared_us ON ledger_checkpoints (shared_us)"

GRANTS = "GRANT SELECT, INSERT, UPDATE (payload) ON entries TO {system}"
"""For the two functions, which run as that role; the tenant's policy holds for it as for everybody."""

STATEMENTS = (
    ENTRIES_TABLE,
    *INDEXES,
    LOCK_CHAIN,
    APPEND_ENTRIES,
    ERASE_PAYLOAD,
    *TRIGGERS,
    CHECKPOINTS_TABLE,
    CHECKPOINTS_INDEX,
    GRANTS,
)
