"""Takes over the logging of the process: structlog, the standard library, warnings, hooks for uncaught exceptions."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, BinaryIO, cast

import structlog
from structlog.contextvars import get_contextvars
from structlog.tracebacks import ExceptionDictTransformer

from precipiq_contracts.clock import Clock
from precipiq_logs.print_stream import PrintedBytes
from precipiq_logs.scrub import Scrubber
from precipiq_logs.settings import LogSettings
from precipiq_logs.sink import Sink

# They print every statement, parameter or frame; nobody wants that, and parameters may be secret.
_CHATTY = dict.fromkeys(("databases", "sqlalchemy", "alembic", "hypercorn.error"), logging.WARNING)
_CHATTY |= dict.fromkeys(("aiosqlite", "hpack", "h2", "asyncio", "httpx", "httpcore", "urllib3"), logging.INFO)
_CHATTY |= dict.fromkeys(("boto3", "botocore", "s3transfer"), logging.INFO)
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_exceptions = ExceptionDictTransformer(show_locals=False, max_frames=30)

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class LoggingControl:
    """The logging of this process, taken over until :meth:`restore`."""

    def __init__(self, sink: Sink, level: int, *, capture_stdio: bool) -> None:
        self.sink = sink
        self._saved = _take_over(sink, level, capture_stdio=capture_stdio)

    def add(self, names: Iterable[str] = (), shapes: Iterable[str] = ()) -> None:
        """Add names and shapes to scrub, such as plugins contribute."""
        self.sink.scrubber.add(names, shapes)

    def restore(self) -> None:
        """Restore the logging of before."""
        for restore in reversed(self._saved):
            restore()
        self._saved = []


def configure_logging(
    settings: LogSettings,
    clock: Clock,
    *,
    stream: BinaryIO | None = None,
    capture_stdio: bool = False,
    worker: int | None = None,
) -> LoggingControl:
    """From now on every log line of this process is scrubbed JSON.

    ``capture_stdio``: printed text becomes log lines as well, so that no plugin's ``print`` shows a secret.
    ``worker``: see :class:`Sink`.
    """
    if stream is None:
        text = sys.__stderr__ if settings.stream == "stderr" else sys.__stdout__
        stream = cast("BinaryIO", text.buffer) if text is not None else io.BytesIO()
    sink = Sink(stream, Scrubber(), clock, settings.line_bytes_max, worker)
    return LoggingControl(sink, _LEVELS[settings.level], capture_stdio=capture_stdio)


def _take_over(sink: Sink, level: int, *, capture_stdio: bool) -> list[Any]:
    before = structlog.get_config()
    undo: list[Any] = [lambda: structlog.configure(**before)]
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, _Renderer(sink)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_named_logger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    root.handlers[:] = [_Handler(sink)]
    root.setLevel(level)
    undo.append(lambda: root.handlers.__setitem__(slice(None), handlers))
    undo.append(lambda: root.setLevel(root_level))
    for name, least in _CHATTY.items():
        chatty = logging.getLogger(name)
        undo.append(lambda chatty=chatty, before=chatty.level: chatty.setLevel(before))
        chatty.setLevel(max(level, least))
    for own in [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]:
        undo.append(lambda own=own, before=own.handlers[:]: own.handlers.__setitem__(slice(None), before))
        undo.append(_replace(own, "propagate", True))
        own.handlers[:] = []

    undo.append(_replace(warnings, "showwarning", warnings.showwarning))
    logging.captureWarnings(True)
    undo.append(lambda: logging.captureWarnings(False))
    undo.append(_replace(sys, "excepthook", _excepthook))
    undo.append(_replace(sys, "unraisablehook", _unraisablehook))
    undo.append(_replace(threading, "excepthook", _threading_excepthook))
    if capture_stdio:
        for name in ("stdout", "stderr"):
            printed = PrintedBytes(sink, name)
            undo.append(_replace(sys, name, printed.as_text()))
            undo.append(printed.finish)
    return undo


def _replace(owner: Any, name: str, value: object) -> Any:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


class _Named:
    """A logger for structlog: only a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, *_: object) -> None:
        """The renderer has written the line already."""

    debug = info = warning = error = critical = exception = msg


def _named_logger(*args: str) -> _Named:
    return _Named(args[0] if args else "precipiq")


class _Renderer:
    """structlog's last processor: puts the fields in order, scrubs, writes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        info = event.pop("exc_info", None)
        fields = _scrub(self._sink, {**get_contextvars(), **event})
        if info:
            _add_exception(fields, info)
        line = {"timestamp": self._sink.time(), "level": fields.pop("level", method), "logger": logger.name}
        line["event"] = fields.pop("event", "")
        self._sink.write(line | fields)
        raise structlog.DropEvent


class _Handler(logging.Handler):
    """The root handler: records of every other logger of the process."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001  (arguments that do not fit, a broken __str__)
            text = f"a log message that could not be formatted: {type(error).__name__}"
        line: dict[str, object] = {
            "timestamp": self._sink.time(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": text,
            **_scrub(self._sink, get_contextvars()),
        }
        if record.exc_info:
            _add_exception(line, record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        self._sink.write(line)


def _scrub(sink: Sink, event: Mapping[str, object]) -> dict[str, object]:
    try:
        return sink.scrubber.event(event)
    except Exception as error:  # noqa: BLE001  (a mapping of a plugin's own may fail in any way)
        return {"event": "a log event that could not be read", "error": type(error).__name__}


def _add_exception(line: dict[str, object], info: object) -> None:
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if not isinstance(info, tuple) or info[0] is None:
        return
    try:
        line["exception"] = _exceptions(info)
    except Exception as error:  # noqa: BLE001  (an exception of a plugin's own may fail in any way)
        line["exception"] = f"{info[0].__name__}, which could not be described: {type(error).__name__}"


def _log_uncaught(event: str, info: ExceptionInfo) -> None:
    structlog.get_logger("precipiq.process").critical(event, exc_info=info)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log_uncaught("uncaught exception", (kind, error, trace))


def _threading_excepthook(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        _log_uncaught(
            "uncaught exception in a thread", (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        )


def _unraisablehook(arguments: Any) -> None:
    if arguments.exc_value is not None:
        _log_uncaught("unraisable exception", (arguments.exc_type, arguments.exc_value, arguments.exc_traceback))


def loop_exception_handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For ``loop.set_exception_handler``: the message and the exception, never the arguments of a task."""
    error = context.get("exception")
    if isinstance(error, asyncio.CancelledError):
        return  # asyncio's streams report connections that were cancelled at the end; that is no error
    info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    structlog.get_logger("asyncio").error(context.get("message", "error in the event loop"), exc_info=info)
