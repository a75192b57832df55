"""Security headers on every answer; HSTS only where the client came over https."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNLESS_SET: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# Two years, with subdomains, preload: the preload list requires these. Only over https (RFC 6797 section 7.2).
_HSTS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains; preload")


class SecurityHeaders:
    """Adds the headers that the application did not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        secure = scope["scheme"] == "https"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = [*message.get("headers", ())]
                names = [field[0] for field in headers]
                headers += [field for field in _UNLESS_SET if field[0] not in names]
                if secure:
                    headers.append(_HSTS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
