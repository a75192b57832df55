"""Every way by which code in this process writes something: none shows a planted secret, in no form, at no level.

Each action runs first without the defence, where the secret must be found: so the detector is known to fire.
"""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

import aiosqlite
import databases
import httpx2
import pytest
import sqlalchemy
import structlog
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from precipiq_logs.setup import loop_exception_handler
from tests.effort import some_of
from tests.logs.forms import FORMS, LEVELS

Act = Callable[[str], None]
PATHS: dict[str, Act] = {}


def path(act: Act) -> Act:
    PATHS[act.__name__] = act
    return act


def _request(text: str) -> Request:
    raw = text.encode("utf-8", "replace")
    return Request(
        {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "server": ("h", 80),
            "path": "/" + text,
            "query_string": b"q=" + raw,
            "headers": [(b"x-other", raw), (b"host", b"h")],
        }
    )


@path
def a_log_message(text: str) -> None:
    logging.getLogger("plugin").info("calling with %s now", text)
    logging.getLogger("plugin").debug("and " + text)


@path
def arguments_of_a_log_message(text: str) -> None:
    logging.getLogger("plugin").warning("%(a)s %(b)r", {"a": [text], "b": {"deep": (text,)}})


@path
def bytes_in_a_log_message(text: str) -> None:
    logging.getLogger("plugin").warning("got %s", text.encode())


@path
def a_traceback_with_the_secret_in_a_local_variable(text: str) -> None:
    def fail(key: str) -> None:
        raise RuntimeError(f"cannot use {key}")

    try:
        fail(text)
    except RuntimeError as error:
        error.add_note(f"was {text}")
        logging.getLogger("plugin").exception("failed")
        structlog.get_logger("plugin").exception("failed")


@path
def chained_and_grouped_exceptions(text: str) -> None:
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ExceptionGroup(text, [ValueError(text)]) from error
    except ExceptionGroup:
        logging.getLogger("plugin").exception("failed")


@path
def stack_info(text: str) -> None:
    logging.getLogger("plugin").warning("here %s", text, stack_info=True)
    structlog.get_logger("plugin").warning("here", text=text, stack_info=True)


@path
def structured_fields(text: str) -> None:
    structlog.get_logger("plugin").info(text, a={text: [{"b": (text, text.encode(), {text})}]}, e=ValueError(text))


@path
def context_variables(text: str) -> None:
    with structlog.contextvars.bound_contextvars(trace=text):
        structlog.get_logger("plugin").info("bound", trace=text)


@path
def printing(text: str) -> None:
    print("now", text)
    print(text, file=sys.stderr, flush=True)


@path
def printing_in_two_pieces(text: str) -> None:
    sys.stdout.write("x " + text[:30])
    sys.stdout.write(text[30:] + "\n")
    sys.stderr.buffer.write(text.encode()[:20])
    sys.stderr.buffer.write(text.encode()[20:] + b"\n")


@path
def printing_without_a_line_break(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@path
def a_warning(text: str) -> None:
    warnings.warn(f"deprecated: {text}", stacklevel=1)


@path
def uncaught_exceptions(text: str) -> None:
    error = RuntimeError(text)
    sys.excepthook(RuntimeError, error, None)


@path
def an_exception_in_a_thread(text: str) -> None:
    def fail() -> None:
        raise RuntimeError(text)

    thread = threading.Thread(target=fail, name=text)
    thread.start()
    thread.join()


@path
def an_exception_in_a_finalizer(text: str) -> None:
    class Closing:
        def __del__(self) -> None:
            raise RuntimeError(text)

    Closing()
    gc.collect()


@path
def hooks_replaced_by_a_plugin(text: str) -> None:
    before = sys.excepthook
    sys.excepthook = lambda kind, error, trace: print("hook", error, file=sys.stderr)
    try:
        sys.excepthook(RuntimeError, RuntimeError(text), None)
    finally:
        sys.excepthook = before


@path
def a_handler_added_by_a_plugin(text: str) -> None:
    logger = logging.Logger("apart")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler())
    logger.warning("own handler: %s", text)


@path
def a_handler_that_fails(text: str) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise RuntimeError(text)
            except RuntimeError:
                self.handleError(record)

    logger = logging.Logger("apart")
    logger.addHandler(Failing())
    logger.warning("%s", text)


