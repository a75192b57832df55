"""Stored events of Stripe, read from a file in any form in which Stripe's API and command line give them.

One object, a list object, an array, JSON lines, documents one after another, in UTF-8 or UTF-16. What was read is
forgotten: memory holds one document, and of an array one member.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import TextIO

import click

_DECODER = JSONDecoder()
_BYTES_READ = 64 * 1024
_SPACE = " \t\n\r"
_TRUNCATED_CHARACTERS = 12
"""So near its end, what is wrong with a text may be that more of it is to come."""


def stored_events(file: Path) -> Iterator[object]:
    """The events in a file. Raises ``click.ClickException`` where it is not JSON; those before it were given."""
    try:
        with file.open(encoding=_encoding(file)) as stream:
            for document in _Documents(stream):
                yield from _events_in(document)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file} is not JSON: {error}") from None


def _encoding(file: Path) -> str:
    """By its mark; without one, JSON begins with an ASCII character, whose other byte is 0 in UTF-16."""
    with file.open("rb") as stream:
        head = stream.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"


def _events_in(document: object) -> Iterator[object]:
    if isinstance(document, dict) and document.get("object") != "event" and isinstance(document.get("data"), list):
        yield from document["data"]
    else:
        yield document


class _Documents:
    """The JSON documents of a text, and the members of an array in their place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._is_all = False

    def __iter__(self) -> Iterator[object]:
        is_empty = True
        while self._next_character():
            is_empty = False
            if self._text[self._at] == "[":
                self._at += 1
                yield from self._members()
            else:
                yield self._decode()
        if is_empty:
            raise ValueError("there is nothing in it")

    def _members(self) -> Iterator[object]:
        """What stands in an array that was entered."""
        if self._next_character() == "]":
            self._at += 1
            return
        while True:
            self._next_character()
            yield self._decode()
            character = self._next_character()
            self._at += 1
            if character == "]":
                return
            if character != ",":
                raise ValueError("an array does not end, or lacks a comma")

    def _next_character(self) -> str:
        """The next one that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def _decode(self) -> object:
        """The value that begins here. What is read doubles while it does not end: in all, as much is read twice."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                if not _may_go_on(error) or not self._read_more():
                    raise
                continue
            if end == len(self._text) and self._read_more():
                continue  # a number may go on
            self._at = end
            return value

    def _read_more(self) -> bool:
        """Read as much again as is waiting; False at the end of the file."""
        if self._is_all:
            return False
        waiting = self._text[self._at :]
        more = self._stream.read(max(_BYTES_READ, len(waiting)))
        self._is_all = not more
        self._text, self._at = waiting + more, 0
        return bool(more)


def _may_go_on(error: JSONDecodeError) -> bool:
    """Whether a text that is no JSON may be the beginning of some."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - _TRUNCATED_CHARACTERS
