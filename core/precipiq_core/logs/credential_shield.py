"""Takes the key out of the request before anything else sees it, and hands it on as a ``Credential``."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_core.contracts.credential import Credential

QUERY_NAMES = frozenset((b"api_key", b"api-key", b"apikey"))

_KEY_HEADERS = frozenset((b"x-precipiq-key", b"authorization"))
_DROPPED_HEADERS = frozenset((b"cookie", b"proxy-authorization"))
_AMBIGUOUS = Credential("")


class CredentialShield:
    """Puts ``precipiq.credential`` (or None) into a copy of the scope whose headers and query hold no key.

    Several different keys in one request are ambiguous, so they count as a wrong one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = _shielded(scope)
        await self._app(scope, receive, send)


def _shielded(scope: Scope) -> Scope:
    found: set[bytes] = set()
    headers = []
    for name, value in scope["headers"]:
        if name in _KEY_HEADERS:
            found.add(_presented(name, value))
        elif name == b"referer":
            headers.append((name, value.partition(b"?")[0].partition(b"#")[0]))
        elif name not in _DROPPED_HEADERS:
            headers.append((name, value))
    query = scope.get("query_string", b"")
    if query:
        query = _without_keys(query, found)
    raw_path = scope.get("raw_path")
    changed = {**scope, "headers": headers, "query_string": query, "precipiq.credential": _credential(found)}
    if raw_path is not None:
        changed["raw_path"] = raw_path.partition(b"?")[0]
    return changed


def _presented(name: bytes, value: bytes) -> bytes:
    value = value.strip()
    if name == b"authorization":
        scheme, _, rest = value.partition(b" ")
        return rest.strip() if scheme.lower() == b"bearer" else b"?" + value
    return value


def _without_keys(query: bytes, found: set[bytes]) -> bytes:
    kept = []
    for pair in query.replace(b";", b"&").split(b"&"):
        name, _, value = pair.partition(b"=")
        if _decoded(name).lower() in QUERY_NAMES:
            found.add(_decoded(value))
        else:
            kept.append(pair)
    return query if len(kept) == query.count(b"&") + 1 else b"&".join(kept)


def _decoded(text: bytes) -> bytes:
    """Percent-decoded twice: ``api%255Fkey`` is no name of ours, but its value must not pass either."""
    return unquote_to_bytes(unquote_to_bytes(text.replace(b"+", b" ")))


def _credential(found: set[bytes]) -> Credential | None:
    if not found:
        return None
    if len(found) > 1:
        return _AMBIGUOUS
    return Credential(found.pop().decode("latin-1"))
