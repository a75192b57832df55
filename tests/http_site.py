"""Two endpoints and two pages over fakes, in process: for tests of the edge and of what describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field, StrictFloat, StrictInt

from precipiq_contracts.auth import Principal, RateGroup, RateState
from precipiq_contracts.chain import Chain
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import NotFound
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.http.body import BodyLimits
from precipiq_core.http.download import Times
from precipiq_core.http.endpoint import JSON, Call, Endpoint, PlainEndpoint
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.envelope import Answer, send_answer
from precipiq_core.http.router import build_router
from precipiq_core.http.validation import RequestModel
from precipiq_testkit.clock import ManualClock


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
        edge = Edge([Keys()], self.limiter, BodyLimits(100, 0.2, 8), Times(0.5, 0.5), ManualClock())
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

        self.answered = answered
        await self.app(scope, receive, send)
        return answered


async def _page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["precipiq.route"].encode()})


async def _keys_page(scope: Any, receive: Any, send: Any) -> None:
    if scope["path_params"]["org_id"] == "nobody":
        raise NotFound
    await send_answer(send, Answer(200, json.dumps([scope["precipiq.route"], scope["path_params"]]).encode()))


PAGE = PlainEndpoint("/page", _page, "a page", "text/plain")
KEYS_PAGE = PlainEndpoint(
    "/.well-known/{org_id}/keys", _keys_page, "keys", JSON, {"org_id": "an organisation's id"}, ("rate_limited",)
)
PAGES: list[Contribution[Any]] = [Contribution("core", PAGE), Contribution("core", KEYS_PAGE)]
