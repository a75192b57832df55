"""The shield finds the key wherever a client may put it, hands it on unprintable, and leaves the rest as it was."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from precipiq_contracts.credential import Credential
from precipiq_core.edge.credential_shield import CredentialShield

pytestmark = pytest.mark.anyio


async def _seen(query: bytes = b"", *headers: tuple[bytes, bytes], kind: str = "http", **scope: Any) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": kind, "query_string": query, "headers": list(headers), "path": "/", "raw_path": b"/", **scope}
    before = copy.deepcopy(scope)
    await CredentialShield(app)(scope, None, None)  # type: ignore[arg-type]
    assert scope == before
    return seen[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"api_key=S", b""),
        (b"a=1&api_key=S&b=2", b"a=1&b=2"),
        (b"API-Key=S&a=1", b"a=1"),
        (b"apiKey=S", b""),
        (b"api%5Fkey=S", b""),
        (b"%61pi%255fkey=S&a=%20", b"a=%20"),
        (b"a=1;api_key=S;b=2", b"a=1;b=2"),
        (b"api_key=S&api_key=S", b""),
        (b"api_key=%53&a", b"a"),
        (b"+api_key=S", b""),
    ],
)
async def test_the_key_is_taken_out_of_the_query(query, left, kind):
    scope = await _seen(query, kind=kind)
    assert scope["query_string"] == left
    if kind == "http":
        assert scope["precipiq.credential"] is None
    else:
        assert scope["precipiq.credential"].reveal() == "S"


@pytest.mark.parametrize(
    "header", [(b"x-precipiq-key", b" S "), (b"authorization", b"Bearer S"), (b"authorization", b"bearer  S")]
)
async def test_the_key_is_taken_out_of_the_headers(header):
    scope = await _seen(b"a=1", header, (b"host", b"h"), (b"cookie", b"c"), (b"x-api-key", b"other"))
    assert scope["headers"] == [(b"host", b"h")]
    assert scope["precipiq.credential"].reveal() == "S"


async def test_the_same_key_twice_is_one_key_but_two_keys_are_none():
    twice = await _seen(b"api_key=S", (b"x-precipiq-key", b"S"), (b"authorization", b"Bearer S"))
    assert twice["precipiq.credential"].reveal() == "S"
    two = await _seen(b"api_key=S&api_key=T", kind="websocket")
    assert two["precipiq.credential"].reveal() == ""
    for query, headers in (
        (b"api_key=S", ((b"x-precipiq-key", b"T"),)),
        (b"", ((b"x-precipiq-key", b"S"), (b"x-precipiq-key", b"T"))),
    ):
        assert (await _seen(query, *headers))["precipiq.credential"].reveal() == ""


@pytest.mark.parametrize("scheme", [b"Basic S", b"Basic", b"Negotiate x", b""])
async def test_a_scheme_that_is_not_ours_counts_for_nothing_beside_a_key_in_the_query(scheme):
    websocket = await _seen(b"api_key=S", (b"authorization", scheme), kind="websocket")
    assert websocket["precipiq.credential"].reveal() == "S"
    http = await _seen(b"api_key=S", (b"authorization", scheme))
    assert (http["precipiq.credential"], http["precipiq.query_credential"].reveal()) == (None, "S")
    key = await _seen(b"api_key=S", (b"authorization", scheme), (b"x-precipiq-key", b"T"))
    assert key["precipiq.credential"].reveal() == ""


async def test_a_trailing_nul_is_part_of_the_key_and_so_makes_it_wrong():
    assert (await _seen(b"api_key=S%00", kind="websocket"))["precipiq.credential"].reveal() == "S\0"


async def test_addresses_in_headers_lose_their_query():
    names = (b"referer", b"x-forwarded-uri", b"x-original-url")
    scope = await _seen(b"", *((name, b"http://h/a?api_key=S#S") for name in names))
    assert scope["headers"] == [(name, b"http://h/a") for name in names]
    assert scope["precipiq.credential"] is None


async def test_a_raw_path_loses_its_query():
    assert (await _seen(raw_path=b"/a?api_key=S"))["raw_path"] == b"/a"


@settings(max_examples=200, deadline=None)
@given(query=st.text(alphabet="ab=&;%+20key_", max_size=40).map(str.encode))
async def test_a_query_without_a_key_stays_byte_for_byte(query):
    scope = await _seen(query)
    assert scope["query_string"] == query
    assert scope["precipiq.credential"] is None


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.text(alphabet="ab=%20", max_size=6), max_size=5),
    at=st.integers(0, 5),
    separator=st.sampled_from("&;"),
)
async def test_other_pairs_survive_the_removal_of_a_key(pairs, at, separator):
    with_key = [*pairs[:at], "api_key=" + quote("S T"), *pairs[at:]]
    scope = await _seen(separator.join(with_key).encode(), kind="websocket")
    assert scope["query_string"].decode().strip("&;") == separator.join(pairs).strip("&;")
    assert scope["precipiq.credential"].reveal() == "S T"


async def test_the_lifespan_passes_untouched():
    assert await _seen(kind="lifespan") == {
        "type": "lifespan", "query_string": b"", "headers": [], "path": "/", "raw_path": b"/"
    }  # fmt: skip


def test_a_credential_has_no_text_and_no_copy(secret, defended, shows):
    credential = Credential(secret)
    for text in (repr(credential), str(credential), f"{credential}", f"{credential!r:>80}", repr({"c": [credential]})):
        assert secret not in text
    for copies in (pickle.dumps, copy.copy, copy.deepcopy, orjson.dumps):
        with pytest.raises(TypeError):
            copies(credential)
    with defended() as output:
        logging.getLogger("plugin").info("%s %r", credential, vars(type(credential)))
        structlog.get_logger("plugin").info("has", credential=credential, deep=[{"c": credential}])
    assert not shows(output.getvalue(), secret)
    assert credential.reveal() == secret
