#!/usr/bin/env python3
"""Checks an evidence bundle with nothing but Python's standard library (3.8 or newer), and no contact to anybody.

usage: python3 -I -S verify.py [FOLDER_OR_ZIP] [--fingerprint HEX] [--json]

Without a path it checks the folder that it lies in. ``--fingerprint``: SHA-256 of the public key that must have signed,
as you got it from elsewhere. Exit code: 0 verified, 1 failed, 2 could not check. Reads each file once, front to end.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import zipfile
from array import array
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO, AbstractSet, Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

FORMAT, FORMAT_VERSION = "precipiq-evidence", 1
MANIFEST, SIGNATURE, PUBLIC_KEY = "manifest.json", "manifest.json.sig", "public_key.pem"
ENTRIES, CONTEXT, VERIFICATION = "entries.jsonl", "context.jsonl", "chain_verification.json"
FIXED_FILES = ("VERIFY.md", "verify.py", ENTRIES, CONTEXT, VERIFICATION, PUBLIC_KEY)
ALGORITHM = "RSA-2048 PKCS#1 v1.5 SHA-256"
GENESIS = "0" * 64
BYTE_ORDER_MARK = "\ufeff"
PROBLEMS_MAX, FILES_MAX, SEQ_MAX, DIGITS_MAX = 20, 100, 2**63 - 1, 4300
LITTER = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)", re.IGNORECASE | re.DOTALL)
"""What operating systems leave in folders that somebody looks into."""
PIECE_BYTES, LINE_BYTES_MAX, SMALL_FILE_BYTES_MAX = 1 << 20, 64 << 20, 16 << 20

STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
STATEMENT = re.compile(
    r'\{"actor":(?P<actor>%s),"body":(?P<body>\{.*\}),"environment":"(?P<environment>live|test)"'
    r',"id":"(?P<id>[0-9a-f-]{36})","kind":"(?P<kind>[^"\\]+)","org_id":(?P<org_id>%s)'
    r',"payload_hash":(?:null|"(?P<payload_hash>[0-9a-f]{64})"),"prev_hash":"(?P<prev_hash>[0-9a-f]{64})"'
    r',"seq":(?P<seq>[1-9][0-9]{0,18}),"timestamp":"(?P<timestamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","v":1\}'
    % (STRING, STRING),
    re.ASCII | re.DOTALL,
)
"""The whole text of a statement of chain version 1: canonical JSON, so its members have one order and no spaces."""

LINE_HEAD = re.compile(r'\{"hash":"([0-9a-f]{64})","payload":')
LINE_SALT = re.compile(r',"salt":(?:null|"([0-9a-f]{32})"),"statement":')
KEY = re.compile(r'"([^"\\]*)":')


class NotABundle(Exception):
    """There is nothing to check."""


class Malformed(ValueError):
    """Something is not what it must be; the text says what."""


class Report:
    """What was found. ``problems``: (where, what), the first ones; ``held`` and ``not_checked``: sentences.

    ``nothing``: why there was no entry to check, if there was none.
    """

    def __init__(self) -> None:
        self.problems: List[Tuple[str, str]] = []
        self.problems_count = 0
        self.held: List[str] = []
        self.not_checked: List[str] = []
        self.nothing: Optional[str] = None
        self.about: Dict[str, Any] = {}

    def fail(self, where: str, what: str) -> None:
        self.problems_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append((where, what))

    @property
    def exit_code(self) -> int:
        return 1 if self.problems_count else 2 if self.nothing is not None else 0

    def document(self) -> Dict[str, Any]:
        return {
            "verdict": ("verified", "failed", "could_not_check")[self.exit_code],
            "reason": self.nothing if self.exit_code == 2 else None,
            "problems": [{"where": where, "what": what} for where, what in self.problems],
            "problems_count": self.problems_count,
            "held": [] if self.problems_count else self.held,
            "not_checked": [] if self.problems_count else self.not_checked,
            **self.about,
        }

    def lines(self) -> List[str]:
        """For people, in plain ASCII."""
        if not self.problems_count:
            lines = ["VERIFIED: " + text for text in self.held] + ["NOT CHECKED: " + text for text in self.not_checked]
            lines += [] if self.nothing is None else ["COULD NOT CHECK: " + self.nothing]
        else:
            lines = ["FAILED: %s: %s" % problem for problem in self.problems]
            if self.problems_count > len(self.problems):
                lines.append("FAILED: ... and %d more" % (self.problems_count - len(self.problems)))
        return [printable(line) for line in lines]


# Where the files lie, and reading them.


class Source:
    """The files of a bundle by name: an unpacked folder, or a ZIP file. Raises NotABundle.

    ``litter``: of operating systems, in a folder. ``trouble``: why an archive is one that readers read differently.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.archive: Optional[zipfile.ZipFile] = None
        self.litter: List[str] = []
        self.trouble: Optional[str] = None
        if os.path.isdir(path):
            walk = ((folder, name) for folder, _, names in os.walk(path) for name in names)
            names = [os.path.relpath(os.path.join(*each), path).replace(os.sep, "/") for each in walk]
            self.litter = sorted(name for name in names if LITTER.fullmatch(name))
            self.names = [name for name in names if not LITTER.fullmatch(name)]
            return
        if not os.path.isfile(path):
            raise NotABundle("%s is neither a folder nor a ZIP file: there is no such file" % path)
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:  # zipfile promises no bound to what an altered archive makes it raise
            raise NotABundle("%s is neither a folder nor a ZIP file: %s" % (path, error)) from None
        self.names = self.archive.namelist()
        self.trouble = trouble_of(self.archive)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def open(self, name: str) -> IO[bytes]:
        if self.archive is not None:
            if self.archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Malformed("it is compressed by a method that bundles do not use")
            # A file handle of its own: before Python 3.9, threads that read members of one archive disturb each other.
            archive = zipfile.ZipFile(self.path)
            try:
                return archive.open(name)
            finally:
                archive.close()  # the member holds the file until it is closed itself
        path = os.path.join(self.path, name)
        if not os.path.isfile(path):
            raise Malformed("it is no regular file")
        return open(path, "rb")

    def read(self, name: str, bytes_max: int = SMALL_FILE_BYTES_MAX) -> bytes:
        """All of a small file. Raises Malformed."""
        if name not in self.names:
            raise Malformed("the file is missing")
        try:
            with self.open(name) as stream:
                content = stream.read(bytes_max + 1)
        except Exception as error:  # zipfile and zlib promise no bound to what an altered archive makes them raise
            raise Malformed("it cannot be read: %s" % error) from None
        if len(content) > bytes_max:
            raise Malformed("it is larger than %d bytes" % bytes_max)
        return content


