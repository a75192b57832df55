"""Where a command writes a file that it made: whole or not at all, unless it is a pipe, a device or standard output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import click


class OutputFile(click.Path):
    """The path of a file to write, ``-`` for standard output; refused before any work where it cannot be written."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, allow_dash=True, path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(cast("str", value), param, ctx)))
        if not is_standard_output(path):
            try:
                folder = path.resolve().parent
                problem = _problem_of(folder) if _is_replaced(path) else None
            except (OSError, RuntimeError, ValueError) as error:
                problem = f"{path} cannot be written: {getattr(error, 'strerror', None) or error}"
            if problem is not None:
                self.fail(problem, param, ctx)
        return path


def is_standard_output(path: Path) -> bool:
    """Whether the path stands for standard output."""
    return str(path) == "-"


@contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """A stream to that file, which appears when this is left without an error. Raises ``OSError``."""
    if is_standard_output(path) or not _is_replaced(path):
        with click.open_file(str(path), "wb") as stream:
            yield cast("IO[bytes]", stream)
            stream.flush()
        return
    target = path.resolve()  # a link goes on to lead to it
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _is_replaced(path: Path) -> bool:
    """Whether a new file takes its place: a pipe or a device is written through."""
    return path.is_file() or not path.exists()


def _problem_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"the folder {folder} cannot be written"
