"""Appending on SQLite, in the writer's thread: a group of appends, to any chains, sealed and stored together.

Each call of SQLite releases the interpreter's lock, and a busy event loop returns it late; so a group of any
size is read and stored with few calls: what is looked up is packed in JSON, and one statement inserts many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import orjson

from precipiq_chain.grouping import AppendJob, Group, idempotency_check, seal_job, wanted_keys
from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.entry_store import Appended

_HEADS = """
SELECT json_group_array(json_array(wanted.key, last.seq, last.hash, substr(last.statement, -35, 27)))
FROM json_each(?) AS wanted CROSS JOIN entries AS last
WHERE last.org_id = json_extract(wanted.value, '$[0]') AND last.environment = json_extract(wanted.value, '$[1]')
AND last.seq = (
    SELECT max(seq) FROM entries
    WHERE org_id = json_extract(wanted.value, '$[0]') AND environment = json_extract(wanted.value, '$[1]')
)
"""

_KNOWN = """
SELECT json_group_array(json_array(wanted.key, known.seq, known.hash, known.statement, known.payload, known.mac))
FROM json_each(?) AS wanted CROSS JOIN entries AS known
WHERE known.org_id = json_extract(wanted.value, '$[0]') AND known.environment = json_extract(wanted.value, '$[1]')
AND known.idempotency_key = json_extract(wanted.value, '$[2]')
"""

_INSERT = """
INSERT INTO entries (org_id, environment, seq, statement, payload, hash, idempotency_key, idempotency_check, mac)
VALUES """
_INSERTS = {rows: _INSERT + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows) for rows in (64, 32, 16, 8, 4, 2, 1)}
"""By number of rows: few texts, so that all stay compiled; some builds of SQLite allow no more than 999 values."""

_ERASE = """
UPDATE entries SET payload = NULL WHERE org_id = ? AND environment = ? AND seq = ? AND payload IS NOT NULL
"""


def append_group(connection: sqlite3.Connection, jobs: Sequence[AppendJob]) -> list[Appended | Exception]:
    """The writer's handler. An append whose ``seal`` raises fails alone and leaves nothing."""
    group = Group(_heads(connection, jobs), _known_entries(connection, jobs))
    results = [seal_job(group, job) for job in jobs]
    insert(connection, group.new)
    for job, result in zip(jobs, results, strict=True):
        if job.erased_seq is not None and isinstance(result, Appended):
            connection.execute(_ERASE, (job.chain.org_id, job.chain.environment, job.erased_seq))
    return results


def _heads(connection: sqlite3.Connection, jobs: Sequence[AppendJob]) -> dict[Chain, Head]:
    chains = list(dict.fromkeys(job.chain for job in jobs))
    wanted = orjson.dumps([(chain.org_id, chain.environment) for chain in chains]).decode()
    rows = orjson.loads(connection.execute(_HEADS, (wanted,)).fetchone()[0])
    return {chains[index]: Head(seq, hash_, parse_timestamp(timestamp)) for index, seq, hash_, timestamp in rows}


def _known_entries(connection: sqlite3.Connection, jobs: Sequence[AppendJob]) -> dict[tuple[Chain, str], Entry]:
    keys = wanted_keys(jobs)
    if not keys:
        return {}
    wanted = orjson.dumps([(chain.org_id, chain.environment, key) for chain, key in keys]).decode()
    known: dict[tuple[Chain, str], Entry] = {}
    rows = orjson.loads(connection.execute(_KNOWN, (wanted,)).fetchone()[0])
    for index, seq, hash_, statement, payload, mac in rows:
        chain, key = keys[index]
        erased_or_payload = None if payload is None else payload.encode()
        known[keys[index]] = Entry(chain, seq, hash_, statement.encode(), erased_or_payload, key, mac)
    return known


def insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Store sealed entries, in order, within the open transaction."""
    start = 0
    for rows, statement in _INSERTS.items():
        while len(entries) - start >= rows:
            values: list[object] = []
            for entry in entries[start : start + rows]:
                values += _values(entry)
            connection.execute(statement, values)
            start += rows


def _values(entry: Entry) -> tuple[object, ...]:
    """In the order of ``_INSERT``."""
    key, payload = entry.idempotency_key, entry.payload
    return (
        entry.chain.org_id,
        entry.chain.environment,
        entry.seq,
        entry.statement.decode(),
        None if payload is None else payload.decode(),
        entry.hash,
        key,
        None if key is None else idempotency_check(key, entry.hash),
        entry.mac,
    )
