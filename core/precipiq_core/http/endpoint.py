"""Typed endpoints: the declarations of plugins. ``endpoint_app`` carries out the steps of a request to one.

OpenAPI is generated from the same declarations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, get_args

from pydantic import BaseModel
from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import SCOPES, Principal, RateGroup, Scope
from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.validation import RequestModel

Method: TypeAlias = Literal["GET", "POST", "DELETE"]


class NoBody(RequestModel):
    """The body type of endpoints that take none."""


class NoQuery(RequestModel):
    """The query type of endpoints without parameters: any parameter is refused."""


class AnyQuery(RequestModel):
    """The query type of endpoints that ignore the query, for callers that append any parameters."""


@dataclass(frozen=True, slots=True)
class RawBody:
    """The received body, byte for byte, for any media type: for handlers that check a signature over it.

    ``bytes_max``: a larger body is refused. ``headers``: required headers, each with its purpose; the handler checks
    them. Such a request has no ``Idempotency-Key``: the signed content has an id of its own.
    """

    bytes_max: int
    headers: Mapping[str, str] = field(default_factory=dict)


BodyT = TypeVar("BodyT", bound=BaseModel | bytes)
QueryT = TypeVar("QueryT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the connection, for handlers that keep it open.

    ``address``: the client's, seen through trusted proxies; None when there is none. ``credential_id``: the SHA-256 of
    the client's credential: the same for the same key; it must not be logged. ``recheck``: authenticates the key
    again; None when it is no longer valid, raises ``Unavailable`` when no authenticator can decide. ``on_drain``:
    registers a function that is called when the server stops; the handler must then end by itself.
    """

    address: str | None
    credential_id: bytes
    recheck: Callable[[], Awaitable[Principal | None]]
    on_drain: Callable[[Callable[[], None]], None]


class Admission(Protocol):
    """Admits clients to an endpoint that keeps connections open, and counts the refused ones."""

    async def admit(self, address: str | None) -> None:
        """Called with the client's address before its key is checked. Raises ``RateLimited``."""
        ...

    def note_refusal(self, code: str, address: str | None) -> None:
        """Called when an opening was answered with this error code, by :meth:`admit`, core or the handler."""
        ...


@dataclass(frozen=True, slots=True)
class PublicCall(Generic[BodyT, QueryT]):
    """One request as the handler of a public endpoint sees it: parsed and validated. The sender is not authenticated.

    ``body``: bytes where the endpoint takes a :class:`RawBody`. ``path``: values of the path's ``{names}``.
    ``idempotency_key``: the ``Idempotency-Key`` header, if any. ``asgi_scope``: without keys; for further fields.
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
        """All values of that header, its name in lower case; bytes outside ASCII become replacement characters."""
        wanted = name.encode()
        return [value.decode("ascii", "replace") for key, value in self.asgi_scope["headers"] if key == wanted]

    def tell_log(self, org_id: str, key_id: str) -> None:
        """Name the sender in the access log, for handlers that authenticate it themselves."""
        self.asgi_scope["precipiq.principal_ids"] = (org_id, key_id)


@dataclass(frozen=True, slots=True)
class Call(PublicCall[BodyT, QueryT]):
    """One request as the handler of an endpoint with a scope sees it: authenticated, too."""

    principal: Principal


REPLAYED = (b"idempotent-replayed", b"true")
"""The header of an answer to a request that was made before."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A handler's result with a status or headers other than the endpoint's usual ones."""

    data: object
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. ``handler``'s docstring is the description in OpenAPI, its first line the summary.

    ``path``: relative to ``/api/v1``, or absolute when ``absolute``. ``scope``: of the key; None makes it public:
    no key is needed, no limit by key counts, and the handler gets a :class:`PublicCall`.
    ``output``: the model of ``data``, which documents the answer and is checked by the tests, not at run time; or the
    class of an answer that sends itself. ``body``, ``query``: models, or :class:`RawBody` and :class:`AnyQuery`.
    ``rate``: which counter the request counts against (default: ``read`` for GET, else ``write``).
    ``errors``: codes beyond those that every endpoint of its form can give; a public one names them all.
    ``admission``: called before the key is checked. ``repeat_status``: the status of the answer to a repeated request,
    where it differs.
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

    def __post_init__(self) -> None:
        """Refuse what could only fail at a request. Raises ``ValueError``."""
        is_body = isinstance(self.body, RawBody) or (isinstance(self.body, type) and issubclass(self.body, BaseModel))
        is_output = isinstance(self.output, type) and (
            issubclass(self.output, BaseModel) or hasattr(self.output, "has_head")
        )
        for is_right, problem in (
            (self.method in get_args(Method), f"the method is one of {get_args(Method)}"),
            (isinstance(self.path, str) and self.path.startswith("/"), "the path begins with a slash"),
            (callable(self.handler), "the handler is a coroutine function"),
            (self.scope is None or self.scope in SCOPES, f"the scope is None or one of {SCOPES}"),
            (self.rate is None or self.rate in get_args(RateGroup), f"the rate is one of {get_args(RateGroup)}"),
            (is_body, "the body is a pydantic model or a RawBody"),
            (is_output, "the output is a pydantic model or the class of an answer"),
            (_are_codes(self.errors), "errors is a tuple of codes"),
        ):
            if not is_right:
                raise ValueError(f"{self.method} {self.path}: {problem}")

    @property
    def rate_group(self) -> RateGroup:
        return self.rate or ("read" if self.method == "GET" else "write")

    @property
    def answer(self) -> type[OwnAnswer]:
        """The declaration of the answer; JSON in the envelope has the defaults of ``OwnAnswer``."""
        return OwnAnswer if issubclass(self.output, BaseModel) else self.output


def _are_codes(errors: object) -> bool:
    return (
        isinstance(errors, Sequence) and not isinstance(errors, str) and all(isinstance(each, str) for each in errors)
    )