@path
def a_message_that_cannot_be_formatted(text: str) -> None:
    logging.getLogger("plugin").warning(f"{text} %d", text)
    logging.getLogger("plugin").warning("%s", text)


async def _forgotten_task(text: str, handler: Callable[..., None] | None) -> None:
    asyncio.get_running_loop().set_exception_handler(handler)

    async def fail(key: str) -> None:
        raise RuntimeError(key)

    task = asyncio.create_task(fail(text), name=text)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()


@path
def a_forgotten_task(text: str) -> None:
    asyncio.run(_forgotten_task(text, None))


@path
def a_forgotten_task_and_a_plugins_loop_handler(text: str) -> None:
    asyncio.run(_forgotten_task(text, lambda loop, context: print(context)))


@path
def a_slow_callback(text: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0001
        loop.call_soon(_Shown(text))
        await asyncio.sleep(0.001)

    asyncio.run(main(), debug=True)


class _Shown:
    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self) -> None:
        time.sleep(0.001)

    def __repr__(self) -> str:
        return self._text


@path
def pydantic_echo(text: str) -> None:
    class Model(BaseModel):
        count: int

    for value in (text, "http://localhost/decisions?limit=1&api_key=" + text, {"deep": text}):
        try:
            Model.model_validate({"count": value})
        except ValidationError as error:
            logging.getLogger("plugin").warning("refused: %s", error)
            structlog.get_logger("plugin").warning("refused", errors=error.errors(), exc_info=True)


@path
def sqlite_errors_and_traces(text: str) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.set_trace_callback(logging.getLogger("sqlite").info)
        with suppress(sqlite3.OperationalError):
            connection.execute(f"SELECT '{text.replace(chr(39), '')}'")
        try:
            connection.execute(f'SELECT * FROM "{text}"')
        except sqlite3.Error:
            logging.getLogger("plugin").exception("query failed")
    connection.close()


@path
def sqlalchemy_echo_and_errors(text: str) -> None:
    engine = sqlalchemy.create_engine("sqlite://", echo=False)
    logger = logging.getLogger("sqlalchemy.engine")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT :key AS a, :long"), {"key": text, "long": "x" * 400 + text})
            connection.execute(sqlalchemy.text("SELECT * FROM missing WHERE a = :key"), {"key": text})
    except sqlalchemy.exc.DBAPIError:
        logging.getLogger("plugin").exception("query failed")
    finally:
        logger.setLevel(before)
        engine.dispose()


@path
def async_database_drivers(text: str) -> None:
    async def main() -> None:
        logging.getLogger("aiosqlite").setLevel(logging.DEBUG)
        logging.getLogger("databases").setLevel(logging.DEBUG)
        async with aiosqlite.connect(":memory:") as connection:
            await connection.execute("SELECT ?", (text,))
        async with databases.Database("sqlite:///:memory:") as database:
            await database.fetch_all("SELECT :key AS a", {"key": text})

    levels = {name: logging.getLogger(name).level for name in ("aiosqlite", "databases")}
    try:
        asyncio.run(main())
    finally:
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


@path
def outgoing_requests(text: str) -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200))
    with httpx2.Client(transport=transport) as client:
        client.get("http://localhost/hook", params={"q": text})


@path
def representations_of_a_request(text: str) -> None:
    request = _request(text)
    for part in (request.url, request.headers, request.query_params, request.scope):
        logging.getLogger("plugin").info("%r", part)


@path
def many_lines(text: str) -> None:
    print(f"first\n{text}\nlast")
    logging.getLogger("plugin").info("first\r\n\t%s\nlast", text)


@path
def a_url_with_the_key(text: str) -> None:
    for separator in "?&;":
        logging.getLogger("plugin").info("GET /x?a=1%sapi_key=%s&api%%255Fkey=%s", separator, text, text)


@pytest.mark.parametrize(
    ("act", "form", "level"),
    [
        pytest.param(act, form, level, id=f"{path}-{name}-{level}")
        for (path, act), (name, form), level in some_of(PATHS.items(), FORMS.items(), LEVELS)
    ],
)
def test_no_path_shows_a_secret(act, form, level, secret, undefended, defended, shows):
    text = form(secret)
    with undefended() as output:
        act(text)
    assert shows(output.getvalue(), secret), "the control did not fire"
    with defended(level) as output:
        act(text)
    assert not shows(output.getvalue(), secret), output.getvalue().decode()


