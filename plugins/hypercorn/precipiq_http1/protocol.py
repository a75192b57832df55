"""One HTTP/1.1 connection: its plain requests are read here, in order; from the first other byte on it is h11's.

What an application and a client see is what they see of Hypercorn's own protocol. Except: a body that has come whole
is one event, an answer's head and the first of its body are one write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import _handle
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, TaskGroup, WorkerContext

from precipiq_http1.answers import Fields
from precipiq_http1.can_read import CanRead
from precipiq_http1.grammar import Head, parse_head
from precipiq_http1.request import PlainRequest
from precipiq_peers.app_events import AppEvents

_IDLE, _BUSY = Updated(idle=True), Updated(idle=False)


class PlainHttp1:
    """Takes the place of Hypercorn's ``H11Protocol``, with its arguments.

    ``make_h11``: takes over what is not plain. ``tiny_per_second_max``: see ``AppEvents``.
    """

    def __init__(
        self,
        make_h11: Callable[[], H11Protocol],
        tiny_per_second_max: int,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        connection_state: Any,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._make_h11 = make_h11
        self._tiny_per_second_max = tiny_per_second_max
        self._app = app
        self._is_ours = isinstance(app, ASGIWrapper) and not config.server_names
        self._config = config
        self._context = context
        self._task_group = task_group
        self._state = connection_state
        self._scheme = "https" if ssl else "http"
        self._client = client
        self._server = server
        self._send = send
        self._h11: H11Protocol | None = None
        self._request: PlainRequest | None = None
        self._can_read = CanRead()
        self._is_busy = False
        self._body_left = 0
        self._requests = 0

    async def initiate(self) -> None:
        """Hypercorn's."""

    async def handle(self, event: Event) -> None:
        """Take what has come from the client; waits while it cannot be taken. Raises ``ConnectionError`` at the end."""
        if self._h11 is not None:
            await self._h11.handle(event)
        elif isinstance(event, RawData):
            await self._receive(event.data)
        elif isinstance(event, Closed):
            self._can_read.end()
            if self._request is not None:
                await self._request.close()

    def own_fields(self) -> Fields:
        """See ``Line``."""
        own = self._config.response_headers("h11")
        return [*own, (b"connection", b"close")] if self._requests >= self._config.keep_alive_max_requests else own

    async def write(self, data: bytes) -> None:
        """See ``Line``."""
        await self._send(RawData(data))

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """See ``Line``."""
        self._task_group.spawn(function)

    async def complete(self, *, is_reusable: bool) -> None:
        """See ``Line``."""
        request, self._request = self._request, None
        if request is not None:
            await request.close()
        if is_reusable and not self._body_left and not self._context.terminated.is_set():
            self._is_busy = False
            await self._send(_IDLE)
            await self._can_read.set()
        else:
            self._can_read.end()
            await self._send(Closed())

    async def _receive(self, data: bytes) -> None:
        while data:
            if self._body_left:
                data = await self._receive_body(data)
                continue
            if self._is_busy:
                await self._can_read.wait()
            head = parse_head(data, self._config.h11_max_incomplete_size)
            if head is None or not self._is_ours:
                self._h11 = self._make_h11()
                self._h11.keep_alive_requests = self._requests
                await self._h11.handle(RawData(data))
                return
            data = await self._begin(head, data)

    async def _receive_body(self, data: bytes) -> bytes:
        """Hands a body on; returns what follows it."""
        piece, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(piece)
        if self._request is not None:
            await self._request.feed(piece, is_last=not self._body_left)
        return rest

    async def _begin(self, head: Head, data: bytes) -> bytes:
        """Starts the application; returns what follows the request."""
        end = head.end + head.body_bytes
        body = data[head.end : end]
        self._body_left = head.body_bytes - len(body)
        request = self._request = PlainRequest(self, head, data[: head.end], self._new_events)
        self._requests += 1
        self._is_busy = True
        await self._can_read.clear()
        await self._send(_BUSY)
        if not self._body_left:
            request.give_body(body)
        self._task_group.spawn(self._serve, request, self._scope(head))
        await self._context.mark_request()
        if self._body_left and body:
            await request.feed(body, is_last=False)
        return data[end:]

    async def _serve(self, request: PlainRequest, scope: dict[str, Any]) -> None:
        unused: Any = None  # for applications of the other kind, WSGI
        app_scope: Any = scope
        await _handle(self._app, self._config, app_scope, request.receive, request.send, unused, unused)

    def _scope(self, head: Head) -> dict[str, Any]:
        path, _, query = head.target.partition(b"?")
        return {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": head.method,
            "scheme": self._scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": self._config.root_path,
            "headers": head.headers,
            "client": self._client,
            "server": self._server,
            "state": self._state.copy(),
            "extensions": {},
        }

    def _new_events(self) -> AppEvents:
        return AppEvents(self._config.max_app_queue_size, self._tiny_per_second_max)
