"""Whatever is in a file that calls itself a bundle, both verifiers end in a verdict, in bounded time; seeded mutations.

Owns the hostile inputs: bytes, ZIP structures, JSON values of other types. What each fault is called is elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from precipiq_exports.bundle import verify
from precipiq_exports.bundle.writer import VERIFIER
from precipiq_exports.bundle_commands import bundle_group
from tests.effort import rounds

from .chains import MadeChain, bundle_of, key, longer, packed, report_on, resigned, unpack_to, unpacked

SEED = 20_260_731
EACH_S_MAX = 20.0
DEEP = b"[" * 100_000
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    chain = longer(MadeChain(), 4)
    chain.announce(key())
    chain.decide(7)
    chain.erase(2)
    return bundle_of(chain)


def verdict_of(bundle: bytes, folder: Path) -> int:
    """What `bundle verify`, which runs verify.py's code too, ends with; anything but a verdict fails the test."""
    file = folder / "bundle.zip"
    file.write_bytes(bundle)
    started_s = time.monotonic()
    done = CliRunner().invoke(bundle_group, ["verify", str(file)])
    assert time.monotonic() - started_s < EACH_S_MAX
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    words = {0: "VERIFIED: ", 1: "FAILED: ", 2: "error: could not check: "}
    assert done.exit_code in words
    assert (done.stdout or done.stderr).startswith(words[done.exit_code])
    report_is_printable(file)
    return done.exit_code


def report_is_printable(file: Path) -> None:
    """Both forms of the report of verify.py, as its main function prints them."""
    try:
        report = verify.check(str(file))
    except verify.NotABundle:
        return
    assert not [what for where, what in report.problems if where == "the bundle"], "a fault that nobody foresaw"
    json.dumps(report.document(), allow_nan=False).encode("ascii")
    "\n".join(report.lines()).encode("ascii")


ODD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 2**64,
    lambda: 10**4000,
    lambda: 1.5,
    lambda: "",
    lambda: "\ud800",
    lambda: "x" * 5000,
    lambda: [],
    lambda: {},
    lambda: ["\udfff", {"a": None}],
    lambda: {"\ud800": "\ud800"},
]
ODD_TEXTS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    DEEP,
    b'"\\ud800"',
    b"\xff\xfe",
    b"{" * 50_000,
    b"",
]


def odd_value(chance: random.Random) -> Any:
    return chance.choice(ODD)()


def with_odd_value(document: Any, chance: random.Random) -> Any:
    """The document with one value, wherever it stands, replaced or gone."""
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        value = stack.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
        for each in keys:
            places.append((value, each))
            stack.append(value[each])
    if not places:
        return odd_value(chance)
    holder, name = chance.choice(places)
    if isinstance(holder, dict) and chance.random() < 0.2:
        del holder[name]
    else:
        holder[name] = odd_value(chance)
    return document


def json_mutated(files: Files, chance: random.Random) -> bytes:
    """A value of a JSON file is of another kind; signed again or not."""
    name = chance.choice(
        ["manifest.json", "manifest.json", "entries.jsonl", "context.jsonl", "chain_verification.json"]
    )
    lines = files[name].splitlines() or [b"{}"]
    index = chance.randrange(len(lines))
    if chance.random() < 0.3:
        text = lines[index]
        at = chance.randrange(len(text) + 1)
        lines[index] = text[:at] + chance.choice(ODD_TEXTS) + text[at + chance.randrange(12) :]
    else:
        whole = files[name] if name.endswith(".json") else lines[index]
        lines = [b""] if name.endswith(".json") else lines
        index = 0 if name.endswith(".json") else index
        lines[index] = json.dumps(with_odd_value(json.loads(whole), chance), separators=(",", ":")).encode()
    return as_zip(files, {name: b"\n".join(lines)}, chance)


def as_zip(files: Files, changed: Files, chance: random.Random) -> bytes:
    altered = {**files, **changed}
    if chance.random() < 0.7 and "manifest.json" not in changed:
        altered = resigned(altered, key())
    elif chance.random() < 0.7:
        altered = signed(altered)
    return packed(altered)


