"""Who the client is behind proxies, whatever it says itself."""

from __future__ import annotations

import time
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from precipiq_peers.proxies import TrustedProxies

pytestmark = pytest.mark.anyio

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")]
PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"


async def seen(peer: str, *headers: tuple[str, str], kind: str = "http", networks=NETWORKS) -> tuple[str, str]:
    """The client's address and the scheme as the application sees them."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    scope = {
        "type": kind,
        "client": (peer, 40000),
        "scheme": "http" if kind == "http" else "ws",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    before = dict(scope)
    await TrustedProxies(app, networks)(scope, None, None)
    assert scope == before, "the server's own scope was changed"
    return scopes[0]["client"][0], scopes[0]["scheme"]


def forwarded_for(value: str) -> tuple[str, str]:
    return "x-forwarded-for", value


@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.8, 10.0.0.7", "10.0.0.8"),
        ("10.0.0.1", "203.0.113.9:5555", "203.0.113.9"),
        ("10.0.0.1", "2001:db8::9", "2001:db8::9"),
        ("10.0.0.1", "[2001:db8::9]:5555", "2001:db8::9"),
        ("10.0.0.1", "203.0.113.9, 2001:db8:1::7", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, nonsense, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, , ", "203.0.113.9"),
        ("10.0.0.1", ", ,", "10.0.0.1"),
        ("10.0.0.1", '"203.0.113.9"', "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, fe80::1%eth0", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:http", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, 1", "10.0.0.1"),
        ("203.0.113.1", "1.1.1.1", "203.0.113.1"),
        ("2001:db8:2::1", "1.1.1.1", "2001:db8:2::1"),
    ],
)
async def test_the_client_is_the_right_most_address_that_is_no_trusted_proxy(peer, value, client) -> None:
    assert await seen(peer, forwarded_for(value)) == (client, "http")


async def test_a_second_header_of_the_same_name_continues_the_first() -> None:
    assert (await seen("10.0.0.1", forwarded_for("1.1.1.1"), forwarded_for("203.0.113.9")))[0] == "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "kind", "value", "scheme"),
    [
        ("10.0.0.1", "http", "https", "https"),
        ("10.0.0.1", "websocket", "https", "wss"),
        ("10.0.0.1", "websocket", "wss", "wss"),
        ("10.0.0.1", "http", "http", "http"),
        ("10.0.0.1", "http", "https, http", "http"),
        ("10.0.0.1", "http", "javascript", "http"),
        ("203.0.113.1", "http", "https", "http"),
    ],
)
async def test_the_scheme_is_taken_from_trusted_proxies_only(peer, kind, value, scheme) -> None:
    assert (await seen(peer, ("x-forwarded-proto", value), kind=kind))[1] == scheme


async def test_without_trusted_proxies_nobody_is_believed() -> None:
    claims = forwarded_for("1.1.1.1"), ("x-forwarded-proto", "https")
    assert await seen("127.0.0.1", *claims, networks=[]) == ("127.0.0.1", "http")


def forwarded(value: str) -> tuple[str, str]:
    return "forwarded", value


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.9", CLIENT),
        ("FOR=203.0.113.9;By=10.0.0.1;Host=example.com", CLIENT),
        ("by=10.0.0.1;for=203.0.113.9", CLIENT),
        ('for="203.0.113.9"', CLIENT),
        ('for="203.0.113.9:5555"', CLIENT),
        ("for=203.0.113.9:5555", CLIENT),
        ('for="203.0.113.9:_port"', CLIENT),
        ("for=1.1.1.1, for=203.0.113.9", CLIENT),
        ("for=1.1.1.1,for=203.0.113.9,for=10.0.0.7", CLIENT),
        ("for=1.1.1.1 ,, for=203.0.113.9 , ,for=10.0.0.7, ", CLIENT),
        ("for=10.0.0.8, for=10.0.0.7", "10.0.0.8"),
        ("for=203.0.113.9;;by=10.0.0.1;", CLIENT),
        ("for=203.0.113.9; by=10.0.0.1", CLIENT),
        ('for="[2001:db8::9]"', "2001:db8::9"),
        ('for="[2001:DB8:0::9]:5555"', "2001:db8::9"),
        ("for=[2001:db8::9]", "2001:db8::9"),
        ("for=2001:db8::9", "2001:db8::9"),
        ('for="[::ffff:203.0.113.9]"', CLIENT),
        ('for="[::ffff:cb00:7109]:1"', CLIENT),
        ('for=203.0.113.9, for="[2001:db8:1::7]:443"', CLIENT),
        (r'for="203\.0.113.9"', CLIENT),
        ('for=203.0.113.9;host="a,b;for=1.1.1.1"', CLIENT),
        (r'for=203.0.113.9;host="\", for=1.1.1.1;a=\""', CLIENT),
        (r'for=203.0.113.9;host="\\", for=10.0.0.7', CLIENT),
        (r'for="1.1.1.1\", for=203.0.113.9', CLIENT),
        ('for="1.1.1.1, for=203.0.113.9', CLIENT),
        ('for=1.1.1.1, for=", for="[2001:db8::9]:1"', "2001:db8::9"),
        ("for=203.0.113.9, for=unknown", PROXY),
        ("for=203.0.113.9, for=_hidden", PROXY),
        ('for=203.0.113.9, for="_hidden:80", for=10.0.0.7', "10.0.0.7"),
        ("for=203.0.113.9, by=10.0.0.1", PROXY),
        ("for=203.0.113.9, nonsense, for=10.0.0.7", "10.0.0.7"),
        ("for=203.0.113.9, 1.1.1.1", PROXY),
        ("for=203.0.113.9;for=1.1.1.1", PROXY),
        ('for="203.0.113.9', PROXY),
        ('for="203.0.113.9"x', PROXY),
        ('for="203.0.113.9, 1.1.1.1"', PROXY),
        ('for="[fe80::1%eth0]"', PROXY),
        ("for=[203.0.113.9", PROXY),
        ("for=[]", PROXY),
        ('for=""', PROXY),
        ("for=", PROXY),
        ("=203.0.113.9", PROXY),
        ("for =203.0.113.9", PROXY),
        ("for=203.0.113.999", PROXY),
        ("for=203.0.113.9:123456", PROXY),
        ('"', PROXY),
        (",", PROXY),
        ("", PROXY),
        ("f\xf6r=203.0.113.9", PROXY),
    ],
)
async def test_the_standard_field_names_the_client_too(value, client) -> None:
    assert await seen(PROXY, forwarded(value)) == (client, "http")
    assert await seen("203.0.113.1", forwarded(value)) == ("203.0.113.1", "http")


async def test_several_lines_of_the_standard_field_are_one_list() -> None:
    lines = [forwarded("for=1.1.1.1"), forwarded("for=203.0.113.9"), forwarded("for=10.0.0.7")]
    assert (await seen(PROXY, *lines))[0] == CLIENT
    opened = [forwarded('for="1.1.1.1'), forwarded('for="203.0.113.9"')]
    assert (await seen(PROXY, *opened))[0] == CLIENT


@pytest.mark.parametrize(
    ("kind", "value", "scheme"),
    [
        ("http", "for=203.0.113.9;proto=https", "https"),
        ("http", "for=203.0.113.9;PROTO=HTTPS", "https"),
        ("http", 'proto="https"', "https"),
        ("websocket", "for=203.0.113.9;proto=https", "wss"),
        ("http", "for=203.0.113.9;proto=https, for=10.0.0.7;proto=http", "https"),
        ("http", "for=1.1.1.1;proto=https, for=203.0.113.9;proto=http", "http"),
        ("http", "for=1.1.1.1;proto=https, for=203.0.113.9", "http"),
        ("http", "for=1.1.1.1;proto=https, for=unknown;proto=http", "http"),
        ("http", "for=203.0.113.9;proto=javascript", "http"),
    ],
)
async def test_the_scheme_is_that_of_the_hop_that_names_the_client(kind, value, scheme) -> None:
    assert (await seen(PROXY, forwarded(value), kind=kind))[1] == scheme


@pytest.mark.parametrize(
    ("fields", "believed"),
    [
        ([forwarded_for(CLIENT), forwarded("for=203.0.113.9")], (CLIENT, "http")),
        ([forwarded_for(CLIENT), forwarded("for=1.1.1.1;proto=https")], (PROXY, "http")),
        ([forwarded_for("1.1.1.1"), forwarded("for=203.0.113.9")], (PROXY, "http")),
        ([forwarded_for(CLIENT), forwarded("for=unknown")], (PROXY, "http")),
        ([forwarded_for(CLIENT), forwarded("")], (PROXY, "http")),
        ([("x-forwarded-proto", "https"), forwarded("for=203.0.113.9")], (PROXY, "http")),
        ([forwarded_for(CLIENT), forwarded("for=203.0.113.9;proto=https")], (CLIENT, "http")),
        (
            [forwarded_for(CLIENT), ("x-forwarded-proto", "http"), forwarded("for=203.0.113.9;proto=https")],
            (CLIENT, "http"),
        ),
        (
            [forwarded_for(CLIENT), ("x-forwarded-proto", "https"), forwarded("for=203.0.113.9;proto=https")],
            (CLIENT, "https"),
        ),
    ],
)
async def test_of_both_kinds_of_fields_only_what_both_say_is_believed(fields, believed) -> None:
    assert await seen(PROXY, *fields) == believed
    assert await seen(PROXY, *reversed(fields)) == believed


async def test_no_more_than_32_hops_are_walked() -> None:
    for hops in (31, 32, 1000):
        named = CLIENT if hops < 32 else PROXY
        x_hops = ", ".join([CLIENT, *[PROXY] * hops])
        assert (await seen("10.0.0.2", forwarded_for(x_hops)))[0] == named
        standard = ", ".join([f"for={CLIENT}", *[f"for={PROXY}"] * hops])
        assert (await seen("10.0.0.2", forwarded(standard)))[0] == named


async def test_what_does_not_fit_is_not_read_in_part() -> None:
    long = f'for={PROXY};host="{"a" * 10_000}"'
    assert (await seen(PROXY, forwarded(f"for={CLIENT}, {long}, for=10.0.0.7")))[0] == "10.0.0.7"
    element = f"xfor={CLIENT};host=".ljust(8193, "a")
    assert (await seen(PROXY, forwarded(element)))[0] == PROXY
    assert (await seen(PROXY, forwarded(element[1:])))[0] == CLIENT


@pytest.mark.parametrize(
    "filler", ['"', ",", '",', '\\"', "\\", "; ", " ", 'a="', ";a=b", 'a="\\', "for=10.0.0.1,", 'for="10.0.0.1",']
)
async def test_no_field_takes_long(filler) -> None:
    field = filler * (64_000 // len(filler))
    for name in ("forwarded", "x-forwarded-for"):
        for value in (field, f"x={field}x", f"{field} x"):
            times_s = []
            for _ in range(3):
                begun_s = time.perf_counter()
                await seen(PROXY, (name, value))
                times_s.append(time.perf_counter() - begun_s)
            assert min(times_s) < 0.1


any_text = st.one_of(
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0")),
    st.text(st.sampled_from('for=10.0.0.1",;\\[]: _')),
    st.lists(
        st.sampled_from(["for=", "1.1.1.1", "10.0.0.7", '"', ",", ";", "\\", "proto=https", "[::1]", "host=", " "])
    ).map("".join),
)
addresses = st.one_of(
    st.ip_addresses(v=4).filter(lambda address: address not in NETWORKS[0]),
    st.ip_addresses(v=6).filter(
        lambda address: address not in NETWORKS[1] and not address.ipv4_mapped and address.scope_id is None
    ),
)
ends = st.sampled_from(["", ";by=10.0.0.1", ';host="a,b\\",for=1.1.1.1"', ";proto=http", ';x="";proto="http"'])
inner_hops = st.lists(st.sampled_from(["10.0.0.7", "2001:db8:1::7", "::ffff:10.0.0.9"]), max_size=4)


def standard_element(address, port: str, end: str) -> str:
    host = str(address) if ":" not in str(address) else f"[{address}]"
    return f'for="{host}{port}"{end}'


def appended(prefix: str, elements: list[str], as_lines: bool, name: str) -> list[tuple[str, str]]:
    """What the client sent, and behind it what each proxy appends: to the line, or as a line of its own."""
    if as_lines:
        return [(name, prefix), *((name, element) for element in elements)]
    return [(name, ", ".join([prefix, *elements]))]


@given(
    prefix=any_text,
    address=addresses,
    port=st.sampled_from(["", ":1", ":65535", ":_p"]),
    end=ends,
    inner=inner_hops,
    as_lines=st.booleans(),
)
async def test_whatever_a_client_puts_in_front_its_address_is_what_the_proxy_appends(
    prefix, address, port, end, inner, as_lines
) -> None:
    standard = [standard_element(address, port, end), *(standard_element(hop, "", end) for hop in inner)]
    assert await seen(PROXY, *appended(prefix, standard, as_lines, "forwarded")) == (str(address), "http")
    plain = [str(address), *inner]
    assert await seen(PROXY, *appended(prefix, plain, as_lines, "x-forwarded-for")) == (str(address), "http")


@given(smuggled=st.lists(st.tuples(st.sampled_from(["x-forwarded-for", "x-forwarded-proto"]), any_text), max_size=3))
async def test_beside_the_standard_field_the_others_take_no_other_address_and_no_scheme(smuggled) -> None:
    written = forwarded("for=203.0.113.9;proto=http")
    client, scheme = await seen(PROXY, *smuggled, written)
    assert client in (CLIENT, PROXY)
    assert scheme == "http"


@given(smuggled=st.lists(any_text.map(forwarded), max_size=3))
async def test_beside_the_others_the_standard_field_takes_no_other_address_and_no_scheme(smuggled) -> None:
    client, scheme = await seen(PROXY, forwarded_for(CLIENT), ("x-forwarded-proto", "http"), *smuggled)
    assert client in (CLIENT, PROXY)
    assert scheme == "http"
