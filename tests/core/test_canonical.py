"""The canonical form: RFC 8785 to the byte, the chain's extension for big integers, and each refusal."""

from __future__ import annotations

import json
import math
import struct
import sys
from copy import deepcopy
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from hashlib import sha256
from pathlib import Path

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from precipiq_chain.canonical import NotCanonical, canonical
from tests.effort import rounds

VECTORS = json.loads((Path(__file__).parent / "data" / "ledger-vectors.json").read_bytes())["entries"]
NAN, INFINITY = math.nan, math.inf

# RFC 8785 appendix B: IEEE 754 bits in hexadecimal, and the text.
APPENDIX_B = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""


def float_of_bits(bits: int) -> float:
    return struct.unpack(">d", bits.to_bytes(8, "big"))[0]


def written_like_rfc8785(value: object) -> bool:
    return canonical(value) == rfc8785.dumps(value)


finite_floats = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(0, 2**64 - 1).map(float_of_bits).filter(math.isfinite)
    | st.integers(-(2**53), 2**53).map(float)
    | st.builds(lambda n, e: n * 10.0**e, st.integers(-999, 999), st.integers(-25, 25))
    | st.floats(1e-8, 1e-3)
    | st.floats(-1e-3, -1e-8)
    | st.builds(lambda n, x: n + x, st.integers(-9, 9), st.floats(1e-8, 1e-3))
    | st.sampled_from([2.0**53, 2.0**53 - 1, 2.0**53 + 2, 1e21, 1e16, 1e15, 1e-6, 1e-7, 5e-324, -0.0]).flatmap(
        lambda x: st.sampled_from([x, -x, math.nextafter(x, INFINITY), math.nextafter(x, -INFINITY)])
    )
)
keys = st.text(max_size=6) | st.text(st.sampled_from("aé\ud7ff\ue000\uffff\U00010000😀"), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | finite_floats | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("entry", VECTORS, ids=lambda entry: entry["hash"][:8])
def test_the_ledger_vectors_come_out_to_the_byte(entry):
    if entry["salt"] is not None:
        salted = canonical({"payload": entry["payload_as_given"], "salt": entry["salt"]})
        assert salted == entry["canonical_payload_and_salt"].encode()
        assert sha256(salted).hexdigest() == json.loads(entry["canonical_statement"])["payload_hash"]
    statement = canonical(json.loads(entry["canonical_statement"]) | {"body": entry["body_as_given"]})
    assert statement == entry["canonical_statement"].encode()
    assert sha256(statement).hexdigest() == entry["hash"]


@pytest.mark.parametrize("line", APPENDIX_B.split("\n")[1:-1])
def test_numbers_come_out_as_in_appendix_b(line):
    bits, text = line.split()
    number = float_of_bits(int(bits, 16))
    assert canonical(number) == text.encode()
    assert canonical({"n": [number, 0.5]}) == b'{"n":[%b,0.5]}' % text.encode()
    assert canonical({"é": number}) == '{"é":%s}'.encode() % text.encode()


def test_keys_are_sorted_by_utf16_code_units_as_in_section_3_2_3():
    shuffled = {"€": "Euro", "\r": "CR", "\ufb33": "Dalet", "1": "One", "😀": "Emoji", "\x80": "Control", "ö": "O"}
    assert list(json.loads(canonical(shuffled))) == ["\r", "1", "\x80", "ö", "€", "😀", "\ufb33"]
    assert list(json.loads(canonical([{"inner": shuffled}]))[0]["inner"]) == [
        "\r",
        "1",
        "\x80",
        "ö",
        "€",
        "😀",
        "\ufb33",
    ]


def test_strings_are_escaped_as_little_as_section_3_2_2_2_says():
    every = "".join(map(chr, range(0x20))) + '"\\/\x7f\u2028é😀'
    expected = (
        r'"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f'
        r"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"
    ) + '\\"\\\\/\x7f\u2028é😀"'
    assert canonical(every) == expected.encode()
    assert canonical({"é": every}) == '{"é":'.encode() + expected.encode() + b"}"  # the plain writer's


@settings(max_examples=rounds(100, long=400), deadline=None)
@given(values)
@example([2.0**53, 2.0**53 - 1, -(2.0**53), 1e21, 1.0, {"a": 1.0, "b": {"c": [0.5, -0.0]}}])
@example({"\U00010000": 1, "\ue000": 2, "a": 3.0})
@example([[[[[1.0]]]], {}, [], {"": {}}])
@example([1e-5, 9.99e-6, 1e-6, 9.99e-7, 1e-7, -1e-5, -9.99e-6, -1e-6, -1e-7, 1e-300, 1 + 1e-6, -3 + 1e-6, 1.1e-5])
def test_any_json_is_written_as_the_rfc8785_package_does(value):
    before = deepcopy(value)
    assert written_like_rfc8785(value)
    assert written_like_rfc8785({"é": value, "\U00010000": 0, "\uffff": 0})  # the plain writer's
    assert repr(value) == repr(before)


@pytest.mark.parametrize(
    "number", [2**53, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**64), 10**40 + 1, -(10**4000)]
)
def test_integers_keep_all_their_digits(number):
    assert canonical({"id": number}) == b'{"id":%d}' % number
    assert canonical({"é": [number]}) == '{"é":[%d]}'.encode() % number


