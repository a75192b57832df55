"""``[logs]``: the level, the content and the stream of logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precipiq_contracts.settings import Settings


class LogSettings(Settings):
    """Settings of the process's logs."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is written")
    access: bool = Field(True, description="a line for each request")
    stream: Literal["stderr", "stdout"] = Field("stderr", description="where lines go")
    line_bytes_max: int = Field(64 * 1024, ge=1024, description="longest line; more is cut, after scrubbing, bytes")
