"""The headers that every answer carries."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from precipiq_core.edge.security_headers import SecurityHeaders

pytestmark = pytest.mark.anyio

HSTS = "max-age=63072000; includeSubDomains; preload"


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