def test_integral_floats_are_integers_and_the_value_stays_as_it_was():
    untouched = {"deep": [1, {"x": 0.5}]}
    value = {"b": 1.0, "a": [-0.0, {"c": 100.0, "d": 1e16}], "u": untouched}
    assert canonical(value) == b'{"a":[0,{"c":100,"d":10000000000000000}],"b":1,"u":{"deep":[1,{"x":0.5}]}}'
    assert type(value["b"]) is float
    assert type(value["a"][1]["c"]) is float
    assert value["u"] is untouched


class Colour(IntEnum):
    RED = 1


class Name(StrEnum):
    KEY = "key"


REFUSED = [
    (NAN, (), "NaN and infinities are not JSON"),
    ({"a": [0, INFINITY]}, ("a", 1), "NaN and infinities are not JSON"),
    ([{"a": -INFINITY}], (0, "a"), "NaN and infinities are not JSON"),
    ({"a": ["\ud800"]}, ("a", 0), "lone surrogate"),
    ("\udc00x", (), "lone surrogate"),
    ({"a": {"b": 1, "\udfff": 1}}, ("a",), "lone surrogate in a key"),
    ({"a": {1: 2}}, ("a",), "a key that is not a string"),
    ({None: 2}, (), "a key that is not a string"),
    ([{Name.KEY: 2}], (0,), "a key that is not a string"),
    ((1, 2), (), "tuple is not a JSON type"),
    ({"a": b"x"}, ("a",), "bytes is not a JSON type"),
    ([Colour.RED], (0,), "Colour is not a JSON type"),
    ([Name.KEY], (0,), "Name is not a JSON type"),
    ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, ("at",), "datetime is not a JSON type"),
    ([{1}], (0,), "set is not a JSON type"),
    ([10**5000], (0,), "integer with too many digits"),
]


@pytest.mark.parametrize(("value", "path", "problem"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [{"é": value}]], ids=["ascii", "non-ascii"])
def test_what_has_no_canonical_form_is_refused_with_its_path(value, path, problem, around):
    outer = () if around(0) == 0 else (0, "é")
    with pytest.raises(NotCanonical) as refusal:
        canonical(around(value))
    assert (refusal.value.path, refusal.value.problem) == (outer + path, problem)


def nested(levels, innermost=None, key=None):
    value = innermost
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


@pytest.mark.parametrize("key", [None, "a", "é"])
@pytest.mark.parametrize("max_depth", [0, 1, 63, 64, 65, 253, 256, 2000])
def test_nesting_is_allowed_to_max_depth_and_not_beyond(key, max_depth):
    assert canonical(nested(max_depth, 1.0, key), max_depth=max_depth).count(b"1") == 1
    for innermost in (1.0, {}, []):
        with pytest.raises(NotCanonical, match=f"nesting deeper than {max_depth}$"):
            canonical(nested(max_depth + 1, innermost, key), max_depth=max(max_depth, 0))


def test_no_depth_and_no_cycle_exhausts_the_stack_however_deep_the_caller_is():
    cycle: list = []
    cycle.append({"again": cycle})

    def at_the_edge(levels):
        return refusals() if levels == 0 else at_the_edge(levels - 1)

    def refusals():
        for value in (cycle, nested(100_000), nested(100_000, 0, "a")):
            with pytest.raises(NotCanonical):
                canonical(value)
        return canonical(nested(10_000), max_depth=10_000)

    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    assert at_the_edge(sys.getrecursionlimit() - depth - 150) == b"[" * 10_000 + b"null" + b"]" * 10_000
