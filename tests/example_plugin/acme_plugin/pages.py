"""What is no JSON behind a key: a public endpoint, an answer that sends itself, and an application that is mounted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from acme_plugin.service import Notes
from precipiq_chain.chain_format import split_payload
from precipiq_contracts.chain import Chain
from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, NoQuery, PublicCall


class LimitsOut(BaseModel):
    """What a note may be."""

    text_characters_max: int


class NoteLines(OwnAnswer):
    """The texts of notes, a line each, sent while they are read."""

    media_type: ClassVar[str] = "text/plain"

    def __init__(self, texts: AsyncIterator[str]) -> None:
        self._texts = texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for text in self._texts:
            await send({"type": "http.response.body", "body": text.encode() + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class PageRoutes:
    """Their handlers."""

    def __init__(self, notes: Notes, text_characters_max: int) -> None:
        self._notes = notes
        self._text_characters_max = text_characters_max

    def routes(self) -> Sequence[Endpoint | BaseRoute]:
        return [
            Endpoint("GET", "/acme/limits", self.show_limits, None, LimitsOut),
            Endpoint("GET", "/acme/notes/lines", self.read_lines, "read", NoteLines),
            Mount("/acme", Starlette(routes=[Route("/hello/{name}", hello)])),
        ]

    async def show_limits(self, call: PublicCall[NoBody, NoQuery]) -> object:
        """Say what a note may be."""
        return {"text_characters_max": self._text_characters_max}

    async def read_lines(self, call: Call[NoBody, NoQuery]) -> NoteLines:
        """Read the oldest notes as text."""
        return NoteLines(self._texts(call.principal.chain))

    async def _texts(self, chain: Chain) -> AsyncIterator[str]:
        for entry in await self._notes.read(chain, 50):
            if entry.payload is not None:
                yield json.loads(split_payload(entry.payload)[0])["text"]


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"hello, {request.path_params['name']}")
