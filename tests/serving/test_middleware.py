"""Who the client is behind proxies, and the headers that every answer carries."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from starlette.types import Message, Receive, Scope, Send

from precipiq_core.serving.proxies import TrustedProxies
from precipiq_core.serving.security_headers import SecurityHeaders

pytestmark = pytest.mark.anyio

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")]
HSTS = "max-age=63072000; includeSubDomains; preload"


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
        ("203.0.113.1", "1.1.1.1", "203.0.113.1"),
        ("2001:db8:2::1", "1.1.1.1", "2001:db8:2::1"),
    ],
)
async def test_the_client_is_the_right_most_address_that_is_no_trusted_proxy(peer, value, client) -> None:
    assert await seen(peer, forwarded_for(value)) == (client, "http")


async def test_a_second_header_of_the_same_name_continues_the_first() -> None:
    assert (await seen("10.0.0.1", forwarded_for("1.1.1.1"), forwarded_for("203.0.113.9")))[0] == "203.0.113.9"


async def test_a_client_cannot_smuggle_an_address_in_the_header_that_its_proxy_does_not_set() -> None:
    smuggled = ("forwarded", "for=1.1.1.1;proto=https")
    assert await seen("10.0.0.1", smuggled, forwarded_for("203.0.113.9")) == ("203.0.113.9", "http")


@pytest.mark.parametrize(
    ("peer", "kind", "value", "scheme"),
    [
        ("10.0.0.1", "http", "https", "https"),
        ("10.0.0.1", "websocket", "https", "wss"),
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


async def answered(scheme: str, *headers: tuple[bytes, bytes]) -> list[tuple[str, str]]:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    await SecurityHeaders(app)({"type": "http", "scheme": scheme}, None, send)
    assert sent[1] == {"type": "http.response.body", "body": b""}
    return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


async def test_every_answer_tells_browsers_to_trust_it_little() -> None:
    headers = dict(await answered("http"))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_hsts_is_sent_over_tls_only() -> None:
    assert dict(await answered("https"))["strict-transport-security"] == HSTS
    assert "strict-transport-security" not in dict(await answered("http"))


@pytest.mark.parametrize(
    "name", [b"cache-control", b"content-security-policy", b"referrer-policy", b"cross-origin-resource-policy"]
)
async def test_what_the_application_set_stands_and_stands_alone(name) -> None:
    headers = await answered("https", (name, b"its own"))
    assert [value for key, value in headers if key == name.decode()] == ["its own"]
