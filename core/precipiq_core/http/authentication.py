"""From a request's scope to its principal and its peer: the same for requests and for WebSockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import Authenticator, Principal, Scope
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import Forbidden, Unauthorized
from precipiq_core.http.endpoint import Peer


async def authenticate(
    authenticators: Sequence[Authenticator], asgi_scope: AsgiScope, credential: Credential | None, needed: Scope
) -> Principal:
    """The principal of a request. Raises ``Unauthorized``, and ``Forbidden`` when its key lacks that scope."""
    principal = await identify(authenticators, credential)
    if principal is None:
        raise Unauthorized
    asgi_scope["precipiq.principal_ids"] = (principal.chain.org_id, principal.key_id)
    if not principal.may(needed):
        raise Forbidden(f"this needs a key with the scope {needed}")
    return principal


async def identify(authenticators: Sequence[Authenticator], credential: Credential | None) -> Principal | None:
    """Call the authenticators in boot order until one accepts."""
    if credential is None:
        return None
    for authenticator in authenticators:
        principal = await authenticator.authenticate(credential)
        if principal is not None:
            return principal
    return None


def credential_of(asgi_scope: AsgiScope, *, key_in_query: bool) -> Credential | None:
    """The credential of the request. A key in an HTTP request's query counts only where the endpoint says so."""
    credential: Credential | None = asgi_scope.get("precipiq.credential")
    if credential is None and key_in_query:
        credential = asgi_scope.get("precipiq.query_credential")
    return credential


def address_of(asgi_scope: AsgiScope) -> str | None:
    """The client's address, as trusted proxies report it."""
    client = asgi_scope.get("client")
    return str(client[0]) if client else None


def peer_of(authenticators: Sequence[Authenticator], asgi_scope: AsgiScope, credential: Credential | None) -> Peer:
    """The other end of that request's connection."""

    async def recheck() -> Principal | None:
        return await identify(authenticators, credential)

    credential_id = credential.digest if credential else b""
    return Peer(address_of(asgi_scope), credential_id, recheck, asgi_scope.get("precipiq.on_drain", _ignore))


def _ignore(callback: Callable[[], None]) -> None:
    """The ``on_drain`` of servers without our drain gate."""
