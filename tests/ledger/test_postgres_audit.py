"""What only an intruder on PostgreSQL can do: to the table's definition, its row-level security, its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_postgres.entries.audit import PostgresAuditor
from precipiq_postgres.roles import Roles
from precipiq_testkit.postgres import PostgresDatabase, own_postgres
from tests.ledger.intruders import (
    CHAIN,
    ENTRIES,
    REDACTED,
    REDACTION,
    Original,
    PostgresIntruder,
    postgres_original,
)

VIEW = "ALTER TABLE entries RENAME TO hidden; CREATE VIEW entries AS SELECT * FROM hidden"
ALTERED = (1, "COLUMN_MISMATCH")


@pytest.fixture(scope="module")
def original(shared_postgres: PostgresDatabase) -> Iterator[Original]:
    with postgres_original(shared_postgres) as made:
        yield made


@pytest.fixture
def intruder(original: Original, tmp_path: Path) -> Iterator[PostgresIntruder]:
    intruder = original.fresh(tmp_path)
    assert isinstance(intruder, PostgresIntruder)
    intruder.drop_triggers()
    yield intruder
    intruder.close()


def in_words(intruder: PostgresIntruder, sql: str) -> str:
    """With the names of the deployment's roles."""
    roles = Roles(intruder.database.runtime_role)
    return sql.format(runtime=roles.runtime, auditor=roles.auditor, database=intruder.database.name)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE POLICY hides ON entries AS RESTRICTIVE USING (seq <> 5)", ALTERED),
        ("CREATE POLICY hides ON entries AS RESTRICTIVE TO {auditor} USING (seq < 7)", ALTERED),
        ("CREATE POLICY hides ON entries AS RESTRICTIVE FOR SELECT TO {runtime} USING (seq <> 5)", ALTERED),
        ("ALTER POLICY auditor ON entries USING (seq <> 5)", ALTERED),
        ("ALTER POLICY auditor ON entries USING (seq < 6 OR current_user <> '{auditor}')", ALTERED),
        ("ALTER TABLE entries DISABLE ROW LEVEL SECURITY", ALTERED),
        ("ALTER TABLE entries NO FORCE ROW LEVEL SECURITY", ALTERED),
        ("CREATE RULE swallow AS ON INSERT TO entries DO INSTEAD NOTHING", ALTERED),
        ("CREATE RULE swallow AS ON UPDATE TO entries DO INSTEAD NOTHING", ALTERED),
        (VIEW + "; GRANT SELECT ON entries TO {auditor}", ALTERED),
        (VIEW + " WHERE seq < 6; GRANT SELECT ON entries TO {auditor}", ALTERED),
        (VIEW + " WHERE seq > 5; GRANT SELECT ON entries TO {auditor}", (1, "SEQ_GAP")),
        ("CREATE TABLE copied AS SELECT * FROM entries; DROP TABLE entries; ALTER TABLE copied RENAME TO entries; "
         "GRANT SELECT ON entries TO {auditor}", ALTERED),
        ("ALTER TABLE entries ALTER COLUMN statement DROP NOT NULL", ALTERED),
        ('ALTER TABLE entries ALTER COLUMN hash TYPE text COLLATE "POSIX"', ALTERED),
        ("ALTER TABLE entries DROP COLUMN agent_id; ALTER TABLE entries ADD COLUMN agent_id text "
         'COLLATE "C" GENERATED ALWAYS AS (\'somebody\') STORED', ALTERED),
        ("CREATE SCHEMA other; CREATE VIEW other.entries AS SELECT * FROM precipiq.entries WHERE seq < 6; "
         "ALTER ROLE {runtime} IN DATABASE {database} SET search_path = other, precipiq", ALTERED),
        ("ALTER ROLE {runtime} IN DATABASE {database} SET search_path = precipiq, public, pg_catalog", ALTERED),
    ],
)  # fmt: skip
def test_an_altered_definition_is_found(intruder: PostgresIntruder, sql: str, expected: tuple[int, str]) -> None:
    intruder.execute(in_words(intruder, sql))
    assert intruder.found() == expected


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE entries",
        VIEW,
        VIEW + " WHERE false; GRANT SELECT ON entries TO {auditor}",
        "DROP POLICY auditor ON entries",
        "ALTER POLICY auditor ON entries USING (false)",
        "REVOKE SELECT ON entries FROM {auditor}",
        "ALTER TABLE entries DROP COLUMN agent_id",
        "ALTER TABLE entries RENAME COLUMN payload TO other",
        "ALTER TABLE entries DROP CONSTRAINT entries_seq_check, ALTER COLUMN seq TYPE text USING 'x' || seq",
        "DROP POLICY tenant ON entries; ALTER TABLE entries ALTER COLUMN org_id TYPE bytea USING org_id::bytea",
        "REVOKE {auditor} FROM {runtime}",
        "ALTER ROLE {runtime} IN DATABASE {database} SET row_security = off; DROP POLICY auditor ON entries",
        "ALTER ROLE {runtime} NOLOGIN",
    ],
)
def test_what_cannot_be_read_is_never_called_valid(intruder: PostgresIntruder, sql: str) -> None:
    try:
        intruder.execute(in_words(intruder, sql))
        with pytest.raises(Unavailable):
            intruder.verify()
    finally:  # roles are not the database's own
        for back in ("ALTER ROLE {runtime} LOGIN", "GRANT {auditor} TO {runtime}"):
            intruder.database.server.sql(in_words(intruder, back))


