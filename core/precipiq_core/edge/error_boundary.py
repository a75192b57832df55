"""Turns an unexpected exception of a handler or a plugin's middleware into the documented 500 and one log line."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precipiq_contracts.errors import InternalError, PrecipiqError
from precipiq_core.http.envelope import error_answer, send_answer

log = structlog.get_logger("precipiq.http")


class ErrorBoundary:
    """Catches exceptions of HTTP requests. After the answer has begun, the server closes the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, tracking_send)
        except Exception as error:
            known = isinstance(error, PrecipiqError) and not isinstance(error, InternalError)
            if not known:
                log.exception("request failed", error=type(error).__name__)
            if started:
                raise
            await send_answer(send, error_answer(error if isinstance(error, PrecipiqError) else InternalError()))
