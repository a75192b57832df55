"""Removes the key from the request before any other layer sees it, and passes it on as a ``Credential``."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_contracts.credential import Credential

QUERY_NAMES = frozenset((b"api_key", b"api-key", b"apikey"))

_KEY_HEADERS = frozenset((b"x-precipiq-key", b"authorization"))
_URL_HEADERS = frozenset((b"referer", b"x-forwarded-uri", b"x-original-uri", b"x-original-url", b"x-rewrite-url"))
_DROPPED_HEADERS = frozenset((b"cookie", b"proxy-authorization", b"x-api-key", b"api-key"))
_HELD_BACK = _KEY_HEADERS | _URL_HEADERS | _DROPPED_HEADERS
_SEPARATOR = re.compile(rb"([&;])")
_AMBIGUOUS = Credential("")
_FOREIGN = b"?"


class CredentialShield:
    """Puts ``precipiq.credential`` (or None) into a copy of the scope whose headers and query hold no key.

    Several different keys in one request are ambiguous, so they count as a wrong one. Other programs copy and log
    URLs: a key in a query counts for WebSockets, whose clients cannot set headers; that of an HTTP request becomes
    ``precipiq.query_credential``, for the few endpoints whose clients cannot either.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = _shield(scope)
        await self._app(scope, receive, send)


def _shield(scope: Scope) -> Scope:
    found: set[bytes] = set()
    headers = [field for field in scope["headers"] if field[0] not in _HELD_BACK]
    if len(headers) != len(scope["headers"]):
        for name, value in scope["headers"]:
            if name in _KEY_HEADERS:
                found.add(_read_key(name, value))
            elif name in _URL_HEADERS:
                headers.append((name, re.split(rb"[?#;]", value, maxsplit=1)[0]))
    query, in_query = _remove_keys(scope.get("query_string", b""))
    if len(found | in_query) > 1:  # beside a key, a proxy's own scheme counts for nothing
        found = {presented for presented in found if not presented.startswith(_FOREIGN)}
    if scope["type"] != "http" or found:
        found, in_query = found | in_query, set()
    changed = {**scope, "headers": headers, "query_string": query, "precipiq.credential": _credential(found)}
    if in_query:
        changed["precipiq.query_credential"] = _credential(in_query)
    raw_path = scope.get("raw_path")
    if raw_path is not None and b"?" in raw_path:
        changed["raw_path"] = raw_path.partition(b"?")[0]
    return changed


def _read_key(name: bytes, value: bytes) -> bytes:
    value = value.strip()
    if name == b"authorization":
        scheme, _, rest = value.partition(b" ")
        return rest.strip() if scheme.lower() == b"bearer" else _FOREIGN + value
    return value


def _remove_keys(query: bytes) -> tuple[bytes, set[bytes]]:
    """The query, byte for byte, except the pairs that hold keys, divided by ``&`` or ``;``; and these keys."""
    found: set[bytes] = set()
    if b"key" not in query.lower() and b"%" not in query:
        return query, found
    kept: list[bytes] = []
    pieces = _SEPARATOR.split(query)
    for separator, pair in zip([b"", *pieces[1::2]], pieces[::2], strict=True):
        name, _, value = pair.partition(b"=")
        if _decode(name).strip().lower() in QUERY_NAMES:
            found.add(_decode(value))
        else:
            kept += (separator, pair)
    if kept:
        kept[0] = b""  # if the first pair was a key, the next one begins the query
    return b"".join(kept), found


def _decode(text: bytes) -> bytes:
    """Percent-decoded twice: ``api%255Fkey`` is not a valid name, but its value must not pass either."""
    return unquote_to_bytes(unquote_to_bytes(text.replace(b"+", b" ")))


def _credential(found: set[bytes]) -> Credential | None:
    if not found:
        return None
    if len(found) > 1:
        return _AMBIGUOUS
    return Credential(found.pop().decode("latin-1"))
