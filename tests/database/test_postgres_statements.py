"""Portable statements on their way to PostgreSQL: names become numbers, and only rows are touched."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_contracts.errors import InternalError
from precipiq_postgres.statements import number_parameters

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("sql", "expected", "names"),
    [
        ("SELECT 1", "SELECT 1", ()),
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("SELECT :a::int + :a::bigint", "SELECT $1::int + $1::bigint", ("a",)),
        ("SELECT note::text, CAST(:note AS text)", "SELECT note::text, CAST($1 AS text)", ("note",)),
        ("SELECT '12:30', 7 % 4, 'a%b'", "SELECT '12:30', 7 % 4, 'a%b'", ()),
        ("SELECT x[1:2], x[a:b] FROM t", "SELECT x[1:2], x[a:b] FROM t", ()),
        ("SELECT '{\"n\":1}'::jsonb ? 'n'", "SELECT '{\"n\":1}'::jsonb ? 'n'", ()),
        ("SELECT :a1, :a11, :a", "SELECT $1, $2, $3", ("a1", "a11", "a")),
        ("INSERT INTO t VALUES (:x,:y)", "INSERT INTO t VALUES ($1,$2)", ("x", "y")),
        ("SELECT ':in_text'", "SELECT '$1'", ("in_text",)),
    ],
)
def test_names_become_numbers(sql: str, expected: str, names: tuple[str, ...]) -> None:
    assert number_parameters(sql) == (expected, names)


@given(st.lists(NAMES, max_size=12))
def test_each_number_stands_for_its_name(names: list[str]) -> None:
    sql, found = number_parameters("SELECT " + ", ".join(f":{name}::text" for name in names))
    assert [found[int(number) - 1] for number in re.findall(r"\$(\d+)", sql)] == names
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  \n select 1",
        "-- why\nSELECT 1",
        "/* a; b */ /* c */ WITH x AS (SELECT 1) SELECT * FROM x",
        "(SELECT 1) UNION (SELECT 2)",
        "VALUES (1)",
        "insert INTO t VALUES (1)",
        "UPDATE t SET x = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN DO NOTHING",
    ],
)
def test_statements_about_rows_are_taken(sql: str) -> None:
    assert number_parameters(sql)[0] == sql


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";SELECT 1",
        "COMMIT",
        "commit and chain",
        "-- SELECT\nCOMMIT",
        "/* SELECT */ SET ROLE x",
        "-- x\r COMMIT",
        "/* /* */ SELECT 1 */ COMMIT",
        "SELECTED",
        "TABLE notes",
        "EXPLAIN ANALYZE DELETE FROM t",
        "COPY t TO STDOUT",
        "DO $$ BEGIN END $$",
        "CALL x()",
        "EXECUTE x",
        "FETCH ALL FROM x",
        "UNLISTEN *",
    ],
)
def test_all_others_are_refused(sql: str) -> None:
    with pytest.raises(InternalError, match="must begin with SELECT"):
        number_parameters(sql)


def test_long_beginnings_cost_no_time() -> None:
    for sql in ("(" * 50_000, "/*" * 50_000, "--\n" * 50_000, "/**/" * 50_000 + "COMMIT"):
        with pytest.raises(InternalError):
            number_parameters(sql)
