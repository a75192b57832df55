"""Typed endpoints: what a plugin declares. ``endpoint_app`` takes the steps of a request to one.

OpenAPI is generated from the same declarations.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.types import ASGIApp

from precipiq_contracts.auth import Principal, RateGroup, Scope
from precipiq_core.http.validation import RequestModel

Method: TypeAlias = Literal["GET", "POST", "DELETE"]


JSON = "application/json"
EVENT_STREAM = "text/event-stream"


class NoBody(RequestModel):
    """The body type of endpoints that take none."""


class NoQuery(RequestModel):
    """The query type of endpoints that take no parameters."""


BodyT = TypeVar("BodyT", bound=BaseModel)
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

    def refused(self, code: str, address: str | None) -> None:
        """An opening was answered with this error code, by :meth:`admit`, core or the handler."""
        ...


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request's headers (names in lower case) and body as they came, for endpoints that check a signature."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of that header; bytes that are no ASCII become replacement characters."""
        wanted = name.encode()
        return [value.decode("ascii", "replace") for key, value in self.headers if key == wanted]


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, QueryT]):
    """One request as its handler sees it: authenticated, parsed and validated.

    ``path``: values of the path's ``{names}``. ``idempotency_key``: the ``Idempotency-Key`` header, if any.
    ``last_event_id``: the header of that name, with which a stream of events is taken up again. ``raw``: of an
    endpoint with ``raw_body_bytes_max``.
    """

    principal: Principal
    body: BodyT
    query: QueryT
    path: Mapping[str, str]
    idempotency_key: str | None
    request_id: str
    peer: Peer
    last_event_id: str | None = None
    raw: RawRequest | None = None


REPLAYED = (b"idempotent-replayed", b"true")
"""The header of an answer to a request that was made before."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns when plain data with the endpoint's usual status is not enough."""

    data: object
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class LateReply:
    """An answer that may take long: once ``patience_s`` is over, white space keeps the connection alive.

    The status is then already sent, so a failure after that breaks the connection off: never a wrong answer.
    """

    data: Awaitable[object]
    patience_s: float = 5.0
    interval_s: float = 1.0


SendBytes: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamReply:
    """An answer without an end of its own. ``run`` is given what sends a piece; the answer ends when it returns.

    It is cancelled when the client leaves. A piece that the client does not take holds ``run`` up: it must bound that.
    """

    run: Callable[[SendBytes], Awaitable[None]]
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Download:
    """A file as an answer, whole or the part that the client asks for; of an endpoint with ``is_download``.

    ``read(start, end)``: the bytes ``start`` <= index < ``end`` in pieces; closed in any case, and not called for HEAD.
    ``etag``: names exactly these bytes: printable ASCII without quotes. ``on_begin``: told the index of the first byte
    once it was read and before the status is sent, so that what it raises is the answer; not for HEAD and 304.
    """

    size_bytes: int
    read: Callable[[int, int], AsyncGenerator[bytes, None]]
    file_name: str
    etag: str
    on_begin: Callable[[int], Awaitable[None]] | None = None


Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. ``handler``'s docstring is the description in OpenAPI, its first line the summary.

    ``path``: relative to ``/api/v1``, or absolute when ``absolute``. ``scope``: what the key must allow.
    ``rate``: which counter the request counts against (default: ``read`` for GET, else ``write``).
    ``output``: model of ``data``; documents the answer and is checked by the tests, not at run time.
    ``errors``: codes beyond those that every endpoint of its form can give.
    ``media_type``: of the answer; other than JSON for a handler that returns ``StreamReply`` or ``Download``.
    ``is_download``: it returns ``Download``. ``key_in_query``: accept ``?api_key=`` too, for clients that cannot set
    headers. ``admission``: what stands before the key. ``raw_body_bytes_max``: the body is not parsed, the handler gets
    up to so many bytes as they came; then there is no ``body``, and no ``Idempotency-Key``. ``repeat_status``: what a
    request that was made before is answered with, where that is another.
    """

    method: Method
    path: str
    handler: Handler
    scope: Scope
    output: type[BaseModel]
    body: type[BaseModel] = NoBody
    query: type[BaseModel] = NoQuery
    status: int = 200
    rate: RateGroup | None = None
    errors: tuple[str, ...] = ()
    absolute: bool = False
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON
    is_download: bool = False
    key_in_query: bool = False
    admission: Admission | None = None
    raw_body_bytes_max: int | None = None
    repeat_status: int | None = None

    @property
    def rate_group(self) -> RateGroup:
        return self.rate or ("read" if self.method == "GET" else "write")

    @property
    def has_head(self) -> bool:
        """Whether the path of this GET answers HEAD: a stream does not, since it would have to begin."""
        return self.media_type == JSON or self.is_download


@dataclass(frozen=True, slots=True)
class PlainEndpoint:
    """A path without key, envelope or model, such as ``/metrics``: an ASGI application that answers one method.

    ``path``: absolute; its ``{names}`` stand in the scope's ``path_params``. ``errors``: codes it can answer with
    beside ``not_found``, which goes without saying where there are names. ``headers``: that it needs, each with what it
    is for. ``output``: model of ``data``, where the answer has the envelope nevertheless. A POST takes any body; the
    application must read and bound it.
    """

    path: str
    app: ASGIApp
    summary: str
    media_type: str
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    method: Literal["GET", "POST"] = "GET"
    output: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
