"""Typed endpoints: what a plugin declares, and the steps that every request to one takes.

Authenticate, rate limit, parse, validate, act, in this order. OpenAPI is generated from the same declarations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from precipiq_core.clock import Clock, format_timestamp
from precipiq_core.contracts.auth import Authenticator, Principal, RateGroup, RateLimiter, Scope
from precipiq_core.errors import (
    Forbidden,
    InternalError,
    PrecipiqError,
    RateLimited,
    Unauthorized,
    Unavailable,
    ValidationFailed,
)
from precipiq_core.http.body import BodyLimits, read_json
from precipiq_core.http.envelope import JSON_TYPE, Answer, error_answer, send_answer, success
from precipiq_core.http.rate_headers import rate_headers
from precipiq_core.http.validation import RequestModel, parse_body, parse_query

Method: TypeAlias = Literal["GET", "POST", "DELETE"]

_IDEMPOTENCY_KEY_BYTES_MAX = 255


class NoBody(RequestModel):
    """The body type of endpoints that take none."""


class NoQuery(RequestModel):
    """The query type of endpoints that take no parameters."""


BodyT = TypeVar("BodyT", bound=BaseModel)
QueryT = TypeVar("QueryT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, QueryT]):
    """One request as its handler sees it: authenticated, parsed and validated.

    ``path``: values of the path's ``{names}``. ``idempotency_key``: the ``Idempotency-Key`` header, if any.
    """

    principal: Principal
    body: BodyT
    query: QueryT
    path: Mapping[str, str]
    idempotency_key: str | None
    request_id: str


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


Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. ``handler``'s docstring is the description in OpenAPI, its first line the summary.

    ``path``: relative to ``/api/v1``, or absolute when ``absolute``. ``scope``: what the key must allow.
    ``rate``: which counter the request counts against (default: ``read`` for GET, else ``write``).
    ``output``: model of ``data``; documents the answer and is checked by the tests, not at run time.
    ``errors``: codes beyond those that every endpoint of its form can give.
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

    @property
    def rate_group(self) -> RateGroup:
        return self.rate or ("read" if self.method == "GET" else "write")


@dataclass(frozen=True, slots=True)
class PlainEndpoint:
    """A path without key, envelope or model, such as ``/metrics``: an ASGI application that answers GET."""

    path: str
    app: ASGIApp
    summary: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Edge:
    """What every endpoint of an application shares."""

    authenticators: Sequence[Authenticator]
    rate_limiter: RateLimiter | None
    limits: BodyLimits
    handler_timeout_s: float
    clock: Clock


class EndpointApp:
    """An endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, edge: Edge, route: str) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._route = route
        self._takes_body = endpoint.body is not NoBody

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._route
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            principal = await self._authenticate(scope)
            headers = await self._rate_limit(principal)
            call = await self._parse(principal, scope, receive)
            async with asyncio.timeout(self._edge.handler_timeout_s):
                result = await self._endpoint.handler(call)
            if isinstance(result, LateReply):
                await self._send_late(result, call.request_id, headers, send)
                return
            answer = self._answer(result, call.request_id)
        except InternalError:
            raise  # the boundary logs what is nobody's request's fault
        except PrecipiqError as error:
            if isinstance(error, _Limited):
                headers = error.headers
            answer = error_answer(error)
        except TimeoutError:
            answer = error_answer(Unavailable("the request took too long; its outcome is unknown"))
        except ClientDisconnect:
            return
        await send_answer(send, answer, headers)

    async def _authenticate(self, scope: AsgiScope) -> Principal:
        credential = scope.get("precipiq.credential")
        if credential is None:
            raise Unauthorized
        for authenticator in self._edge.authenticators:
            principal = await authenticator.authenticate(credential)
            if principal is not None:
                scope["precipiq.principal_ids"] = (principal.chain.org_id, principal.key_id)
                if not principal.may(self._endpoint.scope):
                    raise Forbidden(f"this needs a key with the scope {self._endpoint.scope}")
                return principal
        raise Unauthorized

    async def _rate_limit(self, principal: Principal) -> tuple[tuple[bytes, bytes], ...]:
        if self._edge.rate_limiter is None:
            return ()
        state = await self._edge.rate_limiter.hit(principal.chain, self._endpoint.rate_group)
        if state.retry_after_s > 0:
            raise _Limited(state.retry_after_s, rate_headers(state))
        return rate_headers(state)

    async def _parse(self, principal: Principal, scope: AsgiScope, receive: Receive) -> Call[Any, Any]:
        endpoint = self._endpoint
        query: BaseModel = _NO_QUERY
        if scope["query_string"] or endpoint.query is not NoQuery:
            query = parse_query(endpoint.query, scope["query_string"])
        body: BaseModel = _NO_BODY
        if self._takes_body:
            body = parse_body(endpoint.body, await read_json(scope["headers"], receive, self._edge.limits))
        key = _idempotency_key(scope["headers"]) if endpoint.method == "POST" else None
        return Call(principal, body, query, scope.get("path_params", {}), key, scope["precipiq.request_id"])

    def _answer(self, result: object, request_id: str) -> Answer:
        reply = result if isinstance(result, Reply) else Reply(result)
        body = success(reply.data, request_id=request_id, timestamp=self._timestamp())
        return Answer(reply.status or self._endpoint.status, body, (JSON_TYPE, *reply.headers))

    async def _send_late(
        self, reply: LateReply, request_id: str, headers: tuple[tuple[bytes, bytes], ...], send: Send
    ) -> None:
        work = asyncio.ensure_future(reply.data)
        started = False
        try:
            done, _ = await asyncio.wait([work], timeout=reply.patience_s)
            if done:
                work.result()
            start = {"type": "http.response.start", "status": self._endpoint.status, "headers": [JSON_TYPE, *headers]}
            await send(start)
            started = True
            while not done:
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                done, _ = await asyncio.wait([work], timeout=reply.interval_s)
            body = success(work.result(), request_id=request_id, timestamp=self._timestamp())
            await send({"type": "http.response.body", "body": body})
        except PrecipiqError as error:
            if started:
                raise LateFailure from error
            raise
        finally:
            work.cancel()

    def _timestamp(self) -> str:
        return format_timestamp(self._edge.clock.now_us())


_NO_BODY = NoBody()
_NO_QUERY = NoQuery()


class LateFailure(Exception):
    """An answer failed after its status was sent; the connection is broken off so that nobody takes it for whole."""


class _Limited(RateLimited):
    """Carries the rate limit fields to the answer."""

    def __init__(self, retry_after_s: float, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        super().__init__(retry_after_s=retry_after_s)
        self.headers = headers


def _idempotency_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    values = [field[1] for field in headers if field[0] == b"idempotency-key"]
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= _IDEMPOTENCY_KEY_BYTES_MAX or not _printable(values[0]):
        problem = f"must be one value of 1 to {_IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        raise ValidationFailed(details={"Idempotency-Key": [problem]})
    return values[0].decode("ascii")


def _printable(value: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in value)
