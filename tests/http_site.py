"""Endpoints with and without a key over fakes, in process: for tests of the edge and of what describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, Field, StrictFloat, StrictInt

from precipiq_contracts.auth import Principal, RateGroup, RateState
from precipiq_contracts.chain import Chain
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import NotFound
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.http.endpoint import AnyQuery, Call, Endpoint, NoBody, NoQuery, PublicCall
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.envelope import Answer
from precipiq_core.http.router import build_router
from precipiq_core.http.validation import RequestModel
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits


class Item(RequestModel):
    confidence: StrictFloat | StrictInt = Field(ge=0, le=1)


class NoteIn(RequestModel):
    text: str = Field(min_length=1, max_length=5)
    items: list[Item] = Field(default=[], max_length=2)


class NoteQuery(RequestModel):
    limit: int = Field(50, ge=1, le=500)
    agent: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class NoteOut(BaseModel):
    text: str


class Keys:
    async def authenticate(self, credential: Credential) -> Principal | None:
        scopes = {"reader": {"read"}, "writer": {"read", "write"}}.get(credential.reveal())
        return None if scopes is None else Principal(Chain("o", "test"), "key", frozenset(scopes))  # type: ignore[arg-type]


class Limiter:
    def __init__(self) -> None:
        self.hits: list[RateGroup] = []
        self.retry_after_s = 0.0

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        self.hits.append(group)
        return RateState(group, 5, 1, 4, 1, self.retry_after_s)


@dataclass
class Answered:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def error(self) -> Any:
        return json.loads(self.body)["error"]


class Site:
    """Two endpoints and a page over fakes; ``handler`` answers ``POST /notes``."""

    def __init__(self, handler: Callable[[Call[Any, Any]], Awaitable[object]] | None = None) -> None:
        self.limiter = Limiter()
        self.calls: list[Call[Any, Any]] = []
        self._handler = handler
        edge = Edge([Keys()], self.limiter, http_limits(100, 0.2, 8, 0.5), ManualClock())
        endpoints = [
            Endpoint("POST", "/notes", self.write, "write", NoteOut, body=NoteIn, status=201, errors=("conflict",)),
            Endpoint("GET", "/notes", self.read, "read", NoteOut, query=NoteQuery),
            Endpoint("GET", "/notes/{id}", self.read, "read", NoteOut, path_parameters={"id": "a note's id"}),
        ]
        self.routes = [Contribution("notes", endpoint) for endpoint in endpoints] + PAGES
        self.app = ErrorBoundary(build_router(self.routes, edge))

    async def write(self, call: Call[NoteIn, Any]) -> object:
        """Write a note.

        It stays.
        """
        self.calls.append(call)
        return await self._handler(call) if self._handler else {"text": call.body.text}

    async def read(self, call: Call[Any, Any]) -> object:
        """Read notes."""
        self.calls.append(call)
        return {"text": "x"}

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        key: str | None = "writer",
        *,
        declare: bool = True,
        **headers: str,
    ) -> Answered:
        pieces = body if isinstance(body, list) else [body if isinstance(body, bytes) else json.dumps(body).encode()]
        fields = {
            "content-type": "application/json",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        if declare and not isinstance(body, list):
            fields.setdefault("content-length", str(len(pieces[0])))
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), text.encode()) for name, text in fields.items()],
            "precipiq.credential": None if key is None else Credential(key), "precipiq.request_id": "req_1",
        }  # fmt: skip
        messages = [
            {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
            if piece is not None
        ]
        answered = Answered()

        async def receive() -> Any:
            return messages.pop(0) if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                answered.headers = {name.decode(): text.decode() for name, text in message["headers"]}
            else:
                answered.pieces.append(message["body"])

        self.answered, self.scope = answered, scope
        await self.app(scope, receive, send)
        return answered


class TextPage(Answer):
    media_type: ClassVar[str] = "text/plain"


async def _page(call: PublicCall[NoBody, AnyQuery]) -> Answer:
    """A page."""
    return TextPage(200, call.asgi_scope["precipiq.route"].encode(), ((b"content-type", b"text/plain"),))


async def _keys(call: PublicCall[NoBody, NoQuery]) -> object:
    """Keys."""
    if call.path["org_id"] == "nobody":
        raise NotFound
    call.tell_log(call.path["org_id"], "nobody's")
    return {"text": call.asgi_scope["precipiq.route"], "principal": call.principal}


PAGE = Endpoint("GET", "/page", _page, None, TextPage, query=AnyQuery, absolute=True)
KEYS_PAGE = Endpoint(
    "GET",
    "/.well-known/{org_id}/keys",
    _keys,
    None,
    NoteOut,
    errors=("rate_limited",),
    absolute=True,
    path_parameters={"org_id": "an organisation's id"},
)
PAGES: list[Contribution[Any]] = [Contribution("core", PAGE), Contribution("core", KEYS_PAGE)]