@pytest.mark.parametrize(
    ("column", "type_", "using"),
    [
        ("seq", "numeric", "seq"),
        ("seq", "text", "seq::text"),
        ("seq", "integer", "seq"),
        ("statement", "text", "convert_from(statement, 'UTF8')"),
        ("payload", "text", "convert_from(payload, 'UTF8')"),
        ("hash", "varchar(64)", "hash"),
        ("hash", "uuid[]", "NULL"),
        ("idempotency_key", "text", "convert_from(idempotency_key, 'UTF8')"),
        ("idempotency_check", "bytea", "idempotency_check::bytea"),
        ("id", "text", "id::text"),
        ("kind", "varchar", "kind"),
        ("agent_id", "varchar(5)", "left(agent_id, 5)"),
        ("action_type", "json", "to_json(action_type)"),
        ("redacts_seq", "numeric", "redacts_seq"),
        ("org_id", "varchar", "org_id"),
        ("environment", "char(4)", "environment"),
    ],
)
def test_a_column_of_another_type_is_found(intruder: PostgresIntruder, column: str, type_: str, using: str) -> None:
    intruder.drop_constraints()
    intruder.execute(f"ALTER TABLE entries ALTER COLUMN {column} DROP NOT NULL")
    if column in ("org_id", "environment"):  # a column that a policy names keeps its type
        intruder.execute("DROP POLICY tenant ON entries")
    intruder.execute(f"ALTER TABLE entries ALTER COLUMN {column} TYPE {type_} USING {using}")
    assert intruder.found() == (ALTERED if using != "NULL" else (1, "CONTENT_MISMATCH"))


@pytest.mark.parametrize("column", ["seq", "statement", "hash", "id", "kind", "org_id", "environment"])
@pytest.mark.parametrize("seq", [1, 4, ENTRIES])
def test_nothing_in_the_place_of_a_value_is_found(intruder: PostgresIntruder, column: str, seq: int) -> None:
    intruder.drop_constraints()
    intruder.execute(f"ALTER TABLE entries ALTER COLUMN {column} DROP NOT NULL")
    intruder.set(seq, **{column: None})
    found = intruder.found()
    assert found is not None
    assert found[0] in (1, seq)


def test_a_text_that_reaches_past_its_own_end_is_found(intruder: PostgresIntruder) -> None:
    """Beside the statement stands what follows there too, or only the beginning: such an entry could not be found."""
    for seq, agent_id in [
        (4, 'a","confidence":0.5,"external_id":"key-4'),
        (4, 'a","confidence":0.5,"external_id":"key-4","human_in_loop":false},"environment":"live'),
        (9, "a"),
        (3, "nul"),
    ]:
        [before] = intruder.get(seq, "agent_id")
        intruder.set(seq, agent_id=agent_id)
        assert intruder.found() == (seq, "COLUMN_MISMATCH")
        intruder.set(seq, agent_id=before)
    [before] = intruder.get(3, "action_type")
    assert before is not None
    assert before.startswith('\\"')
    for action_type in ("\\", before.partition(" ")[0], before[:-2], ""):
        intruder.set(3, action_type=action_type)
        assert intruder.found() == (3, "COLUMN_MISMATCH")
    intruder.set(3, action_type=before)
    assert intruder.found() is None


