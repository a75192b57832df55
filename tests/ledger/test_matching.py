"""Whether an entry is what a query asks for, and what is cut out of statements, beside what parsing them says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precipiq_chain.chain_format import parse_statement, statement_kind
from precipiq_chain.entry_record import parts_of
from precipiq_chain.matching import matcher
from precipiq_contracts.chain import Chain, Draft, Entry, EntryKind
from precipiq_contracts.entry_store import EntryQuery
from precipiq_core.system import SystemClock
from precipiq_ledger.drafts import same_content
from precipiq_ledger.service import LedgerService, Limits
from precipiq_testkit.clock import SeededRandomness
from precipiq_testkit.memory import MemoryDriver

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_a", "test")
BODIES: list[dict[str, object]] = [
    {"agent_id": "a", "action_type": "b"},
    {"agent_id": "ab"},
    {"agent_id": 'say "agent_id":"a"', "note": '{"agent_id":"a"}'},
    {"agent_id": 'a"', "note": ',"agent_id":"a"'},
    {"nested": {"agent_id": "a"}},
    {"nested": {"agent_id": "a"}, "agent_id": "a"},
    {"list": [{"agent_id": "a"}]},
    {"agent_id": None},
    {"agent_id": 1},
    {"x_agent_id": "a"},
    {"agent_id": "\u00e4{", "note": "{"},
    {"agent_id": "\u00e4{"},
    {},
]
QUERIES = [
    {"agent_id": "a"},
    {"agent_id": "a", "action_type": "b"},
    {"agent_id": 'a"'},
    {"agent_id": "\u00e4{"},
    {"agent_id": "1"},
    {"": "a"},
]


async def sealed(body: dict[str, object]) -> Entry:
    async with MemoryDriver().open() as store:
        ledger = LedgerService(SystemClock(), SeededRandomness(), Limits(10_000, 64))
        ledger.start(store, {"decision": EntryKind("decision", "")})
        appended = await ledger.append(CHAIN, [Draft("decision", 'key "1"', body, {"metadata": None}, None)])
        return appended.entries[0]


@pytest.mark.parametrize("body", BODIES)
async def test_an_entry_matches_as_its_parsed_body_says(body: dict[str, object]) -> None:
    entry = await sealed(body)
    spaced = replace(entry, statement=entry.statement.replace(b'","', b'", "'))
    for wanted in QUERIES:
        is_match = all(body.get(name) == text for name, text in wanted.items())
        assert matcher(EntryQuery("decision", wanted))(entry) == is_match, wanted
        if spaced.statement != entry.statement and parse_statement(spaced.statement).body == body:
            assert matcher(EntryQuery("decision", wanted))(spaced) == is_match, wanted


async def test_what_is_cut_out_of_a_statement_is_what_it_says_however_it_was_altered() -> None:
    entry = await sealed({"agent_id": "a", "note": ',"kind":"other"'})
    for statement in (entry.statement, entry.statement.replace(b":", b" : "), b" " + entry.statement):
        parsed = parse_statement(statement)
        assert statement_kind(statement) == parsed.kind == "decision"
        assert (parts_of(statement).kind, parts_of(statement).seq) == (b"decision", b"1")
    with pytest.raises(ValueError, match="not a statement"):
        statement_kind(b"{}")


async def test_a_draft_has_the_content_of_its_entry_and_of_no_other() -> None:
    async with MemoryDriver().open() as store:
        ledger = LedgerService(SystemClock(), SeededRandomness(), Limits(10_000, 64))
        ledger.start(store, {"decision": EntryKind("decision", ""), "redaction": EntryKind("redaction", "")})
        draft = Draft("decision", "key_1", {"agent_id": "a", "score": 1.0}, {"metadata": {"n": 2}}, "key")
        entry = (await ledger.append(CHAIN, [draft])).entries[0]
        other_payload = replace(draft, payload={"metadata": {"n": 3}})
        changes = [
            (draft, True, True),
            (replace(draft, body={"agent_id": "a", "score": 1}), True, True),
            (replace(draft, body={"agent_id": "b", "score": 1.0}), False, False),
            (replace(draft, kind="redaction"), False, False),
            (replace(draft, payload=None), False, False),
            (other_payload, False, True),
        ]
        erased = replace(entry, payload=None)
        for changed, is_same, is_same_once_erased in changes:
            [prepared] = ledger._prepare(CHAIN, [changed])
            assert same_content(prepared, entry) == is_same, changed
            assert same_content(prepared, erased) == is_same_once_erased, changed
