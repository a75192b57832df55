"""Typed endpoints: what a plugin declares. ``endpoint_app`` takes the steps of a request to one.

OpenAPI is generated from the same declarations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import Principal, RateGroup, Scope
from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.validation import RequestModel

Method: TypeAlias = Literal["GET", "POST", "DELETE"]


class NoBody(RequestModel):
    """The body type of endpoints that take none."""


class NoQuery(RequestModel):
    """The query type of endpoints that take no parameters: one that is given is refused."""


class AnyQuery(RequestModel):
    """The query type of endpoints that do not look at it, for callers that append what they like."""


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body as it came, byte for byte, whatever its media type: for handlers that check a signature over it.

    ``bytes_max``: more are refused. ``headers``: which such a request must have, each with what it is for; the handler
    checks them. The request has no ``Idempotency-Key`` then: what is signed has an id of its own.
    """

    bytes_max: int
    headers: Mapping[str, str] = field(default_factory=dict)


BodyT = TypeVar("BodyT", bound=BaseModel | bytes)
QueryT = TypeVar("QueryT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the connection, for handlers that keep it open.

    ``address``: the client's, seen through trusted proxies; None when there is none. ``credential_id``: the SHA-256 of
    what the client presented: the same for the same key, and nothing to log. ``recheck``: ask again whether
    the key is still good; None when it is not, raises ``Unavailable`` when nobody can tell. ``on_drain``: give it what
    to call when the server stops; whoever does so must then end by itself.
    """

    address: str | None
    credential_id: bytes
    recheck: Callable[[], Awaitable[Principal | None]]
    on_drain: Callable[[Callable[[], None]], None]


class Admission(Protocol):
    """Stands before an endpoint that keeps connections open, and hears of those that were refused."""

    async def admit(self, address: str | None) -> None:
        """Asked with the client's address before its key is looked at. Raises ``RateLimited``."""
        ...

    def note_refusal(self, code: str, address: str | None) -> None:
        """An opening was answered with this error code, by :meth:`admit`, core or the handler."""
        ...


@dataclass(frozen=True, slots=True)
class PublicCall(Generic[BodyT, QueryT]):
    """One request as the handler of a public endpoint sees it: parsed and validated. Nobody asked who sent it.

    ``body``: bytes where the endpoint takes a :class:`RawBody`. ``path``: values of the path's ``{names}``.
    ``idempotency_key``: the ``Idempotency-Key`` header, if any. ``asgi_scope``: without keys; for what is not here.
    """

    principal: Principal | None
    body: BodyT
    query: QueryT
    path: Mapping[str, str]
    idempotency_key: str | None
    request_id: str
    peer: Peer
    asgi_scope: AsgiScope

    def header_values(self, name: str) -> list[str]:
        """All values of that header, its name in lower case; bytes that are no ASCII become replacement characters."""
        wanted = name.encode()
        return [value.decode("ascii", "replace") for key, value in self.asgi_scope["headers"] if key == wanted]

    def tell_log(self, org_id: str, key_id: str) -> None:
        """Name in the access log who it was, where a handler finds that out by itself."""
        self.asgi_scope["precipiq.principal_ids"] = (org_id, key_id)


@dataclass(frozen=True, slots=True)
class Call(PublicCall[BodyT, QueryT]):
    """One request as the handler of an endpoint with a scope sees it: authenticated, too."""

    principal: Principal


REPLAYED = (b"idempotent-replayed", b"true")
"""The header of an answer to a request that was made before."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns when plain data with the endpoint's usual status is not enough."""

    data: object
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. ``handler``'s docstring is the description in OpenAPI, its first line the summary.

    ``path``: relative to ``/api/v1``, or absolute when ``absolute``. ``scope``: what the key must allow; None makes it
    public: no key is asked for, no limit by key counts, and the handler gets a :class:`PublicCall`.
    ``output``: the model of ``data``, which documents the answer and is checked by the tests, not at run time; or the
    class of an answer that sends itself. ``body``, ``query``: models, or :class:`RawBody` and :class:`AnyQuery`.
    ``rate``: which counter the request counts against (default: ``read`` for GET, else ``write``).
    ``errors``: codes beyond those that every endpoint of its form can give; a public one names them all.
    ``admission``: what stands before the key. ``repeat_status``: what a request that was made before is answered with,
    where that is another.
    """

    method: Method
    path: str
    handler: Handler
    scope: Scope | None
    output: type[BaseModel] | type[OwnAnswer]
    body: type[BaseModel] | RawBody = NoBody
    query: type[BaseModel] = NoQuery
    status: int = 200
    rate: RateGroup | None = None
    errors: tuple[str, ...] = ()
    absolute: bool = False
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    admission: Admission | None = None
    repeat_status: int | None = None

    @property
    def rate_group(self) -> RateGroup:
        return self.rate or ("read" if self.method == "GET" else "write")

    @property
    def answer(self) -> type[OwnAnswer]:
        """What is known of the answer beforehand; JSON in the envelope is as an answer of one's own is by default."""
        return OwnAnswer if issubclass(self.output, BaseModel) else self.output
