"""Strict parsing of bodies: one reading or none, the same by the fast and by the slow way, and never a crash."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from precipiq_chain import strict_json
from precipiq_chain.strict_json import JsonRefused, loads
from tests.effort import rounds

BACKSLASH = "\\"


def outcome(parse, body, max_depth=64):
    """repr tells 1 from 1.0 from True and keeps the order of keys."""
    try:
        return "value", repr(parse(body, max_depth=max_depth))
    except JsonRefused as refusal:
        return "refused", refusal.path, refusal.problem


def slowly(body, *, max_depth):
    return strict_json._loads_slowly(body, max_depth)


def by_the_standard_library_alone(body, max_depth):
    """An oracle that shares no line with the module: (accepted, repr)."""

    def members(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate")
        return dict(pairs)

    def never(name):
        raise ValueError(name)

    def depth_of(value):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0) if isinstance(value, dict | list) else 0

    try:
        text = body.decode("utf-8")
        value = json.JSONDecoder(object_pairs_hook=members, parse_constant=never).decode(text)
        shown = json.dumps(value, ensure_ascii=False, allow_nan=False)  # refuses 1e400
        shown.encode()  # refuses lone surrogates
    except (ValueError, RecursionError):
        return False, None
    return depth_of(value) <= max_depth, repr(value)


def assert_one_outcome(body, max_depth=64):
    fast = outcome(loads, body, max_depth)
    assert fast == outcome(slowly, body, max_depth)
    assert fast == outcome(loads, bytearray(body), max_depth)
    accepted, shown = by_the_standard_library_alone(body, max_depth)
    assert (fast[0] == "value") is accepted
    if accepted:
        assert fast[1] == shown


@pytest.mark.parametrize(
    ("body", "path", "problem"),
    [
        (b'{"x":1,"x":2}', "", "duplicate key 'x'"),
        (b'{"a":[0,{"x":1,"y":[],"x":1}]}', "a.1", "duplicate key 'x'"),
        (b'{"a":1,"\\u0061":1}', "", "duplicate key 'a'"),
        (b'{"b":{":":1,"\\u003a":1}}', "b", "duplicate key ':'"),
        (b'{"b":{":":1,"\\u003A":1,"c":"\\u003a"}}', "b", "duplicate key ':'"),
        (b'{"a":1,"a":"\\u003A"}', "", "duplicate key 'a'"),
        (b'{"a":1,"a":1}NaN', "", "not valid JSON at byte 13"),
        (b"NaN", "", "NaN is not JSON"),
        (b'{"a":{"b":[1,NaN]}}', "a.b.1", "NaN is not JSON"),
        (b"[Infinity]", "0", "Infinity is not JSON"),
        (b"[0,-Infinity]", "1", "-Infinity is not JSON"),
        (b'{"c":1e400}', "c", "number too large"),
        (b'{"c":-1e400}', "c", "number too large"),
        (b"[" + b"9" * 4301 + b"]", "0", "integer of more than 4300 digits"),
        (b"[-" + b"9" * 4301 + b"]", "0", "integer of more than 4300 digits"),
        (b"1" * 1_000_000, "", "integer of more than 4300 digits"),
        (b'{"a":"\\ud800"}', "a", "lone surrogate"),
        (b'{"a":["\\udc00\\ud800"]}', "a.0", "lone surrogate"),
        (b'{"a":{"\\ud800":NaN}}', "a", "lone surrogate in a key"),
        (b'"\xff"', "", "not valid UTF-8"),
        (b'"\xed\xa0\x80"', "", "not valid UTF-8"),
        (b'"\xc0\xaf"', "", "not valid UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "", "a byte order mark is not JSON"),
        ('{"a":1}'.encode("utf-16"), "", "not valid UTF-8"),
        ('{"a":1}'.encode("utf-16-le"), "", "not valid JSON at byte 1"),
        (b"", "", "not valid JSON at byte 0"),
        ('["é😀",]'.encode(), "", "not valid JSON at byte 10"),
        (b'{"a":1} x', "", "not valid JSON at byte 8"),
        (b"[01]", "", "not valid JSON at byte 2"),
        (b'["\t"]', "", "not valid JSON at byte 2"),
        (b"{'a':1}", "", "not valid JSON at byte 1"),
    ],
)
def test_a_body_with_two_readings_or_none_is_refused_with_place_and_reason(body, path, problem):
    for raw in (body, bytearray(body)):
        with pytest.raises(JsonRefused) as refusal:
            loads(raw)
        assert refusal.value.path == path
        if "not valid JSON" in problem and body not in (b"", b'{"a":1} x', b'{"a":1,"a":1}NaN'):
            assert refusal.value.problem.startswith("not valid JSON at byte ")  # CPython's place varies by version
        else:
            assert refusal.value.problem == problem


@pytest.mark.parametrize(
    "number",
    [
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        -(2**63) - 1,
        2**64 - 1,
        2**64,
        10**19,
        -(10**18),
        -(10**19),
        10**4299,
        -(10**4299),
    ],
)
def test_integers_keep_every_digit(number):
    for text in (f"{number}", f'{{"id": [{number}, "x"]}}', f'["{"9" * 30}",{number}]'):
        assert loads(text.encode()) == json.loads(text)


def test_what_looks_suspicious_but_has_one_reading_is_accepted():
    for text in (
        '{"a:b":"c:d::","e":":"}',
        '{"a\\u003ab":"\\u003A\\u003a","c":1}',
        '{"a":"\\\\u003a"}',
        f'["{"1" * 50}", "-{"1" * 19}", 0.{"1" * 40}, 1e-400, -0, -0.0, 1E+2]',
        '{"":{"":{"":[]}},"a":{"a":1},"b":[{"a":1},{"a":1}]}',
        ' \t\r\n"\\ud83d\\ude00\x7f/\\/" ',
    ):
        assert repr(loads(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"]":'])
@pytest.mark.parametrize("max_depth", [0, 1, 2, 63, 64, 65, 250, 300])
def test_nesting_is_allowed_to_max_depth_and_not_beyond(opening, max_depth):
    closing = {"[": "]", '{"a":': "}", '[{"]":': "}]"}[opening]
    levels = len(closing)
    for suspicious in ("0", str(2**70), '"[[[{{{\\"[[["'):
        for repeats in range(max(0, max_depth // levels - 1), max_depth // levels + 2):
            body = (opening * repeats + suspicious + closing * repeats).encode()
            expected = ("refused", "", f"nesting deeper than {max_depth}")
            assert (outcome(loads, body, max_depth) == expected) is (repeats * levels > max_depth)
            assert outcome(loads, body, max_depth) == outcome(slowly, body, max_depth)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b"[" + b"[]," * 100 + b"[" * 10_000,
        b'["' + b'\\"' * 200_000 + b"[" * 100,
    ],
    ids=range(6),
)
def test_absurd_nesting_is_refused_and_crashes_nothing(body):
    for max_depth in (64, 900, 5_000):
        assert outcome(loads, body, max_depth)[0] == "refused"
    with pytest.raises(JsonRefused):
        loads(b"[" * 3_000_000, max_depth=2_000_000)


def test_a_problem_and_its_path_hold_only_a_glimpse_of_the_body():
    long = "k" * 100_000
    with pytest.raises(JsonRefused) as refusal:
        loads(json.dumps({long: {long: float("nan")}}).encode())
    assert len(refusal.value.path) == 40 + 1 + 40
    with pytest.raises(JsonRefused) as refusal:
        loads(f'{{"{long}":1,"{long}":2}}'.encode())
    assert refusal.value.problem == f"duplicate key '{'k' * 39}…'"
    with pytest.raises(JsonRefused) as refusal:
        loads(json.dumps({"a" * 40: {"b" * 40: {"c" * 40: {"d" * 40: {"e" * 40: float("nan")}}}}}).encode())
    assert len(refusal.value.path) == 200


PIECES = [
    *'{}[]:,"0-.eE1a \n',
    *('""', '"a"', '"a":', '"b":1,', '{"a":1}', "[]", "{}", "null", "true", "NaN", "-Infinity", "1e400", "1.0", "-0"),
    *(f'"{BACKSLASH}u003a"', f"{BACKSLASH}u003A", f"{BACKSLASH}u0061", f'"{BACKSLASH}u0061":', f'{BACKSLASH}"', "\\\\"),
    *(f"{BACKSLASH}ud800", f"{BACKSLASH}udc00", f"{BACKSLASH}u002c", "é", "😀", "\ufeff", "\x00", "\x7f", "::", '":"'),
    *("9" * 18, "9" * 19, "9" * 20, "-" + "9" * 19, "18446744073709551615", "18446744073709551616", "1" * 4301),
    *("-9223372036854775808", "-9223372036854775809", "1" * 309, "[" * 60, "]" * 60, "[" * 65 + "]" * 65),
]
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=True)
    | st.text(st.sampled_from('a:"\\{[é😀\ud800'), max_size=5)
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab:é", max_size=2), inner, max_size=4),
    max_leaves=10,
).flatmap(lambda value: st.builds(json.dumps, st.just(value), ensure_ascii=st.just(True)))


def mutated(text, seed):
    """Cut, doubled or spliced at random places; characters escaped at random: duplicates and broken syntax."""
    chance = random.Random(seed)
    for _ in range(chance.randrange(4)):
        i, j = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        action = chance.randrange(4)
        if action == 0:
            text = text[:i] + chance.choice(PIECES) + text[i:]
        elif action == 1:
            text = text[:i] + text[j:]
        elif action == 2:
            text = text[:j] + text[i:]
        elif i < len(text) and (text[i].isalnum() or text[i] == ":"):
            text = f"{text[:i]}{BACKSLASH}u{ord(text[i]) & 0xFFFF:04x}{text[i + 1 :]}"
    return text


@settings(max_examples=rounds(75, long=300), deadline=None)
@given(documents, st.integers(0, 2**32))
@example('{"a":1,"a":":"}', 0)
@example('{"a":{"b":1},"a":2}', 0)
def test_mutated_json_has_the_same_outcome_fast_and_slow(text, seed):
    assert_one_outcome(mutated(text, seed).encode(errors="surrogatepass"))


@settings(max_examples=rounds(75, long=300), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.integers(0, 3))
def test_adversarial_pieces_have_the_same_outcome_fast_and_slow(text, max_depth):
    assert_one_outcome(text.encode())
    assert_one_outcome(text.encode(), max_depth)


@settings(max_examples=rounds(50, long=200), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", ":", "\\u0061", "\\u003a", "\\u003A"]), documents), max_size=5))
def test_objects_of_any_keys_have_the_same_outcome_fast_and_slow(pairs):
    assert_one_outcome(("{" + ",".join(f'"{key}":{text}' for key, text in pairs) + "}").encode())


@settings(max_examples=rounds(50, long=100), deadline=None)
@given(st.binary(max_size=30))
def test_random_bytes_have_the_same_outcome_fast_and_slow(body):
    assert_one_outcome(body)