def signed(files: Files) -> Files:
    """Signed over the manifest as it stands, by whoever has the key."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    return {**files, "manifest.json.sig": key().sign(files["manifest.json"], PKCS1v15(), SHA256())}


def bytes_mutated(bundle: bytes, chance: random.Random) -> bytes:
    """Bytes of the file changed, taken out, put in, repeated; half of the time in the directory at its end."""
    data = bytearray(bundle)
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        low = max(0, len(data) - 1200) if chance.random() < 0.5 else 0
        at = chance.randrange(low, max(low + 1, len(data)))
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.choice([1, 2, 4, 100])]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.choice([1, 2, 4, 100]))
        elif kind == 3:
            data[at:at] = data[at : at + chance.randrange(200)]
        else:
            data[at : at + 4] = chance.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6"]
            )
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.1 else data)


def directory_mutated(bundle: bytes, chance: random.Random) -> bytes:
    """A field of a directory entry, a member's head or the end of the directory has an odd value."""
    data = bytearray(bundle)
    signature, fields = chance.choice(
        [
            (b"PK\1\2", [4, 6, 8, 10, 12, 16, 20, 24, 28, 30, 32, 34, 36, 38, 42]),
            (b"PK\3\4", [4, 6, 8, 10, 14, 18, 22, 26, 28]),
            (b"PK\5\6", [4, 6, 8, 10, 12, 16, 20]),
        ]
    )
    places = []
    at = data.find(signature)
    while at >= 0:
        places.append(at)
        at = data.find(signature, at + 1)
    at = chance.choice(places) + chance.choice(fields)
    value = chance.choice([0, 1, 8, 9, 12, 14, 93, 99, 0x41, 0x800, 0x7FFF, 0xFFFF])
    data[at : at + 2] = struct.pack("<H", value)
    return bytes(data)


def members_mutated(files: Files, chance: random.Random) -> bytes:
    """Members too many: twice, of odd names, folders, encrypted or compressed in odd ways."""
    out = io.BytesIO()
    names = [
        "../entries.jsonl",
        "/etc/passwd",
        "x/",
        "a\0b",
        "\ud800".encode("utf-8", "replace").decode(),
        "." * 300,
        "entries.jsonl",
    ]
    with zipfile.ZipFile(
        out, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    ) as archive:
        for name, content in files.items():
            if chance.random() > 0.05:
                archive.writestr(name, content)
        archive.writestr(chance.choice(names), b"x" * chance.choice([0, 1, 100_000]))
        archive.comment = chance.choice([b"", b"a comment", b"PK\5\6" + bytes(18)])
    return chance.choice([b"", b"", b"MZ", bundle_prefix()]) + out.getvalue()