def test_a_slow_callbacks_shortened_argument_is_gone(secret, undefended, defended, shows):
    async def main(text: str) -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0001
        loop.call_soon(lambda *args: time.sleep(0.001), text)
        await asyncio.sleep(0.001)

    for text in (secret, "http://localhost/?api_key=" + secret):
        with undefended() as output:
            asyncio.run(main(text), debug=True)
        assert shows(output.getvalue(), secret)
        with defended() as output:
            asyncio.run(main(text), debug=True)
        assert b"took" in output.getvalue()
        assert not shows(output.getvalue(), secret)


def test_the_loops_handler_says_what_failed_but_not_with_what(secret, defended, shows):
    with defended() as output:
        asyncio.run(_forgotten_task(secret, loop_exception_handler))
    assert b"never retrieved" in output.getvalue()
    assert b"RuntimeError" in output.getvalue()
    assert not shows(output.getvalue(), secret)


@pytest.mark.parametrize(
    ("position", "form"),
    [
        pytest.param(position, form, id=f"{position}-{name}")
        for position, (name, form) in some_of(range(900, 1100, 23), FORMS.items())
    ],
)
def test_a_secret_at_the_cut_is_gone_whole(position, form, secret, defended, shows):
    with defended(line_bytes_max=1024) as output:
        logging.getLogger("plugin").warning("x" * position + " " + form(secret) + " " + "y" * 3000)
        print("z" * position, form(secret), "y" * 3000)
        print("z" * position, form(secret), end="")
    assert not shows(output.getvalue(), secret)
    assert max(map(len, output.getvalue().splitlines())) <= 1024


def test_printing_without_end_waits_in_bounded_memory(defended):
    with defended(line_bytes_max=1024) as output:
        for _ in range(1000):
            sys.stdout.write("a" * 100)
        sys.stdout.write("the end of it\nafter\n")
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert b"after" in lines[1]
    assert b"the end" not in output.getvalue()


def test_a_private_key_of_many_printed_lines_is_gone(defended):
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" for _ in range(5))
    with defended() as output:
        print(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\nafter")
    assert b"MIIEvQ" not in output.getvalue()
    assert b"after" in output.getvalue()


class _Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class _HostileMapping(dict):  # type: ignore[type-arg]
    def items(self):
        raise RuntimeError("no items")


def _cycle() -> list[object]:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def _self_caused() -> Exception:
    error, other = ValueError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    return error


@pytest.mark.parametrize(
    "value",
    [_Hostile(), _HostileMapping(a=1), _cycle(), "\ud800", {"\ud800": 1}, {("a",): 1}, 2**80, float("nan"), b"\xff"],
)
def test_no_value_makes_a_log_call_fail(value, defended):
    with defended() as output:
        structlog.get_logger("plugin").info("structured", value=value, **{"\ud800": 1})
        logging.getLogger("plugin").info("plain %s", value)
        with suppress(RuntimeError):  # its own text form
            print(value)
    assert output.getvalue().count(b'"logger":"plugin"') == 2


def test_exceptions_that_cause_each_other_are_described(defended):
    with defended() as output:
        logging.getLogger("plugin").error("failed", exc_info=_self_caused())
        logging.getLogger("plugin").error("failed", exc_info=type("E", (Exception,), {"__str__": _Hostile.__str__})())
    assert output.getvalue().count(b"failed") == 2


def test_everything_is_given_back(defended):
    before = sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, warnings.showwarning
    logger = logging.getLogger("apart.own")
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(io.StringIO())]
    config, level = structlog.get_config(), logging.getLogger().level
    handlers = logger.handlers[:]
    try:
        with defended():
            assert logger.handlers == []
            assert logger.propagate
        assert logger.handlers == handlers
        assert not logger.propagate
    finally:
        logger.handlers = []
        logger.propagate = True
    assert before == (sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, warnings.showwarning)
    assert structlog.get_config() == config
    assert logging.getLogger().level == level
