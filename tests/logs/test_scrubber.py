"""The scrubber on single lines and events: no secret survives, ordinary text stays, and time stays linear."""

from __future__ import annotations

import base64
import json
import secrets
import uuid

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precipiq_logs import patterns
from precipiq_logs.scrub import REDACTED, Scrubber

SCRUBBER = Scrubber()

_NOISE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def scrubber() -> Scrubber:
    return SCRUBBER


def line(text: object) -> bytes:
    """As the sink has it: JSON of an event that holds the text."""
    return orjson.dumps({"event": text})


@settings(max_examples=60, deadline=None)
@given(before=_NOISE, after=_NOISE, seed=st.binary(min_size=32, max_size=32))
def test_a_planted_secret_never_survives(before, after, seed, form, shows, make_key):
    # A word right after it is no secret of ours but is taken for a part of it: what counts is that the key is gone.
    secret = make_key("test", seed)
    clean = SCRUBBER.line(line(f"{before} {form(secret)} {after}"))
    assert not shows(clean, secret)
    json.loads(clean)
    assert SCRUBBER.line(clean) == clean


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="pq_testlivwhsk%25u0\\x\"'=:&;,.[]{}()/@ \n?AbZ9-+…", max_size=200))
def test_any_line_stays_json_and_is_scrubbed_once(text):
    clean = SCRUBBER.line(line(text))
    json.loads(clean)
    assert SCRUBBER.line(clean) == clean


