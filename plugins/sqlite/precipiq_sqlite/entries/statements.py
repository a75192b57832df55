"""Reading statements alone, many as one text: canonical JSON holds no line break."""

from __future__ import annotations

import sqlite3

_STATEMENTS = """
SELECT count(*), max(seq), CAST(group_concat(statement, char(10)) AS BLOB)
FROM (SELECT seq, statement FROM entries WHERE seq > :after ORDER BY seq LIMIT :limit)
"""
_AT_ONCE = 200


def read_statements(
    connection: sqlite3.Connection, after_seq: int, limit: int, bytes_max: int
) -> tuple[list[bytes], int] | None:
    """See ``StatementReader``. ``bytes_max`` may be exceeded by what ``_AT_ONCE`` rows hold."""
    found: list[bytes] = []
    size = 0
    while size < bytes_max and len(found) < limit:
        asked = min(_AT_ONCE, limit - len(found))
        count, last_seq, text = connection.execute(_STATEMENTS, {"after": after_seq, "limit": asked}).fetchone()
        if not count:
            break
        lines = [] if text is None else text.split(b"\n")
        if len(lines) != count or not isinstance(last_seq, int):
            return None
        found += lines
        size += len(text)
        after_seq = last_seq
        if count < asked:
            break
    return found, after_seq
