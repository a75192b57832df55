"""Nodes of JSON are counted, and nesting is measured, before any parser runs: exactly, in pieces of any size."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from precipiq_chain import strict_json
from precipiq_chain.strict_json import JsonRefused, has_more_nodes, loads, nodes_at_most
from tests.system.heavy_shapes import SHAPES

TEXTS = ("", "a,b:[{", '"', "\\", '\\"', "\\\\", "[]", "{}", "x" * 9, " ", "\n", "é🚀")
PIECES = (1, 2, 3, 5, 7, 64, 65_536)
DOCUMENTS = 300


def document(source: random.Random, levels: int = 5) -> Any:
    kind = source.random()
    if not levels or kind < 0.4:
        return source.choice([1, None, True, -1.5e-7, *TEXTS])
    if kind < 0.7:
        return [document(source, levels - 1) for _ in range(source.randrange(4))]
    return {f"{source.choice(TEXTS)}{index}": document(source, levels - 1) for index in range(source.randrange(4))}


def nodes_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + nodes_of(item) for item in value.values())
    return 1 + sum(map(nodes_of, value)) if isinstance(value, list) else 1


def depth_of(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(depth_of, items), default=0)


@pytest.mark.parametrize("piece", PIECES)
def test_counts_and_depths_are_exact_whatever_stands_at_the_edge_of_a_piece(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "_PIECE_BYTES", piece)
    source = random.Random(piece)
    for _ in range(DOCUMENTS):
        value = document(source)
        body = json.dumps(value, indent=source.choice([None, 1]), ensure_ascii=source.random() < 0.5).encode()
        nodes, depth = nodes_of(value), depth_of(value)
        assert nodes_at_most(body) >= nodes
        assert not has_more_nodes(body, nodes), body
        assert has_more_nodes(body, nodes - 1), body
        if depth:
            assert loads(body, max_depth=depth) == value
            with pytest.raises(JsonRefused, match="nesting"):
                loads(body, max_depth=depth - 1)


@pytest.mark.parametrize("shape", ["a text of commas", "a text of brackets", "a text of backslashes", "a long name"])
def test_what_stands_in_a_text_is_one_node(shape: str) -> None:
    assert not has_more_nodes(SHAPES[shape](1_000_000), 3)


@pytest.mark.parametrize("shape", ["empty objects", "small numbers", "an object of many members", "never closed"])
def test_many_nodes_are_seen_also_where_the_body_is_no_json(shape: str) -> None:
    assert has_more_nodes(SHAPES[shape](1_000_000), 50_000)