_WORDS = """
token_count=5
key_id=key_3Fq
idempotency_key=job-17
page_token=abc
pq_test_...wXyZ
pq_live_\u2026a1B2
pq_test_ab12
status: ok
https://localhost:8000/decisions/7?limit=5&cursor=eyJ
100%
%20
C:\\xampp
Basic authentication
bearer tokens
\u00e9t\u00e9
a=b
x:y
"quoted": 1
it's
tests/live
...
12:30:00
secretary
monkey=1
passwords
user@example.org
mailto://x
-----BEGIN CERTIFICATE-----
"""
_WORD = st.sampled_from(_WORDS.strip().splitlines())
_ORDINARY = st.one_of(
    _WORD,
    st.uuids().map(str),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.integers().map(str),
    st.floats(allow_nan=False).map(repr),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz ", max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(words=st.lists(_ORDINARY, max_size=12))
def test_lines_without_secrets_come_out_unchanged(words):
    text = line(" ".join(words))
    assert SCRUBBER.line(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2 next", "password=[redacted] next"),
        ("DB_PASSWORD=hunter2", "DB_PASSWORD=[redacted]"),
        ("{'password': 'correct horse', 'a': 1}", "{'password': '[redacted]', 'a': 1}"),
        ('{"password": "it\'s \\"long\\"", "a": 1}', '{"password": "[redacted]", "a": 1}'),
        ("x-precipiq-key: abc", "x-precipiq-key: [redacted]"),
        ("Authorization: Bearer opaqueTOKEN123 next", "Authorization: Bearer [redacted] next"),
        ("authorization: bearer opaquetoken next", "authorization: [redacted] next"),
        ("Cookie: a=b; c=d", "Cookie: [redacted]"),
        ("[(b'cookie', b'a=b; c=d'), (b'host', b'h')]", "[(b'cookie', b'[redacted]'), (b'host', b'h')]"),
        ("Basic dXNlcjpwYXNz", "Basic [redacted]"),
        ("?a=1&api_key=abc&b=2", "?a=1&api_key=[redacted]&b=2"),
        ("?a=1;apiKey=abc;b=2", "?a=1;apiKey=[redacted];b=2"),
        ("?%61pi%255Fkey%3Dabc&b=2", "?api_key=[redacted]&b=2"),
        ("api_key=abc%26def&x=1", "api_key=[redacted]&x=1"),
        ("postgresql://u:p%40ss@h/db", "postgresql://u:[redacted]@h/db"),
        ("redis://:pw@h:6379/0", "redis://:[redacted]@h:6379/0"),
        ("whsec_ab+cd/efghIJKLMNOP== next", "[redacted] next"),
        ("sk_live_abcdefgh12345678", "[redacted]"),
        ("pq_test_Ab3dEf6h...wxyz next", "[redacted] next"),
        ("pq_test_Ab3d...vwxyz1234 next", "[redacted] next"),
        ("pq_test_Ab3d...wxyz next", "pq_test_Ab3d...wxyz next"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl next", "[redacted] next"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEvQ\n-----END RSA PRIVATE KEY-----\nnext", "[redacted]\nnext"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQ", "[redacted]"),
        ("token: abc", "token: [redacted]"),
        ('{"token":null,"secret":true}', None),
        ("secret=[redacted]", None),
    ],
)
def test_what_a_line_becomes(text, expected, scrubber):
    clean = scrubber.line(line(text))
    if expected is None:
        # As JSON inside a string nothing is known to be a number, at the top of a line it is.
        clean = scrubber.line(text.encode())
        assert clean == text.encode()
    else:
        assert json.loads(clean) == {"event": expected}


def test_values_of_secret_names_are_replaced_however_deep(scrubber):
    event = {
        "X-Precipiq-Key": "a",
        "apiKey": "a",
        "deep": [{"set-cookie": "b", "headers": [(b"authorization", b"c"), ("host", "h")]}],
        "db_password": "d",
        "token": "e",
        "token_count": 5,
        "page_token": "f",
    }
    assert scrubber.event(event) == {
        "X-Precipiq-Key": REDACTED,
        "apiKey": REDACTED,
        "deep": [{"set-cookie": REDACTED, "headers": [[b"authorization", REDACTED], ["host", "h"]]}],
        "db_password": REDACTED,
        "token": REDACTED,
        "token_count": 5,
        "page_token": "f",
    }


def test_plugins_add_names_and_shapes():
    scrubber = Scrubber()
    before = line("acme-signature=abc foo_bar=abc Acme_key_0123456789abcdef")
    assert scrubber.line(before) == before
    scrubber.add(["Acme-Signature", "foo-bar", ""], ["Acme_key_", ""])
    assert json.loads(scrubber.line(before)) == {"event": "acme-signature=[redacted] foo_bar=[redacted] [redacted]"}
    assert scrubber.line(line(base64.b64encode(b"xAcme_key_0123456789").decode())).endswith(b'[redacted]"}')
    assert scrubber.event({"acme_signature": "x"}) == {"acme_signature": REDACTED}


_SIZE = 1_000_000
_ADVERSARIAL = {
    "backslashes": b"\\",
    "percent": b"%",
    "percent 25": b"%25",
    "percent then 25s": b"25",
    "escapes": b"\\u0070",
    "hex escapes": b"\\x70",
    "prefix": b"pq_test_",
    "half a prefix": b"pq_tes",
    "prefix and seven": b"pq_test_1234567 ",
    "escaped prefix": b"%70%71%5f%74",
    "jwt starts": b"eyJaaaaaaaa-",
    "jwt halves": b"eyJaaaaaaaa.",
    "jwt dots": b"-eyJaaaaaaaa..",
    "schemes": b"basic ",
    "pluses": b"bearer+",
    "urls": b"://:",
    "url passwords": b"://a:" + b"b" * 300,
    "names": b"token",
    "names and spaces": b"token        ",
    "assignments": b"token=",
    "quotes": b"'password': '",
    "escaped quotes": b'password=\\"',
    "long passwords": b"password=\\\\\\'",
    "header fields": b"(b'token', b'",
    "cookies": b"cookie: ",
    "keys begin": b"-----BEGIN PRIVATE KEY-----",
    "dashes": b"-",
    "base64": b"cHFfdGVzdF",
    "hexadecimal": b"70715f746573745f",
    "wraps": b"A" * 64 + b"\\n",
    "ellipses": b"...a",
    "long ellipses": b"a...aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "echo": b"input_value=",
    "letters": b"a",
    "spaces": b" ",
}


@pytest.mark.parametrize("start", [b"", b"%", b"pq_test_", b"password='", b"bearer "], ids=repr)
@pytest.mark.parametrize("unit", _ADVERSARIAL.values(), ids=_ADVERSARIAL)
def test_a_hostile_megabyte_is_scrubbed_in_a_moment(start, unit, scrubber):
    """Not timed: with a quadratic expression one of these takes hours, and the run ends there."""
    text = start + unit * (_SIZE // 5 // len(unit))
    assert len(scrubber.line(text)) <= 12 * _SIZE


def test_identifiers_stay_readable(scrubber):
    text = line([str(uuid.uuid4()), secrets.token_hex(32), "token_count=5", "pq_test_...wXyZ", "req_" + "a2" * 12])
    assert scrubber.line(text) == text


def test_base64_of_a_prefix_is_known_in_every_alignment():
    for offset in range(3):
        encoded = base64.b64encode(b"x" * offset + b"pq_test_secret")
        assert any(core in encoded for core in patterns.base64_cores("pq_test_"))