def bundle_prefix() -> bytes:
    return packed({"entries.jsonl": b"another reader sees this"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_both_verifiers_always_end_in_a_verdict(bundle: bytes, tmp_path: Path) -> None:
    chance, files = random.Random(SEED), unpacked(bundle)
    seen: dict[int, int] = {}
    makers: list[Callable[[], bytes]] = [
        lambda: json_mutated(files, chance),
        lambda: json_mutated(files, chance),
        lambda: bytes_mutated(bundle, chance),
        lambda: directory_mutated(bundle, chance),
        lambda: members_mutated(files, chance),
    ]
    for number in range(rounds(400, long=20_000)):
        hostile = chance.choice(makers)()
        try:
            code = verdict_of(hostile, tmp_path)
        except BaseException:
            print(f"seed {SEED}, round {number}")
            (tmp_path / f"round-{number}.zip").write_bytes(hostile)
            raise
        seen[code] = seen.get(code, 0) + 1
    assert seen[1] > sum(seen.values()) / 2, seen


NAMED = {
    "half a character in a value": lambda files: {**files, "manifest.json": changed(files, "org_id", "\ud800")},
    "half a character in a filter": lambda files: {
        **files,
        "manifest.json": changed(files, "filters", {"agent_id": "\ud800"}),
    },
    "half a character in a list's name": lambda files: {
        **files,
        "manifest.json": changed(files, "tables", {"\ud800": {}}),
    },
    "a number of many digits": lambda files: {**files, "manifest.json": b'{"format":' + b"9" * 1_000_000 + b"}"},
    "deep nesting": lambda files: {**files, "manifest.json": b'{"format":' + DEEP + b"}"},
    "deep nesting in an entry": lambda files: {
        **files,
        "entries.jsonl": b'{"hash":"' + b"0" * 64 + b'","payload":' + DEEP,
    },
    "no object": lambda files: {**files, "manifest.json": b"[]"},
    "a range without end": lambda files: {
        **files,
        "manifest.json": changed(files, "completeness", {"first_seq": 1, "last_seq": 10**4000}),
    },
}


def changed(files: Files, name: str, value: object) -> bytes:
    return json.dumps({**json.loads(files["manifest.json"]), name: value}).encode()


@pytest.mark.parametrize("name", NAMED)
def test_hostile_values_fail_alone_and_under_a_good_signature(bundle: bytes, tmp_path: Path, name: str) -> None:
    files = NAMED[name](unpacked(bundle))
    assert verdict_of(packed(files), tmp_path) == 1
    assert verdict_of(packed(signed(files)), tmp_path) in (1, 2)


@pytest.mark.parametrize("prefix", [b"MZ", b"\0" * 22, "zip"], ids=["bytes", "zeros", "another archive"])
def test_what_stands_in_front_of_the_archive_is_refused(bundle: bytes, tmp_path: Path, prefix: bytes | str) -> None:
    front = bundle_prefix() if isinstance(prefix, str) else prefix
    assert "stand in front of its first member" in report_on(front + bundle, tmp_path).problems[0][1]


def test_a_member_that_no_directory_lists_is_refused(bundle: bytes, tmp_path: Path) -> None:
    """In front of the archive's own data, with a directory whose places were moved along."""
    hidden = bundle_prefix()
    hidden = hidden[: hidden.index(b"PK\1\2")]
    out = io.BytesIO(hidden)
    out.seek(0, os.SEEK_END)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in unpacked(bundle).items():
            archive.writestr(name, content)
    assert "front" in report_on(out.getvalue(), tmp_path).problems[0][1]


def test_a_bundle_that_was_packed_anew_is_a_bundle(bundle: bytes, tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, content in unpacked(bundle).items():
                archive.writestr(name, content)
        assert report_on(out.getvalue(), tmp_path).problems == []


LITTER = [".DS_Store", "._entries.jsonl", "Thumbs.db", "desktop.ini", "__MACOSX/._manifest.json", "__MACOSX/x"]


def test_litter_of_operating_systems_in_a_folder_is_named_and_fails_nothing(bundle: bytes, tmp_path: Path) -> None:
    folder = unpack_to(unpacked(bundle), tmp_path / "evidence")
    for name in LITTER:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"litter")
    report = verify.check(str(folder))
    assert report.problems == []
    assert all(name in report.not_checked[0] for name in LITTER)
    assert "not part of the bundle" in report.not_checked[0]

    (folder / "notes.txt").touch()
    assert verify.check(str(folder)).problems == [("notes.txt", "the file is not one of the bundle")]


def test_what_is_no_regular_file_does_not_keep_a_verifier_waiting(bundle: bytes, tmp_path: Path) -> None:
    for name, make in (("entries.jsonl", os.mkfifo), ("manifest.json", lambda path: path.symlink_to("/dev/zero"))):
        folder = unpack_to(unpacked(bundle), tmp_path / name.partition(".")[0])
        (folder / name).unlink()
        make(folder / name)  # type: ignore[operator]
        assert any("no regular file" in what for _, what in verify.check(str(folder)).problems)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(verify.NotABundle):
        verify.check(str(tmp_path / "pipe"))


def test_lists_without_a_byte_order_mark_stay_valid(bundle: bytes, tmp_path: Path) -> None:
    files = unpacked(bundle)
    assert files["decisions.csv"].startswith(b"\xef\xbb\xbfid,")
    older = {**files, "decisions.csv": files["decisions.csv"][3:]}
    assert report_on(packed(resigned(older, key())), tmp_path).problems == []
    twice = {**files, "decisions.csv": b"\xef\xbb\xbf" + files["decisions.csv"]}
    assert report_on(packed(resigned(twice, key())), tmp_path).problems != []


def test_the_program_in_the_bundle_ends_in_a_verdict_by_itself(bundle: bytes, tmp_path: Path) -> None:
    files = unpacked(bundle)
    for name, hostile in {
        "value": packed(signed(NAMED["half a character in a value"](files))),
        "front": b"MZ" + bundle,
        "none": b"PK\5\6" + bytes(40),
    }.items():
        file = tmp_path / name
        file.write_bytes(hostile)
        done = subprocess.run([sys.executable, "-I", "-S", str(VERIFIER), str(file)], capture_output=True, timeout=60)
        assert (done.returncode in (1, 2), done.stderr) == (True, b"")
        assert done.stdout.startswith((b"FAILED: ", b"COULD NOT CHECK: "))