def trouble_of(archive: zipfile.ZipFile) -> Optional[str]:
    """What stands in front of or between an archive's members: some readers would take it for what is in it."""
    end = 0
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        gap = member.header_offset - end
        if gap and not end:
            return "%d bytes stand in front of its first member" % gap
        if gap < 0:
            return "members overlap"
        if gap not in (0, 12, 16, 20, 24):  # the sizes of a data descriptor
            return "%d bytes between its members belong to none" % gap
        head = b""
        if archive.fp is not None:
            archive.fp.seek(member.header_offset)
            head = archive.fp.read(30)
        if len(head) != 30 or head[:4] != b"PK\3\4":
            return "a member does not begin where its directory says"
        name_size, extra_size = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
        end = member.header_offset + 30 + name_size + extra_size + member.compress_size
    gap = archive.start_dir - end
    return None if gap in (0, 12, 16, 20, 24) else "%d bytes before its directory belong to no member" % gap


class Reader:
    """One file, read and digested a piece ahead in another thread; ``trouble``: why it could not be read to its end."""

    def __init__(self, source: Source, name: str, size_max: int, pool: ThreadPoolExecutor) -> None:
        self.name, self.size_max, self.size = name, size_max, 0
        self.digest = hashlib.sha256()
        self.trouble: Optional[str] = None
        self.source, self.pool = source, pool
        self.stream: Optional[IO[bytes]] = None
        self.rest, self.at = b"", 0
        self.ahead = pool.submit(self.load)

    def load(self) -> bytes:
        if self.stream is None:
            self.stream = self.source.open(self.name)
        piece = self.stream.read(PIECE_BYTES) if self.size <= self.size_max else b""
        self.digest.update(piece)
        self.size += len(piece)
        return piece

    def piece(self) -> bytes:
        """What comes next, nothing at the end."""
        try:
            piece = self.ahead.result()
        except Exception as error:  # see Source.read
            self.trouble = "it cannot be read: %s" % error
            return b""
        if piece:
            self.ahead = self.pool.submit(self.load)
        return piece

    def lines(self) -> Iterator[bytes]:
        rest = b""
        for piece in iter(self.piece, b""):
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            yield from lines
            if len(rest) > LINE_BYTES_MAX:
                raise Malformed("a line is longer than %d bytes" % LINE_BYTES_MAX)
        if rest:
            yield rest

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        self.fill(count)
        self.at += count
        return self.rest[self.at - count : self.at]

    def skip(self, text: str) -> bool:
        """Whether that text comes next; only then it is taken."""
        wanted = text.encode("utf-8", "surrogatepass")  # half a character is in no file
        self.fill(len(wanted))
        if not self.rest.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        return True

    def fill(self, count: int) -> None:
        while len(self.rest) - self.at < count:
            piece = self.piece()
            if not piece:
                break
            self.rest, self.at = self.rest[self.at :] + piece, 0

    def finish(self, sha256: str, size: int, report: Report) -> None:
        for _ in iter(self.piece, b""):
            pass
        if self.stream is not None:
            self.stream.close()
        if self.trouble is not None:
            report.fail(self.name, self.trouble)
        elif self.size > size:
            report.fail(self.name, "it is longer than the %d bytes that the manifest says" % size)
        elif (self.size, self.digest.hexdigest()) != (size, sha256):
            found = "%d bytes with SHA-256 %s" % (self.size, self.digest.hexdigest())
            report.fail(self.name, "it is not the file that the manifest lists: it has %s" % found)


# JSON that has one reading.