@pytest.mark.parametrize("filed", [{"org_id": "", "environment": ""}, {"org_id": "\x01"}, {"org_id": "\U0010ffff" * 9}])
def test_a_tail_filed_under_any_name_is_found(intruder: PostgresIntruder, filed: dict[str, str]) -> None:
    intruder.drop_constraints()
    intruder.set(ENTRIES, **filed)
    assert intruder.found() == (ENTRIES, "FILED_ELSEWHERE")


@pytest.mark.parametrize("changes", [{"kind": "decision"}, {"redacts_seq": None}, {"redacts_seq": 3}])
def test_a_redaction_that_is_hidden_from_its_index_explains_nothing(
    intruder: PostgresIntruder, changes: dict[str, object]
) -> None:
    intruder.set(REDACTION, **changes)
    assert intruder.found() == (REDACTED, "PAYLOAD_ABSENT")


def test_a_decision_that_is_called_a_redaction_is_found(intruder: PostgresIntruder) -> None:
    intruder.set(5, payload=None)
    intruder.set(7, kind="redaction", redacts_seq=5)
    assert intruder.found() == (5, "PAYLOAD_ABSENT")


def test_a_foreign_owner_or_more_rights_alone_are_no_false_alarm(intruder: PostgresIntruder) -> None:
    """What an operator may do: other indexes, statistics, comments, another tablespace's settings, a rewrite."""
    for sql in (
        "CREATE INDEX of_the_operator ON entries (octet_length(statement))",
        "REINDEX TABLE entries",
        "CLUSTER entries USING entries_agent_id",
        "VACUUM (FULL, ANALYZE) entries",
        "ALTER TABLE entries ALTER COLUMN payload SET STORAGE EXTERNAL",
        "ALTER TABLE entries SET (fillfactor = 90)",
        "COMMENT ON COLUMN entries.seq IS 'the place'",
        "ALTER TABLE entries ADD COLUMN of_a_newer_version text",
        "GRANT SELECT ON entries TO {runtime}",
        "CREATE POLICY reports ON entries FOR SELECT TO {runtime} USING (false)",
    ):
        intruder.execute(in_words(intruder, sql))
        assert intruder.found() is None, sql


def test_a_server_that_is_away_is_unavailable(intruder: PostgresIntruder) -> None:
    auditor = intruder.auditor()
    assert isinstance(auditor, PostgresAuditor)
    for url in ("postgresql://x@127.0.0.1:1/x", auditor.address.url + "_absent"):
        away = replace(auditor, address=replace(auditor.address, url=url))
        for ask in (lambda: away.last_seq(CHAIN), lambda: next(away.batches(CHAIN, 0, None, 1))):  # noqa: B023
            with pytest.raises(Unavailable):
                ask()


def test_bytes_changed_in_the_file_past_its_indexes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by SQL but in the table's file: the indexes still say what the rows no longer do."""
    with own_postgres() as own:
        database = own.server.new_database()
        for name, value in database.environment.items():
            monkeypatch.setenv(name, value)
        with postgres_original(database) as original:
            with closing(original.fresh(tmp_path)) as intruder:
                [(folder, path)] = intruder.execute(
                    "SELECT current_setting('data_directory'), pg_relation_filepath('entries')"
                )
                [statement] = intruder.get(4, "statement")
                database.sql("CHECKPOINT")
            file = Path(folder, path)
            content = file.read_bytes()
            start = content.index(statement) - 40
            row = content.index(CHAIN.org_id.encode(), start)
            assert row < start + 40, "the row of entry 4 begins with the organisation's id"
            for place in (row, row + len(CHAIN.org_id) + 1, content.index(statement) + 5):
                own.stop()
                altered = bytearray(content)
                altered[place] ^= 1
                file.write_bytes(altered)
                own.start()
                with closing(PostgresIntruder(database, CHAIN, tmp_path)) as intruder:
                    try:
                        assert (intruder.found() or (0,))[0] == 4
                    except Unavailable:  # PostgreSQL's own checksums, where they are on
                        continue
