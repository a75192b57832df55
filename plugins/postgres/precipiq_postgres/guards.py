"""The schema as the catalogue has it, to notice who drops a trigger, opens a policy or empties an index."""

from __future__ import annotations

from typing import Any

from precipiq_postgres.roles import SCHEMA
from precipiq_schema.schema_state import SchemaState

_TABLES = """
SELECT 'table ' || c.relname,
       concat_ws(' ', pg_get_userbyid(c.relowner), c.relkind, c.relrowsecurity, c.relforcerowsecurity)
FROM pg_class AS c WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_TRIGGERS = """
SELECT 'trigger ' || t.tgname || ' of ' || c.relname, t.tgenabled::text || ' ' || pg_get_triggerdef(t.oid)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = to_regnamespace($1) AND NOT t.tgisinternal
"""
_RULES = """
SELECT 'rule ' || r.rulename || ' of ' || c.relname, r.ev_enabled::text || ' ' || pg_get_ruledef(r.oid)
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class WHERE c.relnamespace = to_regnamespace($1)
"""
_POLICIES = """
SELECT 'policy ' || p.polname || ' of ' || c.relname,
       concat_ws(' ', p.polcmd, p.polpermissive, (SELECT string_agg(pg_get_userbyid(member), ',' ORDER BY member)
           FROM unnest(p.polroles) AS member), pg_get_expr(p.polqual, c.oid), '/', pg_get_expr(p.polwithcheck, c.oid))
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid WHERE c.relnamespace = to_regnamespace($1)
"""
_FUNCTIONS = """
SELECT 'function ' || p.oid::regprocedure, concat_ws(' ', pg_get_userbyid(p.proowner), pg_get_functiondef(p.oid))
FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace($1) AND p.prokind IN ('f', 'p')
"""
_INDEXES = """
SELECT 'index ' || c.relname, concat_ws(' ', i.indisvalid, i.indisready, i.indislive, pg_get_indexdef(c.oid))
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE c.relnamespace = to_regnamespace($1)
"""
_VERSION_TABLES = """
SELECT c.relname::text FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'r' AND starts_with(c.relname, 'alembic_version_')
"""


async def read_schema(connection: Any) -> SchemaState:
    """``connection``: of asyncpg, in a transaction of the role that serves, which reads the versions."""
    guards: dict[str, str] = {}
    for sql in (_TABLES, _TRIGGERS, _RULES, _POLICIES, _FUNCTIONS):
        guards |= dict(await connection.fetch(sql, SCHEMA))
    indexes = dict(await connection.fetch(_INDEXES, SCHEMA))
    revisions: set[str] = set()
    for (table,) in await connection.fetch(_VERSION_TABLES, SCHEMA):
        revisions |= {row[0] for row in await connection.fetch(f'SELECT version_num FROM {SCHEMA}."{table}"')}  # noqa: S608
    return SchemaState(frozenset(revisions), guards, indexes)