def without_repeats(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in one object")
    return found


def refuse_constant(name: str) -> None:
    raise Malformed("%s is not JSON" % name)


def bounded_int(text: str) -> int:
    """Python before 3.11 takes time without bound for one of many digits."""
    if len(text.lstrip("-")) > DIGITS_MAX:
        raise Malformed("a number has more than %d digits" % DIGITS_MAX)
    return int(text)


def finite_float(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise Malformed("a number is too large")
    return number


DECODER = json.JSONDecoder(
    object_pairs_hook=without_repeats, parse_constant=refuse_constant, parse_int=bounded_int, parse_float=finite_float
)
DECODE: Callable[[str, int], Tuple[Any, int]] = DECODER.scan_once  # type: ignore[attr-defined]  # what raw_decode calls; raises StopIteration where there is no value
BAD_JSON = (ValueError, StopIteration, RecursionError)

Members = Dict[str, Tuple[Any, str]]  # name -> value, and its text as it stands


def members_at(text: str, position: int) -> Tuple[Members, int]:
    """The members of the object at that place in canonical JSON, and where it ends. Raises what BAD_JSON names."""
    found: Members = {}
    if text.startswith("{}", position):
        return found, position + 2
    separator = "{"
    while text.startswith(separator, position):
        key = KEY.match(text, position + 1)
        name, start = (key[1], key.end()) if key is not None else escaped_key(text, position + 1)
        if name in found:
            raise Malformed("a key stands twice in one object")
        value, position = DECODE(text, start)
        found[name] = (value, text[start:position])
        if text.startswith("}", position):
            return found, position + 1
        separator = ","
    raise Malformed("it is not canonical JSON")


def escaped_key(text: str, position: int) -> Tuple[str, int]:
    name, end = DECODE(text, position)
    if not isinstance(name, str) or not text.startswith(":", end):
        raise Malformed("it is not canonical JSON")
    return name, end + 1


def members_of(text: str) -> Members:
    """The members of a whole text that is an object in canonical JSON. Raises what BAD_JSON names."""
    found, end = members_at(text, 0)
    if end != len(text):
        raise Malformed("it is not canonical JSON")
    return found


def document_of(text: bytes) -> Dict[str, Any]:
    """A whole file that is one JSON object. Raises Malformed."""
    try:
        document = DECODER.decode(text.decode("utf-8"))
    except BAD_JSON as error:
        raise Malformed("it is not JSON: %s" % error) from None
    if not isinstance(document, dict):
        raise Malformed("it is not a JSON object")
    return document


# Entries, and rows of the lists.


class Entry(NamedTuple):
    """A raw entry, sliced into the very texts that were hashed.

    ``actor`` and ``org_id`` are JSON strings as they stand. ``payload_text`` and ``salt`` are None without a payload;
    ``payload`` has no members then, nor when it is no object.
    """

    hash: str
    statement: str
    payload_text: Optional[str]
    payload: Members
    salt: Optional[str]
    body: Members
    actor: str
    body_text: str
    environment: str
    id: str
    kind: str
    org_id: str
    payload_hash: Optional[str]
    prev_hash: str
    seq: int
    timestamp: str

    @property
    def is_erased(self) -> bool:
        return self.payload_text is None and self.payload_hash is not None

    def erased(self) -> Entry:
        """What is left of it once its payload is erased."""
        return self._replace(payload_text=None, payload={}, salt=None)

    def body_value(self, name: str) -> Any:
        return self.body[name][0] if name in self.body else None

    def problem(self) -> Optional[str]:
        """What its hashes say is wrong with it."""
        if hashlib.sha256(self.statement.encode()).hexdigest() != self.hash:
            return "the statement is not the one that was hashed"
        if self.payload_text is not None:
            if self.payload_hash is None:
                return "there is a payload where the statement says there is none"
            stored = '{"payload":%s,"salt":"%s"}' % (self.payload_text, self.salt)
            if hashlib.sha256(stored.encode()).hexdigest() != self.payload_hash:
                return "the payload is not the one that was hashed"
        return None


def payload_members(text: str, position: int) -> Tuple[Members, int]:
    """As members_at, none for a payload that is no object."""
    return members_at(text, position) if text.startswith("{", position) else ({}, DECODE(text, position)[1])


def entry_of(line: bytes) -> Entry:
    """The entry of a line of entries.jsonl or context.jsonl. Raises what BAD_JSON names."""
    text = line.decode("utf-8")
    head = LINE_HEAD.match(text)
    if head is None:
        raise Malformed(damage(text))
    payload, end = payload_members(text, head.end())
    salt = LINE_SALT.match(text, end)
    if salt is None or not text.endswith("}"):
        raise Malformed("the line is no raw entry")
    payload_text: Optional[str] = text[head.end() : end]
    if salt[1] is None:
        if payload_text != "null":
            raise Malformed("it has a payload without a salt")
        payload_text = None
    statement = text[salt.end() : -1]
    match = STATEMENT.fullmatch(statement)
    if match is None:
        raise Malformed("its statement is not one of chain version 1")
    actor, body_text, environment, id, kind, org_id, payload_hash, prev_hash, seq, timestamp = match.groups()
    body = members_of(body_text)
    return Entry(
        head[1], statement, payload_text, payload, salt[1], body, actor, body_text, environment, id, kind, org_id,
        payload_hash, prev_hash, int(seq), timestamp,
    )  # fmt: skip


def damage(text: str) -> str:
    """What is wrong with a line that does not begin as a raw entry does."""
    try:
        fields = DECODER.decode(text)
    except BAD_JSON:
        fields = None
    if isinstance(fields, dict) and fields.get("damaged") is True:
        return "entry %s was damaged in the store already when the bundle was made" % fields.get("seq")
    return "the line is no raw entry"


PROOF = (
    "id", "org_id", "environment", "kind", "timestamp", "v", "seq", "actor", "salt", "payload_hash", "prev_hash",
    "hash", "redacted", "redaction_id",
)  # fmt: skip
BLANK = r"[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2060-\u2064\ufeff]*"
FORMULA = re.compile(BLANK + r"[=+\-@\t\r\n'\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]")
NOTHING = (None, "")
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def csv_cell(value: Any, text: str) -> str:
    """A JSON value, whose text that is, as a cell (RFC 4180).

    An apostrophe goes before what a spreadsheet would take for a formula, and before an apostrophe, so that taking
    away the one that a cell begins with always gives the value back.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text = "'" + value if FORMULA.match(value) and not NUMBER.fullmatch(value) else value
    if '"' in text or "," in text or "\n" in text or "\r" in text:
        return '"%s"' % text.replace('"', '""')
    return text


class Table:
    """A list of entries of some kinds: which columns it has, and how an entry looks in it."""

    def __init__(self, kinds: Iterable[str], body_fields: Iterable[str], payload_fields: Iterable[str]) -> None:
        self.kinds, self.body_fields, self.payload_fields = tuple(kinds), tuple(body_fields), tuple(payload_fields)
        self.proof = tuple(name for name in PROOF if name != "kind" or len(self.kinds) > 1)
        self.taken = (frozenset(PROOF), frozenset(self.body_fields))

    def csv_header(self) -> str:
        body = [column(name, self.taken[:1], "body") for name in self.body_fields]
        payload = [column(name, self.taken, "payload") for name in self.payload_fields]
        return ",".join(csv_cell(name, "") for name in (*self.proof, *body, *payload)) + "\r\n"

    def csv_row(self, entry: Entry) -> Tuple[str, str]:
        """What stands before and after the id of the redaction entry."""
        cells = [entry.id, csv_cell(unquoted(entry.org_id), ""), entry.environment]
        if len(self.kinds) > 1:
            cells.append(csv_cell(entry.kind, ""))
        cells += [entry.timestamp, "1", str(entry.seq), csv_cell(unquoted(entry.actor), ""), entry.salt or ""]
        cells += [entry.payload_hash or "", entry.prev_hash, entry.hash, "true" if entry.is_erased else "", ""]
        members = [entry.body.get(name, NOTHING) for name in self.body_fields]
        members += [entry.payload.get(name, NOTHING) for name in self.payload_fields]
        return ",".join(cells), "".join(["," + csv_cell(value, text) for value, text in members]) + "\r\n"

    def json_row(self, entry: Entry) -> Tuple[str, str]:
        """As csv_row, for the list of JSON records."""
        kind = '"kind":"%s",' % entry.kind if len(self.kinds) > 1 else ""
        salt = "null" if entry.salt is None else '"%s"' % entry.salt
        payload_hash = "null" if entry.payload_hash is None else '"%s"' % entry.payload_hash
        proof = (
            f'{{"id":"{entry.id}","org_id":{entry.org_id},"environment":"{entry.environment}",{kind}'
            f'"timestamp":"{entry.timestamp}","v":1,"seq":{entry.seq},"actor":{entry.actor},"salt":{salt},'
            f'"payload_hash":{payload_hash},"prev_hash":"{entry.prev_hash}","hash":"{entry.hash}"'
        )
        if entry.is_erased:
            proof += ',"redacted":true,"redaction_id":'
        taken = (*self.taken, entry.body.keys())
        body = member_texts(entry.body, entry.body_text, self.body_fields, taken[:1], "body")
        payload = member_texts(entry.payload, entry.payload_text or "", self.payload_fields, taken, "payload")
        return proof, "".join([*body, *payload]) + "}\n"


@lru_cache(maxsize=256)
def unquoted(text: str) -> str:
    value: str = DECODE(text, 0)[0]
    return value


Taken = Tuple[AbstractSet[str], ...]


def column(name: str, taken: Taken, part: str) -> str:
    """What a member is called in a list: where its name is taken already, that of its part stands before it."""
    return part + "." + name if any(name in names for names in taken) else name


def member_texts(found: Members, text: str, fields: Iterable[str], taken: Taken, part: str) -> Iterator[str]:
    """The members as they stand in the entry, then null for each field that it lacks; each after a comma."""
    if not all(names.isdisjoint(found) for names in taken):
        for name, (_, value) in found.items():
            yield ",%s:%s" % (json.dumps(column(name, taken, part), ensure_ascii=False), value)
    elif found:
        yield "," + text[1:-1]
    for name in fields:
        if name not in found:
            yield ",%s:null" % json.dumps(column(name, taken, part), ensure_ascii=False)


class Listing:
    """A list of the bundle, followed while the entries are read: it must have exactly the rows that they make.

    ``erased_later``: rows that show as erased what the raw entries, which were read before, still hold.
    """

    def __init__(self, reader: Reader, table: Table) -> None:
        self.reader, self.table = reader, table
        self.is_csv = reader.name.endswith(".csv")
        self.rows = self.erased_later = 0
        self.is_followed = True

    def begin(self, report: Report) -> None:
        if self.is_csv:
            self.reader.skip(BYTE_ORDER_MARK)  # bundles of before have none
        if self.is_csv and not self.reader.skip(self.table.csv_header()):
            self.lose("row 0", "it does not begin with the names of its columns", report)

    def add(self, entry: Entry, report: Report) -> Optional[str]:
        """The id of the redaction entry that the row of an erased entry names."""
        if entry.kind not in self.table.kinds or not self.is_followed:
            return None
        self.rows += 1
        row = self.table.csv_row if self.is_csv else self.table.json_row
        before, after = row(entry)
        if not entry.is_erased and self.reader.skip(before + after):
            return None
        if not entry.is_erased:
            before, after = row(entry.erased())
            self.erased_later += 1
        quote, nobody = ("", "") if self.is_csv else ('"', "null")
        if self.reader.skip(before + nobody + after):
            return None
        if self.reader.skip(before + quote):
            redaction_id = self.reader.take(len(entry.id)).decode("ascii", "replace")
            if self.reader.skip(quote + after):
                return redaction_id
        self.lose("row %d" % self.rows, "it is not what entry %d says" % entry.seq, report)
        return None

    def finish(self, report: Report) -> None:
        if self.is_followed and self.reader.take(1):
            self.lose("row %d" % (self.rows + 1), "there is no entry for it", report)

    def lose(self, where: str, what: str, report: Report) -> None:
        self.is_followed = False
        report.fail("%s %s" % (self.reader.name, where), what)


# The chain.


def wanted_of(filters: Mapping[str, Any]) -> Dict[str, Any]:
    """What decisions had to have to be in the bundle; empty when every entry of the range is."""
    return {name: filters[name] for name in ("agent_id", "action_type") if filters.get(name) is not None}


def completeness(filters: Mapping[str, Any], first_seq: int, last_seq: int, included: int) -> Dict[str, Any]:
    """What a bundle holds of its range, and what it does not, as numbers and as a sentence."""
    in_range = last_seq - first_seq + 1
    left_out = in_range - included
    wanted = " and ".join("%s %s" % (name, json.dumps(value)) for name, value in wanted_of(filters).items())
    where = "entries %d to %d of the chain" % (first_seq, last_seq)
    if in_range == 0:
        sentence = "No entry is in the range that was asked for, which ends with entry %d; none is included." % last_seq
    elif wanted:
        sentence = "Of %s, the %d decisions with %s are included; the other %d are left out, " % (
            where, included, wanted, left_out
        ) + "so that links across them cannot be checked here."  # fmt: skip
    elif left_out:
        sentence = "Of %s, the store held %d; the other %d are missing." % (where, included, left_out)
    else:
        sentence = "All %d of %s are included." % (included, where)
    if first_seq > 1:
        sentence += " The %d entries before them are not." % (first_seq - 1)
    return {
        "first_seq": first_seq,
        "last_seq": last_seq,
        "entries_in_range": in_range,
        "entries_included": included,
        "entries_left_out": left_out,
        "is_complete": left_out == 0,
        "covers_from_genesis": first_seq == 1,
        "statement": sentence + " Whether there are entries after entry %d is not said." % last_seq,
    }


class Manifest:
    """What the manifest says, once it has the form of one. Raises Malformed."""

    def __init__(self, document: Dict[str, Any]) -> None:
        self.document = document
        self.org_id: str = self.get("org_id", str)
        self.environment: str = self.get("environment", str)
        self.filters: Dict[str, Any] = self.get("filters", dict)
        self.wanted = wanted_of(self.filters)
        self.first_seq: int = self.get("completeness.first_seq", int)
        self.last_seq: int = self.get("completeness.last_seq", int)
        if not (0 < self.first_seq <= SEQ_MAX and 0 <= self.last_seq <= SEQ_MAX):
            raise Malformed("its range is none")
        self.key_id: str = self.get("signing_key.key_id", str)
        self.fingerprint: str = self.get("signing_key.fingerprint", str)
        self.algorithm: str = self.get("signing_key.algorithm", str)
        self.files: Dict[str, Tuple[str, int]] = {}
        for item in self.get("files", list):
            path, sha256, size = (
                item.get(name) if isinstance(item, dict) else None for name in ("path", "sha256", "bytes")
            )
            if not isinstance(path, str) or not isinstance(sha256, str) or type(size) is not int or path in self.files:
                raise Malformed("its list of files is damaged")
            self.files[path] = (sha256, size)
        self.tables: Dict[str, Table] = {}
        if len(self.files) > FILES_MAX:
            raise Malformed("it lists more than %d files" % FILES_MAX)
        for name in self.get("tables", dict):
            columns = [self.words("tables.%s.%s" % (name, part)) for part in ("kinds", "body_fields", "payload_fields")]
            for format in self.words("formats")[:FILES_MAX]:
                self.tables["%s.%s" % (name, format)] = Table(*columns)
        if set(self.files) != {*FIXED_FILES, *self.tables}:
            raise Malformed("its list of files is not that of a bundle with these lists")

    def words(self, path: str) -> List[str]:
        words: List[str] = self.get(path, list)
        if not all(isinstance(word, str) for word in words):
            raise Malformed("its %s is damaged" % path)
        return words

    def get(self, path: str, kind: type) -> Any:
        value: Any = self.document
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if type(value) is not kind:
            raise Malformed("its %s is missing or damaged" % path)
        return value

    def says(self, path: str, found: Any, report: Report) -> None:
        """Compare what was found with what stands there."""
        value: Any = self.document
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if json.dumps(value, sort_keys=True) != json.dumps(found, sort_keys=True):
            report.fail(
                MANIFEST, "its %s is %s, but the bundle holds %s" % (path, json.dumps(value), json.dumps(found))
            )


class Erased:
    """Entries whose payload is gone, in their order, and which of them a redaction entry explains; 57 bytes each."""

    def __init__(self) -> None:
        self.seqs = array("Q")
        self.digests, self.explained = bytearray(), bytearray()

    def add(self, entry: Entry, redaction_id: str) -> None:
        """``redaction_id``: of the entry that must explain it, as the lists say; empty when none does."""
        self.seqs.append(entry.seq)
        self.digests += bytes.fromhex(entry.hash) + digest_of(redaction_id)
        self.explained.append(0)

    def explain(self, redaction: Entry) -> bool:
        """Whether that redaction entry explains one of them."""
        seq, target_hash = redaction.body_value("target_seq"), redaction.body_value("target_hash")
        if redaction.kind != "redaction" or type(seq) is not int or not 0 < seq < redaction.seq:
            return False
        index = bisect_left(self.seqs, seq)
        if index == len(self.seqs) or self.seqs[index] != seq:
            return False
        digest = bytes(self.digests[index * 48 : index * 48 + 48])
        if digest[:32].hex() != target_hash or digest[32:] not in (digest_of(""), digest_of(redaction.id)):
            return False
        self.explained[index] = 1
        return True


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


class Walk:
    """Follows the entries in their order, then those that explain them."""

    def __init__(self, manifest: Manifest, listings: List[Listing], report: Report) -> None:
        self.manifest, self.listings, self.report = manifest, listings, report
        self.first: Optional[Dict[str, Any]] = None
        self.last: Optional[Entry] = None
        self.timestamp = ""
        self.count = self.links = self.gaps = self.damaged = self.context_count = 0
        self.by_kind: Dict[str, int] = {}
        self.server: Mapping[str, Any] = {}
        self.erased = Erased()
        self.announcements: List[int] = []
        self.other_keys: List[int] = []

    def read_entries(self, reader: Reader) -> None:
        for number, line in enumerate(reader.lines(), 1):
            self.count += 1
            try:
                entry = entry_of(line)
            except BAD_JSON as error:
                self.damaged += 1
                self.last = None
                self.report.fail("%s line %d" % (ENTRIES, number), str(error) or "the line is no raw entry")
                continue
            where = "%s line %d (entry %d)" % (ENTRIES, number, entry.seq)
            for problem in self.problems_of(entry):
                self.report.fail(where, problem)
            self.by_kind[entry.kind] = self.by_kind.get(entry.kind, 0) + 1
            self.first = self.first or {"seq": entry.seq, "prev_hash": entry.prev_hash}
            self.last, self.timestamp = entry, max(entry.timestamp, self.timestamp)
            redaction_ids = [listing.add(entry, self.report) for listing in self.listings]
            if entry.is_erased:
                self.erased.add(entry, "".join(sorted(set(filter(None, redaction_ids)))))
            elif entry.kind == "redaction":
                self.erased.explain(entry)
            self.note_key(entry)

    def problems_of(self, entry: Entry) -> Iterator[str]:
        """What is wrong with an entry by itself, and where it stands."""
        manifest, last = self.manifest, self.last
        problem = entry.problem() or self.problem_of_chain(entry)
        if problem is not None:
            yield problem
        if not manifest.first_seq <= entry.seq <= manifest.last_seq:
            yield "it is outside of the range that the manifest names"
        start, end = manifest.filters.get("start"), manifest.filters.get("end")
        if (start is not None and entry.timestamp < str(start)) or (end is not None and entry.timestamp >= str(end)):
            yield "its time is outside of what was asked for"
        if manifest.wanted:
            asked = all(entry.body_value(name) == value for name, value in manifest.wanted.items())
            if entry.kind != "decision" or not asked:
                yield "it is not what was asked for"
        if entry.timestamp <= self.timestamp:
            yield "its time is not after that of the entry before it"
        if entry.seq == 1 and entry.prev_hash != GENESIS:
            yield "it is the first of its chain, but follows another"
        if last is None:
            return
        if entry.seq <= last.seq:
            yield "it stands after entry %d: the order was changed, or it was repeated" % last.seq
        elif entry.seq == last.seq + 1:
            self.links += 1
            if entry.prev_hash != last.hash:
                yield "its prev_hash is not the hash of entry %d" % last.seq
        else:
            self.gaps += 1
            if not manifest.wanted:
                yield "entries %d to %d are missing" % (last.seq + 1, entry.seq - 1)

    def problem_of_chain(self, entry: Entry) -> Optional[str]:
        if (unquoted(entry.org_id), entry.environment) != (self.manifest.org_id, self.manifest.environment):
            return "it belongs to another chain"
        return None

    def note_key(self, entry: Entry) -> bool:
        """Whether the entry announces a signing key."""
        if entry.kind not in ("signing_key_created", "signing_key_rotated"):
            return False
        key = (entry.body_value("key_id"), entry.body_value("fingerprint"))
        is_ours = key == (self.manifest.key_id, self.manifest.fingerprint)
        (self.announcements if is_ours else self.other_keys).append(entry.seq)
        return True

    def read_context(self, reader: Reader) -> None:
        """Only what explains something may stand there, by seq, and nothing that is among the entries."""
        before = 0
        for number, line in enumerate(reader.lines(), 1):
            self.context_count += 1
            try:
                entry = entry_of(line)
            except BAD_JSON as error:
                self.report.fail("%s line %d" % (CONTEXT, number), str(error) or "the line is no raw entry")
                continue
            where = "%s line %d (entry %d)" % (CONTEXT, number, entry.seq)
            problem = entry.problem() or self.problem_of_chain(entry)
            if problem is None and entry.seq <= before:
                problem = "it stands after entry %d" % before
            if problem is None and not self.manifest.wanted and self.is_in_range(entry):
                problem = "it is of the range, and so has its place in %s" % ENTRIES
            if problem is None and not self.note_key(entry) and not self.erased.explain(entry):
                problem = "it explains nothing in this bundle"
            if problem is not None:
                self.report.fail(where, problem)
            before = max(before, entry.seq)

    def is_in_range(self, entry: Entry) -> bool:
        return self.manifest.first_seq <= entry.seq <= self.manifest.last_seq

    def finish(self) -> None:
        """What only shows at the end: what is missing, and whether the manifest says what was found."""
        for index, seq in enumerate(self.erased.seqs):
            if not self.erased.explained[index]:
                self.report.fail("%s entry %d" % (ENTRIES, seq), "its payload is gone, and no redaction entry says so")
        manifest, report = self.manifest, self.report
        last = None if self.last is None else {"seq": self.last.seq, "hash": self.last.hash}
        manifest.says("chain.first", self.first, report)
        manifest.says("chain.last", last, report)
        manifest.says("chain.gaps_explained", bool(manifest.wanted) or not self.gaps, report)
        manifest.says("counts.entries", self.count, report)
        manifest.says("counts.by_kind", self.by_kind, report)
        manifest.says("counts.damaged", self.damaged, report)
        manifest.says("counts.redacted", len(self.erased.seqs), report)
        manifest.says("counts.context", self.context_count, report)
        found = completeness(manifest.filters, manifest.first_seq, manifest.last_seq, self.count)
        for name, value in found.items():
            manifest.says("completeness." + name, value, report)
        if not manifest.wanted and found["entries_left_out"]:
            text = "it holds %d entries, not those from %d to %d"
            report.fail(ENTRIES, text % (self.count, manifest.first_seq, manifest.last_seq))
        if self.other_keys and not self.announcements:
            report.fail(PUBLIC_KEY, "the key that signed is not the one that entry %d announces" % self.other_keys[-1])


def check_verification(source: Source, manifest: Manifest, walk: Walk, report: Report) -> None:
    """What the server found must be good, about this range, and what the manifest says of it."""
    try:
        found = document_of(source.read(VERIFICATION))
    except Malformed as error:
        report.fail(VERIFICATION, str(error))
        return
    manifest.says("chain.is_valid", found.get("is_valid"), report)
    if "verdict" in manifest.get("chain", dict):  # not in bundles of older versions
        manifest.says("chain.verdict", found.get("verdict"), report)
    walk.server = found
    is_empty = manifest.last_seq < manifest.first_seq and found.get("is_valid") is None
    if found.get("is_valid") is not True and not is_empty:
        reason = json.dumps(found.get("first_break"))
        report.fail(VERIFICATION, "the chain did not hold when the server verified it for this bundle: %s" % reason)
        return
    covered = (manifest.first_seq, manifest.last_seq, manifest.last_seq - manifest.first_seq + 1)
    if tuple(found.get(name) for name in ("first_seq", "last_seq", "entries_checked")) != covered:
        report.fail(VERIFICATION, "it is not about all entries from %d to %d" % covered[:2])


# The signature: RFC 8017, section 8.2.2 (RSASSA-PKCS1-v1_5), with a key as in RFC 5280, section 4.1.

KEY_HEAD = bytes.fromhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100")
KEY_TAIL = bytes.fromhex("0203010001")
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def key_der(pem: bytes) -> bytes:
    """The key (SubjectPublicKeyInfo, DER): RSA of 2048 bits with the exponent 65537, nothing else. Raises Malformed."""
    lines = pem.decode("ascii", "replace").split("\n")
    try:
        der = base64.b64decode("".join(lines[1:-2]), validate=True)
    except ValueError:
        der = b""
    is_framed = (lines[0], lines[-2:]) == ("-----BEGIN PUBLIC KEY-----", ["-----END PUBLIC KEY-----", ""])
    if not is_framed or (der[:33], der[289:]) != (KEY_HEAD, KEY_TAIL) or der[33] < 0x80:
        raise Malformed("it is not an RSA key of 2048 bits in PEM form")
    return der


def signature_holds(der: bytes, signature: bytes, message: bytes) -> bool:
    modulus = int.from_bytes(der[33:289], "big")
    number = int.from_bytes(signature, "big")
    if len(signature) != 256 or number >= modulus:
        return False
    expected = DIGEST_INFO + hashlib.sha256(message).digest()
    return (
        pow(number, 65537, modulus).to_bytes(256, "big") == b"\0\1" + b"\xff" * (253 - len(expected)) + b"\0" + expected
    )


def check_signature(source: Source, manifest: bytes, fingerprint: Optional[str], report: Report) -> Optional[str]:
    """The fingerprint of the key that is in the bundle."""
    try:
        where = PUBLIC_KEY
        der = key_der(source.read(PUBLIC_KEY))
        where = SIGNATURE
        signature = source.read(SIGNATURE)
    except Malformed as error:
        report.fail(where, str(error))
        return None
    if not signature_holds(der, signature, manifest):
        report.fail(SIGNATURE, "the signature does not fit manifest.json and public_key.pem")
    found = hashlib.sha256(der).hexdigest()
    if fingerprint is not None and found != fingerprint:
        report.fail(PUBLIC_KEY, "its fingerprint is %s, not %s as you expect" % (found, fingerprint))
    return found


# The whole.


def check(path: str, fingerprint: Optional[str] = None) -> Report:
    """The report on a bundle, a folder or a ZIP file. ``fingerprint``: 64 hex digits. Raises NotABundle."""
    with Source(path) as source:
        return check_source(source, fingerprint)


def check_source(source: Source, fingerprint: Optional[str]) -> Report:
    """As check, for a bundle that is open. What nobody foresaw of a bundle fails it: there is always a verdict."""
    report = Report()
    try:
        check_bundle(source, fingerprint, report)
    except NotABundle:
        raise
    except Exception as error:
        report.fail("the bundle", "it cannot be checked to its end: %s: %s" % (type(error).__name__, error))
    return report


def check_bundle(source: Source, fingerprint: Optional[str], report: Report) -> None:
    if MANIFEST not in source.names:
        raise NotABundle("there is no %s in %s" % (MANIFEST, source.path))
    if source.trouble is not None:
        report.fail("the archive", source.trouble)
    try:
        raw = source.read(MANIFEST)
    except Malformed as error:
        report.fail(MANIFEST, str(error))
        return
    signed_by = check_signature(source, raw, fingerprint, report)
    try:
        document = document_of(raw)
        if (document.get("format"), document.get("format_version")) != (FORMAT, FORMAT_VERSION):
            what = "%.100s %.100s" % (document.get("format"), document.get("format_version"))
            if not report.problems_count:
                raise NotABundle("this checks %s %d, not %s" % (FORMAT, FORMAT_VERSION, what))
        manifest = Manifest(document)
    except Malformed as error:
        report.fail(MANIFEST, str(error))
        return
    check_names(source, manifest, report)
    if signed_by is not None and (signed_by, ALGORITHM) != (manifest.fingerprint, manifest.algorithm):
        report.fail(PUBLIC_KEY, "it is not the key that the manifest names: its fingerprint is %s" % signed_by)
    walk = check_contents(source, manifest, report)
    for name in ("export_id", "org_id", "environment", "created_at"):
        value = document.get(name)
        report.about[name] = value if isinstance(value, str) else None
    report.about.update(fingerprint=signed_by, entries=walk.count)
    report.about["head"] = None if walk.last is None else {"seq": walk.last.seq, "hash": walk.last.hash}
    if source.litter:
        names = ", ".join(source.litter[:PROBLEMS_MAX])
        more = len(source.litter) - PROBLEMS_MAX
        names += " and %d more" % more if more > 0 else ""
        report.not_checked.append("what is not part of the bundle, but was left by an operating system: " + names)
    if not report.problems_count:
        say_what_holds(manifest, walk, fingerprint, report)


def check_names(source: Source, manifest: Manifest, report: Report) -> None:
    expected = {*manifest.files, MANIFEST, SIGNATURE}
    for name in sorted(expected.difference(source.names)):
        report.fail(name, "the file is missing")
    for name in sorted(set(source.names)):
        if name not in expected:
            report.fail(name, "the file is not one of the bundle")
        elif source.names.count(name) > 1:
            report.fail(name, "the file stands more than once in the archive")


def check_contents(source: Source, manifest: Manifest, report: Report) -> Walk:
    """Each file once: its digest, and what it says."""
    with ThreadPoolExecutor(2) as pool:
        readers = {
            name: Reader(source, name, manifest.files[name][1], pool) for name in manifest.files if name in source.names
        }
        listings = [Listing(readers[name], table) for name, table in manifest.tables.items() if name in readers]
        walk = Walk(manifest, listings, report)
        for listing in listings:
            listing.begin(report)
        for name, read in ((ENTRIES, walk.read_entries), (CONTEXT, walk.read_context)):
            if name in readers:
                try:
                    read(readers[name])
                except Malformed as error:
                    report.fail(name, str(error))
        for listing in listings:
            listing.finish(report)
        if len(listings) == len(manifest.tables) and all(listing.is_followed for listing in listings):
            manifest.says("counts.tables", {listing.reader.name: listing.rows for listing in listings}, report)
        walk.finish()
        for name, reader in readers.items():
            reader.finish(*manifest.files[name], report)
    check_verification(source, manifest, walk, report)
    return walk


def say_what_holds(manifest: Manifest, walk: Walk, fingerprint: Optional[str], report: Report) -> None:
    key = "the key with the fingerprint %s" % manifest.fingerprint
    report.held.append("manifest.json was signed by %s" % key)
    report.held.append(
        "%d files have the size and SHA-256 that the manifest lists, and there is no other%s"
        % (len(manifest.files), " that is part of the bundle" if report.not_checked else "")
    )
    if walk.count:
        text = "%d entries: each hash is that of its statement, each payload the one that was hashed, %d links hold"
        report.held.append(text % (walk.count, walk.links))
        say_what_the_server_found(walk.server, report)
    else:
        report.nothing = "CHECKED_ZERO: no entry of the range that was asked for is in this bundle"
    if walk.erased.seqs:
        report.held.append("%d payloads were erased; a redaction entry says so for each" % len(walk.erased.seqs))
    for listing in walk.listings:
        report.held.append("%s has %d rows, each as its entry says" % (listing.reader.name, listing.rows))
    report.held.append("completeness: %s" % manifest.get("completeness.statement", str))
    if walk.announcements:
        report.held.append("entry %d announces the key" % walk.announcements[0])
    else:
        report.not_checked.append("that the chain announces the key: no entry that does is in this bundle")
    if fingerprint is None:
        report.not_checked.append("whose key it is: compare its fingerprint with one that you have from elsewhere")
    else:
        report.held.append("the key is the one that you expect")
    erased_later = sum(listing.erased_later for listing in walk.listings)
    if erased_later:
        text = "why %d rows of lists lack a payload that the raw entries have: it was erased while the bundle was made"
        report.not_checked.append(text % erased_later)
    if walk.gaps:
        report.not_checked.append("links across %d gaps that the filter left" % walk.gaps)
    if walk.first is not None and walk.first["seq"] > 1:
        report.not_checked.append("what stands before entry %d: its prev_hash is taken as given" % walk.first["seq"])
    head = "the chain" if walk.last is None else "entry %d with hash %s" % (walk.last.seq, walk.last.hash)
    text = "that the server shows this chain to everybody, and what came later: compare %s with a receipt or checkpoint"
    report.not_checked.append(text % head)


def say_what_the_server_found(found: Mapping[str, Any], report: Report) -> None:
    """Its verdict of then, in its words: its anchors, what it did not check, and what a thief could still do there."""
    verdict = found.get("verdict")
    report.about["server_verdict"] = printable(verdict) if isinstance(verdict, str) else None
    said = "; its verdict: %s" % verdict if isinstance(verdict, str) else ""
    report.held.append(printable("the server verified these entries when it made the bundle" + said))
    for anchor in dicts_of(found.get("anchors")):
        if isinstance(anchor.get("newest_seq"), int):
            text = "the server compared %s checkpoints: the newest is of entry %s, of %s, %s s old at the request"
            values = tuple(anchor.get(name) for name in ("compared", "newest_seq", "newest_time", "age_s"))
            report.held.append(printable(text % values))
    texts = [
        "the server found %s: %s" % (each.get("code"), each.get("reason")) for each in dicts_of(found.get("findings"))
    ]
    sentences = found.get("not_checked")
    texts += ["by the server: %s" % each for each in (sentences[:PROBLEMS_MAX] if isinstance(sentences, list) else [])]
    for window in dicts_of(found.get("forgeable")):
        first = "no entry" if window.get("from_seq") is None else "from entry %s" % window.get("from_seq")
        values = (window.get("threat"), window.get("act"), first, window.get("sentence"))
        texts.append("by the server, what a thief could do (%s, %s, %s): %s" % values)
    report.not_checked += map(printable, texts)


def dicts_of(value: Any) -> List[Dict[str, Any]]:
    """The objects in a list of a bundle, the first ones; none where it is no list."""
    return [each for each in value if isinstance(each, dict)][:PROBLEMS_MAX] if isinstance(value, list) else []


def printable(text: str) -> str:
    """One line that any terminal can show, whatever a hostile bundle holds."""
    return "".join(each if " " <= each <= "~" else ascii(each)[1:-1] for each in text[:1000])


def plain_fingerprint(text: str) -> str:
    """As 64 hex digits; colons and spaces between them are left out. Raises NotABundle."""
    plain = re.sub("[: ]", "", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise NotABundle("a fingerprint has 64 hex digits")
    return plain


def main() -> int:
    arguments = argparse.ArgumentParser(description="Checks an evidence bundle.")
    arguments.add_argument("path", nargs="?", default=os.path.dirname(os.path.abspath(__file__)), help="folder or ZIP")
    arguments.add_argument("--fingerprint", metavar="HEX", help="of the key that must have signed")
    arguments.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    asked = arguments.parse_args()
    try:
        report = check(asked.path, None if asked.fingerprint is None else plain_fingerprint(asked.fingerprint))
    except Exception as error:  # there is always a verdict
        reason = printable(str(error) if isinstance(error, (NotABundle, OSError)) else repr(error))
        verdict = {"verdict": "could_not_check", "reason": reason}
        print(json.dumps(verdict) if asked.json else "COULD NOT CHECK: " + reason)
        return 2
    for line in [json.dumps(report.document())] if asked.json else report.lines():
        print(line)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
