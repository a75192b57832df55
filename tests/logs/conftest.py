"""Planted secrets, the forms in which they travel, logging with and without our defence, and the detector."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import re
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import unquote_to_bytes

import pytest
import structlog

from precipiq_auth_keys.secret_format import RANDOM_BYTES, is_well_formed, make_key
from precipiq_core.system import SystemClock
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from tests.logs.forms import FORMS, LEVELS

Level = Literal["debug", "info"]
Capture = Callable[..., AbstractContextManager[io.BytesIO]]

_WINDOW = 8


def new_secret() -> str:
    """A key in the real form that nobody has."""
    key = make_key("test", secrets.token_bytes(RANDOM_BYTES))
    assert is_well_formed(key)
    return key


def shows(output: bytes, secret: str) -> bool:
    """Whether any eight characters in a row of the secret's random part can be read in any decoding of the output."""
    body = secret.removeprefix("pq_test_").lower().encode()
    windows = [body[start : start + _WINDOW] for start in range(len(body) - _WINDOW + 1)]
    return any(window in reading for reading in _readings(output) for window in windows)


def _readings(output: bytes) -> Iterator[bytes]:
    for _ in range(4):
        joined = re.sub(rb"(?:\\+r)?\\+n|\n", b"", output)
        for text in {output, joined}:
            yield text.lower()
            for run in re.findall(rb"[0-9a-fA-F]{16,}", text):
                yield from (bytes.fromhex(run[at : len(run) - (len(run) - at) % 2].decode()).lower() for at in (0, 1))
            for run in re.findall(rb"[A-Za-z0-9+/_-]{12,}", text):
                for at in range(4):
                    part = run[at:].translate(bytes.maketrans(b"-_", b"+/"))
                    yield base64.b64decode(part[: len(part) // 4 * 4]).lower()
        output = unquote_to_bytes(re.sub(rb"\\+(?:u00|x)([0-9a-fA-F]{2})", rb"%\1", output))


@contextlib.contextmanager
def undefended(level: Level = "debug") -> Iterator[io.BytesIO]:
    """Logging, printing and hooks as Python and structlog come; yields what they wrote."""
    output = io.BytesIO()
    text = io.TextIOWrapper(output, "utf-8", "replace", write_through=True)
    root = logging.getLogger()
    before, root_level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler(text)]
    root.setLevel(LEVELS[level])
    config = structlog.get_config()
    structlog.reset_defaults()
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *args, **_: print(warnings.formatwarning(*args[:4]), file=sys.stderr)
            yield output
    finally:
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        structlog.configure(**config)
        root.handlers[:] = before
        root.setLevel(root_level)
        text.detach()


@contextlib.contextmanager
def defended(level: Level = "debug", line_bytes_max: int = 64 * 1024) -> Iterator[io.BytesIO]:
    """The same under ``configure_logging``; every line written must be one JSON object."""
    output = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        settings = LogSettings(level=level, line_bytes_max=line_bytes_max)  # type: ignore[call-arg]
        control = configure_logging(settings, SystemClock(), stream=output, capture_stdio=True)
        try:
            yield output
        finally:
            control.restore()
    for line in output.getvalue().splitlines():
        assert isinstance(json.loads(line), dict)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``form`` or ``level``, and does not choose among them, runs with each."""
    chosen = " ".join(str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "form" in metafunc.fixturenames and "form" not in chosen:
        metafunc.parametrize("form", FORMS.values(), ids=FORMS)
    if "level" in metafunc.fixturenames and "level" not in chosen:
        metafunc.parametrize("level", ["info", "debug"])


@pytest.fixture
def secret() -> str:
    return new_secret()


@pytest.fixture(name="undefended")
def _undefended() -> Capture:
    return undefended


@pytest.fixture(name="defended")
def _defended() -> Capture:
    return defended


@pytest.fixture(name="shows", scope="session")
def _shows() -> Callable[[bytes, str], bool]:
    return shows


@pytest.fixture(name="make_key", scope="session")
def _make_key() -> Callable[..., str]:
    return make_key
