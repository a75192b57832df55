"""Serves on an event loop until a signal or the parent stops it: socket, lifespan, signals and exit codes.

Order at the end: the gate drains, Hypercorn closes its connections, the lifespan ends, exit code 0.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import structlog
from hypercorn.app_wrappers import ASGIWrapper
from starlette.types import ASGIApp

from precipiq_contracts.errors import DeploymentError, PrecipiqError
from precipiq_contracts.server import Site
from precipiq_core.cli.outcome import log_start_failure
from precipiq_hypercorn.acceptor import Acceptor
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.door import Door
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.hypercorn_config import ServerConfig, tls_context
from precipiq_hypercorn.protocols import install
from precipiq_hypercorn.worker import Worker
from precipiq_logs.setup import loop_exception_handler
from precipiq_peers.open_files import raise_open_files_limit
from precipiq_peers.proxies import TrustedProxies
from precipiq_peers.unread_body import UnreadBody
from precipiq_work.memory import return_large_blocks

log = structlog.get_logger("precipiq.serving")

EXIT_OK = 0
EXIT_START_FAILED = 2
EXIT_CRASHED = 3

OnReady = Callable[[Sequence[str]], None]

# The event loop and the store's writer thread hand the interpreter to each other; 5 ms, the default, would be added to
# every commit while the loop is busy.
_SWITCH_INTERVAL_S = 0.001

_CLOSE_TIMEOUT_S = 1.0  # requests were drained before; this is for idle connections to close

# A request allocates a few hundred objects and leaves no cycle; the default, 700, would collect at every other one.
_GC_THRESHOLD = 50_000


async def serve(
    app: ASGIApp,
    settings: HypercornConfig,
    *,
    lifespan: AbstractAsyncContextManager[object],
    gate: DrainGate,
    on_ready: OnReady,
    stop: asyncio.Event,
    listening: socket.socket | None = None,
    door: Door | None = None,
) -> None:
    """Serve until ``stop`` is set, then drain. ``on_ready``: called with the addresses once requests are accepted.

    ``listening``: a socket that listens already; it is closed at the end. Raises ``DeploymentError`` when the
    address or the certificate cannot be used, and the exceptions of the lifespan.
    """
    if settings.tls is not None:
        tls_context(settings.tls)
    raise_open_files_limit()
    install()
    listening = listening or listen(settings)
    try:
        async with _started(lifespan):
            acceptor = Acceptor(listening, ASGIWrapper(cast("Any", app)), ServerConfig(settings, door))
            acceptor.start()
            try:
                on_ready([url_of(listening, secure=settings.tls is not None)])
                await stop.wait()
                log.info("stopping", drain_timeout_s=settings.drain_timeout_s)
                await gate.drain(settings.drain_timeout_s)
            finally:
                await acceptor.stop(_CLOSE_TIMEOUT_S)
    finally:
        listening.close()


@asynccontextmanager
async def _started(lifespan: AbstractAsyncContextManager[object]) -> AsyncIterator[None]:
    """A file or folder that a part cannot have is a start that failed, not a crash."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(lifespan)
        except OSError as error:
            what = [str(part) for part in (error.filename, error.strerror or error) if part is not None]
            raise DeploymentError([": ".join(what)]) from error
        yield


def listen(settings: HypercornConfig) -> socket.socket:
    """The deployment's socket, listening. Raises ``DeploymentError`` when the address cannot be used."""
    host, port = settings.host_and_port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DeploymentError([f"server.bind: {settings.bind}: {error.strerror}"]) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.socket_send_buffer_bytes)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout_ms = int(settings.tcp_user_timeout_s * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listening.bind(address)
        listening.listen(settings.backlog)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise DeploymentError([f"server.bind: cannot listen on {settings.bind}: {error.strerror}"]) from error
    return listening


def url_of(listening: socket.socket, *, secure: bool) -> str:
    """The address of a listening socket, as clients on this machine write it."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def run(
    app: ASGIApp,
    settings: HypercornConfig,
    *,
    lifespan: AbstractAsyncContextManager[object],
    gate: DrainGate,
    on_ready: OnReady,
    worker: Worker | None = None,
    door: Door | None = None,
) -> int:
    """Serve in a new event loop until SIGTERM or SIGINT; a second signal ends it at once. Returns the exit code.

    ``worker``: this process is one of several; it serves on their socket until their parent stops it.
    """
    listening = None if worker is None else worker.listening

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(loop_exception_handler)
        stop = asyncio.Event()
        if worker is None:
            _handle_signals(loop, stop, asyncio.current_task())
        else:
            worker.stop_with_parent(loop, stop)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        return_large_blocks()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        await serve(
            app, settings, lifespan=lifespan, gate=gate, on_ready=on_ready, stop=stop, listening=listening, door=door
        )

    try:
        _run_loop(main())
    except PrecipiqError as error:
        log_start_failure(log, error)
        return EXIT_START_FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        log.warning("stopped at once")
        return EXIT_CRASHED
    except Exception as error:
        log.critical("crashed", error=type(error).__name__, exc_info=True)
        return EXIT_CRASHED
    log.info("stopped")
    return EXIT_OK


def run_site(
    site: Site, settings: HypercornConfig, on_ready: OnReady, worker: Worker | None = None, door: Door | None = None
) -> int:
    """As :func:`run`, for an application that booted; adds the layers that Hypercorn needs."""
    gate = DrainGate(TrustedProxies(site.app, settings.trusted_proxies))
    return run(
        UnreadBody(gate), settings, lifespan=site.lifespan, gate=gate, on_ready=on_ready, worker=worker, door=door
    )


def _handle_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, task: asyncio.Task[object] | None) -> None:
    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
