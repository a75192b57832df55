"""The stream's tests, as they are, over the example database."""

from __future__ import annotations

from tests.ws_stream.test_stream import *  # noqa: F403
