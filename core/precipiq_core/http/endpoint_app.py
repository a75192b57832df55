"""An endpoint as an ASGI application: authenticate, rate limit, parse, validate, act, in this order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import Authenticator, Principal, RateLimiter
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import InternalError, PrecipiqError, RateLimited, Unavailable, ValidationFailed
from precipiq_core.http.authentication import address_of, authenticate, credential_of, peer_of
from precipiq_core.http.body import BodyLimits, read_json, read_raw
from precipiq_core.http.download import DownloadAnswer, Times
from precipiq_core.http.endpoint import (
    Call,
    Download,
    Endpoint,
    LateReply,
    NoBody,
    NoQuery,
    RawRequest,
    Reply,
    StreamReply,
)
from precipiq_core.http.envelope import JSON_TYPE, Answer, error_answer, send_answer, success
from precipiq_core.http.rate_headers import rate_headers
from precipiq_core.http.streaming import LateFailure, send_stream
from precipiq_core.http.validation import parse_body, parse_query

_IDEMPOTENCY_KEY_BYTES_MAX = 255
_LAST_EVENT_ID_BYTES_MAX = 200


@dataclass(frozen=True, slots=True)
class Edge:
    """What every endpoint of an application shares."""

    authenticators: Sequence[Authenticator]
    rate_limiter: RateLimiter | None
    limits: BodyLimits
    times: Times
    clock: Clock


class EndpointApp:
    """An endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, edge: Edge, route: str) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._route = route
        self._takes_body = endpoint.body is not NoBody
        self._media_type = (b"content-type", endpoint.media_type.encode())

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._route
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            if self._endpoint.admission is not None:
                await self._endpoint.admission.admit(address_of(scope))
            credential = credential_of(scope, key_in_query=self._endpoint.key_in_query)
            principal = await authenticate(self._edge.authenticators, scope, credential, self._endpoint.scope)
            headers = await self._rate_limit(principal)
            call = await self._parse(principal, credential, scope, receive)
            async with asyncio.timeout(self._edge.times.handler_timeout_s):
                result = await self._endpoint.handler(call)
            if isinstance(result, LateReply):
                await self._send_late(result, call.request_id, headers, send)
                return
            if isinstance(result, StreamReply):
                await send_stream(result, (self._media_type, *headers, *result.headers), receive, send)
                return
            if isinstance(result, Download):
                await DownloadAnswer(result, self._media_type, headers, self._edge.times)(scope, receive, send)
                return
            answer = self._answer(result, call.request_id)
        except InternalError:
            raise  # the boundary logs what is nobody's request's fault
        except PrecipiqError as error:
            if isinstance(error, _Limited):
                headers = error.headers
            if self._endpoint.admission is not None:
                self._endpoint.admission.refused(error.code, address_of(scope))
            answer = error_answer(error)
        except TimeoutError:
            answer = error_answer(Unavailable("the request took too long; its outcome is unknown"))
        except ClientDisconnect:
            return
        await send_answer(send, answer, headers)

    async def _rate_limit(self, principal: Principal) -> tuple[tuple[bytes, bytes], ...]:
        if self._edge.rate_limiter is None:
            return ()
        state = await self._edge.rate_limiter.hit(principal.chain, self._endpoint.rate_group)
        if state.retry_after_s > 0:
            raise _Limited(state.retry_after_s, rate_headers(state))
        return rate_headers(state)

    async def _parse(
        self, principal: Principal, credential: Credential | None, scope: AsgiScope, receive: Receive
    ) -> Call[Any, Any]:
        endpoint = self._endpoint
        query: BaseModel = _NO_QUERY
        if scope["query_string"] or endpoint.query is not NoQuery:
            query = parse_query(endpoint.query, scope["query_string"])
        body: BaseModel = _NO_BODY
        if self._takes_body:
            body = parse_body(endpoint.body, await read_json(scope["headers"], receive, self._edge.limits))
        raw = None
        if endpoint.raw_body_bytes_max is not None:
            limits = replace(self._edge.limits, bytes_max=endpoint.raw_body_bytes_max)
            raw = RawRequest(scope["headers"], await read_raw(scope["headers"], receive, limits))
        key = _idempotency_key(scope["headers"]) if endpoint.method == "POST" and raw is None else None
        return Call(
            principal,
            body,
            query,
            scope.get("path_params", {}),
            key,
            scope["precipiq.request_id"],
            peer_of(self._edge.authenticators, scope, credential),
            _last_event_id(scope["headers"]),
            raw,
        )

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


def _last_event_id(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"last-event-id":
            return value[:_LAST_EVENT_ID_BYTES_MAX].decode("latin-1")
    return None


def _printable(value: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in value)
