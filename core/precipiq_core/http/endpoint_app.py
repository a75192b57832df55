"""An endpoint as an ASGI application: authenticate, rate limit, parse, validate, act, in this order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from precipiq_contracts.auth import Authenticator, Principal, RateLimiter, RateState
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import (
    InternalError,
    NotFound,
    PrecipiqError,
    RateLimited,
    RequestError,
    Unavailable,
    ValidationFailed,
)
from precipiq_core.http.answers import LateFailure, send_own, while_client_stays
from precipiq_core.http.authentication import address_of, authenticate, credential_of, peer_of
from precipiq_core.http.body import read_json, read_raw
from precipiq_core.http.endpoint import AnyQuery, Call, Endpoint, NoBody, NoQuery, PublicCall, RawBody, Reply
from precipiq_core.http.envelope import JSON_TYPE, Answer, Headers, error_answer, send_answer, success
from precipiq_core.http.request_keys import RequestKeys, request_content
from precipiq_core.http.request_work import SMALL_BODY_BYTES, BodyMemory, BodyWork, RequestWork
from precipiq_core.http.settings import HttpSettings
from precipiq_core.http.validation import parse_query
from precipiq_work.off_loop import OffLoop

_IDEMPOTENCY_KEY_BYTES_MAX = 255
_PRINTABLE = re.compile(rb"[\x20-\x7e]+")
_PATIENCE_S = 0.25


@dataclass(frozen=True, slots=True)
class Edge:
    """The parts that all endpoints of an application share."""

    authenticators: Sequence[Authenticator]
    rate_limiter: RateLimiter | None
    http: HttpSettings
    clock: Clock
    request_keys: RequestKeys | None = None
    work: RequestWork | None = None


class EndpointApp:
    """An endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, edge: Edge, route: str) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._route = route
        self._work = edge.work or RequestWork(edge.http, OffLoop())
        self._memory = None if endpoint.scope else BodyMemory(edge.http.keyless_body_memory_bytes_max)
        self._key_in_query = endpoint.answer.key_in_query

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._route
        headers: tuple[tuple[bytes, bytes], ...] = ()
        needed, admission = self._endpoint.scope, self._endpoint.admission
        credential = principal = work = None
        try:
            if admission is not None:
                await admission.admit(address_of(scope))
            if needed is not None:
                credential = credential_of(scope, key_in_query=self._key_in_query)
                principal = await authenticate(self._edge.authenticators, scope, credential, needed)
                if self._edge.rate_limiter is not None:
                    state = await self._edge.rate_limiter.hit(principal.chain, self._endpoint.rate_group)
                    headers = _rate_headers(state)
                    if state.retry_after_s > 0:
                        raise RateLimited(retry_after_s=state.retry_after_s)
            work = BodyWork(self._work, None if principal is None else principal.chain, self._memory)
            call = await self._parse(principal, credential, scope, receive, work)
            if self._endpoint.method != "GET":
                result = await self._act(call, work)
            else:  # work that changes nothing ends with its client
                async with while_client_stays(receive, after_s=_PATIENCE_S) as left:
                    result = await self._act(call, work)
                if left.expired():
                    return
            if callable(result):
                await send_own(result, headers, scope, receive, send)
                return
            answer = self._answer(result, scope["precipiq.request_id"])
        except InternalError:
            raise  # the boundary logs errors that no client caused
        except PrecipiqError as error:
            if admission is not None:
                admission.note_refusal(error.code, address_of(scope))
            answer = error_answer(error)
        except TimeoutError:
            answer = error_answer(Unavailable("the request took too long; its outcome is unknown"))
        except ClientDisconnect:
            return
        finally:
            if work is not None:
                work.release()
        if len(answer.body) > SMALL_BODY_BYTES:
            await self._send_large(send, answer, headers, principal)
        else:
            await send_answer(send, answer, headers)

    async def _send_large(self, send: Send, answer: Answer, headers: Headers, principal: Principal | None) -> None:
        """Send what stays in memory until the client has taken it: in bounded time, and within a share of memory."""
        chain = None if principal is None else principal.chain
        try:
            with self._work.answers.held_now(chain, len(answer.body), "too many answers wait to be taken"):
                async with asyncio.timeout(self._edge.http.download_stall_timeout_s):
                    await send_answer(send, answer, headers)
        except Unavailable as error:
            await send_answer(send, error_answer(error), headers)
        except TimeoutError as error:
            raise LateFailure from error

    async def _parse(
        self,
        principal: Principal | None,
        credential: Credential | None,
        scope: AsgiScope,
        receive: Receive,
        work: BodyWork,
    ) -> Call[Any, Any]:
        endpoint, http = self._endpoint, self._edge.http
        headers, path = scope["headers"], scope.get("path_params", {})
        if any("\x00" in str(value) for value in path.values()):  # no id holds it, and PostgreSQL's texts cannot
            raise NotFound
        query: BaseModel = _NO_QUERY
        if endpoint.query is not AnyQuery and (scope["query_string"] or endpoint.query is not NoQuery):
            query = parse_query(endpoint.query, scope["query_string"])
        body: BaseModel | bytes = _NO_BODY
        if isinstance(endpoint.body, RawBody):
            body = bytes(await read_raw(headers, receive, endpoint.body.bytes_max, http.body_timeout_s, work))
        elif endpoint.body is not NoBody:
            body = await read_json(endpoint.body, headers, receive, http, work)
        kind: type[PublicCall[Any, Any]] = PublicCall if principal is None else Call
        call = kind(
            principal,
            body,
            query,
            path,
            _idempotency_key(headers) if endpoint.method == "POST" and not isinstance(body, bytes) else None,
            scope["precipiq.request_id"],
            peer_of(self._edge.authenticators, scope, credential),
            scope,
        )
        return cast("Call[Any, Any]", call)  # a public endpoint's handler needs only a PublicCall

    async def _act(self, call: Call[Any, Any], work: BodyWork) -> object:
        """Call the handler, with the request's ``Idempotency-Key`` bound to this request, unless it was refused."""
        async with asyncio.timeout(self._edge.http.handler_timeout_s):
            keys, key, principal = self._edge.request_keys, call.idempotency_key, call.principal
            if keys is None or key is None or cast("Principal | None", principal) is None:
                return await self._endpoint.handler(call)
            name = f"{self._endpoint.method} {self._route} {key}"
            depth_max = self._edge.http.depth_max
            content = await work.run(partial(request_content, call.path, call.body, depth_max=depth_max))
            is_first = await keys.bind(principal.chain, name, content)
            try:
                return await self._endpoint.handler(call)
            except RequestError:
                if is_first:
                    await keys.release(principal.chain, name, content)
                raise

    def _answer(self, result: object, request_id: str) -> Answer:
        reply = result if isinstance(result, Reply) else Reply(result)
        body = success(reply.data, request_id=request_id, timestamp=format_timestamp(self._edge.clock.now_us()))
        return Answer(reply.status or self._endpoint.status, body, (JSON_TYPE, *reply.headers))


_NO_BODY = NoBody()
_NO_QUERY = NoQuery()


def _rate_headers(state: RateState) -> tuple[tuple[bytes, bytes], ...]:
    """Policy and state of the counter that the request counted against: draft-ietf-httpapi-ratelimit-headers-11."""
    policy = f'"{state.policy}";q={state.quota};w={state.window_s}'
    current = f'"{state.policy}";r={state.remaining};t={state.reset_s}'
    return ((b"ratelimit-policy", policy.encode()), (b"ratelimit", current.encode()))


def _idempotency_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    values = [field[1] for field in headers if field[0] == b"idempotency-key"]
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= _IDEMPOTENCY_KEY_BYTES_MAX or not _PRINTABLE.fullmatch(values[0]):
        problem = f"must be one value of 1 to {_IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        raise ValidationFailed(details={"Idempotency-Key": [problem]})
    return values[0].decode("ascii")
