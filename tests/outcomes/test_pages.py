"""Decisions read with few of their fields count as those whose statements are read whole."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import STATEMENT_KEYS, parse_statement
from precipiq_contracts.clock import parse_timestamp
from precipiq_outcomes import pages
from precipiq_outcomes.fold import Decided, group_of
from precipiq_outcomes.pages import Page, PageParser

WHOLE = {
    "v": 1, "org_id": "org_a", "environment": "live", "seq": 5, "id": "0" * 36, "kind": "decision", "actor": "key",
    "timestamp": "2026-01-02T03:04:05.000006Z", "payload_hash": None, "prev_hash": "0" * 64,
    "body": {"agent_id": "a", "action_type": "b", "confidence": 0.5, "human_in_loop": True, "external_id": None},
}  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(0, 1), st.lists(st.integers(0, 1), max_size=2),
    st.sampled_from([0.6, 1, 0, "", "x", "Zoë\n"]),
)  # fmt: skip


def strictly(statement: bytes) -> Decided | None:
    """As all statements are read."""
    try:
        parsed = parse_statement(statement)
        group = group_of(parsed.body)
        return Decided(parse_timestamp(parsed.timestamp), group.group_id, group)
    except Exception:
        return None


@given(
    st.dictionaries(st.sampled_from(sorted(WHOLE["body"])), VALUES),  # type: ignore[call-overload]
    st.dictionaries(st.sampled_from(["v", "timestamp", "more"]), VALUES, max_size=1),
    st.sampled_from([None, *sorted(STATEMENT_KEYS - {"kind"})]),
    st.sampled_from([None, "agent_id", "confidence", "human_in_loop"]),
)
def test_a_decision_counts_as_when_it_is_read_whole(
    body: dict[str, Any], outside: dict[str, Any], without: str | None, without_in_body: str | None
) -> None:
    fields: dict[str, Any] = {**WHOLE, **outside, "body": {**WHOLE["body"], **body}}  # type: ignore[dict-item]
    fields["body"].pop(without_in_body, None)
    fields.pop(without, None)
    statement = canonical(fields)
    page = PageParser().parse([statement], 5)
    expected = strictly(statement)
    assert page.decisions == ([] if expected is None else [expected])
    assert [seq for seq, _ in page.unread] == ([5] if expected is None else [])


@pytest.mark.parametrize("seq", ["x", None, 0, 6, 2**70, 1.5, True])
def test_a_link_that_names_another_place_is_set_aside(seq: object) -> None:
    statement = orjson.dumps({**WHOLE, "kind": "link"}).replace(b'"seq":5', b'"seq":' + canonical(seq))  # type: ignore[arg-type]
    page = PageParser().parse([statement], 5)
    assert (page.statements, [seq for seq, _ in page.unread]) == ([], [5])


def test_groups_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_GROUPS_KEPT_MAX", 3)
    parser = PageParser()
    statements = [canonical({**WHOLE, "body": {**WHOLE["body"], "agent_id": f"a{n % 5}"}}) for n in range(20)]  # type: ignore[dict-item]
    page: Page = parser.parse(statements, 20)
    assert page.decisions == [strictly(statement) for statement in statements]
    assert len(parser._groups) <= 3
