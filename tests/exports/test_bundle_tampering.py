"""Whatever is done to a bundle, a check fails and says what and where; what an insider with the key does as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precipiq_exports.bundle import verify
from tests.effort import rounds

from .chains import (
    NO_FILTERS,
    MadeChain,
    bundle_of,
    key,
    lines,
    longer,
    openssl_says,
    problems,
    public_der,
    report_on,
    resigned,
    sign,
    unpack_to,
    unpacked,
)

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def chain() -> MadeChain:
    made = longer(MadeChain(), 6)
    made.announce(key())
    made.decide(7)
    made.erase(2)
    return made


@pytest.fixture(scope="module")
def files(chain: MadeChain) -> Files:
    return unpacked(bundle_of(chain))


NAMES = [
    "VERIFY.md",
    "verify.py",
    "entries.jsonl",
    "context.jsonl",
    "decisions.jsonl",
    "decisions.csv",
    "chain_verification.json",
    "public_key.pem",
    "manifest.json",
    "manifest.json.sig",
]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]


def without(name: str, number: int) -> Callable[[Files], Files]:
    """Leaves out one line of a file."""

    def change(files: Files) -> Files:
        kept = [line for index, line in enumerate(files[name].splitlines(keepends=True), 1) if index != number]
        return {**files, name: b"".join(kept)}

    return change


def swapped(name: str, first: int, second: int) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        found = files[name].splitlines(keepends=True)
        found[first - 1], found[second - 1] = found[second - 1], found[first - 1]
        return {**files, name: b"".join(found)}

    return change


def doubled(name: str, number: int) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        found = files[name].splitlines(keepends=True)
        return {**files, name: b"".join([*found[:number], found[number - 1], *found[number:]])}

    return change


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        assert old in files[name]
        return {**files, name: files[name].replace(old, new, 1)}

    return change


def redaction_renamed(files: Files) -> Files:
    """The lists name another redaction entry than the one that explains."""
    [redaction_id] = {
        record["redaction_id"].encode() for record in lines(files["decisions.jsonl"]) if "redacted" in record
    }
    other = b"0" * 8 + redaction_id[8:]
    return {name: text.replace(redaction_id, other) if "decisions" in name else text for name, text in files.items()}


def rehashed(files: Files) -> Files:
    """The first entry is another one, with a hash that is right; the second still names the one that was there."""
    first, _, rest = files["entries.jsonl"].partition(b"\n")
    statement = first.partition(b',"statement":')[2].removesuffix(b"}").replace(b"0.82", b"0.83")
    old = json.loads(first)["hash"].encode()
    line = first.replace(old, sha256(statement).hexdigest().encode(), 1).replace(b"0.82", b"0.83")
    return {**files, "entries.jsonl": line + b"\n" + rest}


def said(text: Any, **changes: Any) -> Callable[[Files], Files]:
    """Changes what the manifest says at a dotted path."""

    def change(files: Files) -> Files:
        manifest = json.loads(files["manifest.json"])
        *path, last = text.split(".")
        node = manifest
        for name in path:
            node = node[name]
        node[last] = changes["to"]
        return {**files, "manifest.json": json.dumps(manifest).encode()}

    return change


def test_the_bundle_itself_is_right(files: Files, tmp_path: Path) -> None:
    assert sorted(files) == sorted(NAMES)
    assert problems(files, tmp_path) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "context.jsonl"])
def test_one_flipped_byte_is_found_wherever_it_is(files: Files, name: str, tmp_path: Path) -> None:
    for part in range(5):
        at = (len(files[name]) - 1) * part // 4
        changed = {**files, name: flipped(files[name], at)}
        found = problems(changed, tmp_path)
        where = "manifest.json.sig" if name == "manifest.json" else name
        assert any(text.startswith((where, "manifest.json:")) or name == "public_key.pem" for text in found), (
            at,
            found,
        )


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig", "public_key.pem"])
def test_openssl_finds_what_was_done_to_what_is_signed(files: Files, name: str, tmp_path: Path) -> None:
    changed = {**files, name: flipped(files[name], len(files[name]) // 2)}
    assert openssl_says(unpack_to(changed, tmp_path / "unpacked")) != "Verified OK"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(files: Files, name: str, tmp_path: Path) -> None:
    changed = {other: content for other, content in files.items() if other != name}
    if name == "manifest.json":
        from precipiq_exports.bundle.verify import NotABundle

        with pytest.raises(NotABundle):
            report_on(changed, tmp_path)
    else:
        assert f"{name}: the file is missing" in problems(changed, tmp_path)


def test_added_renamed_and_doubled_files_are_named(files: Files, tmp_path: Path) -> None:
    assert "more.txt: the file is not one of the bundle" in problems({**files, "more.txt": b""}, tmp_path)
    renamed = {("decisions.JSONL" if name == "decisions.jsonl" else name): content for name, content in files.items()}
    found = problems(renamed, tmp_path)
    assert {text.partition(":")[0] for text in found} == {"decisions.JSONL", "decisions.jsonl"}
    nested = {("more/entries.jsonl" if name == "entries.jsonl" else name): content for name, content in files.items()}
    assert any(text.startswith("more/entries.jsonl") for text in problems(nested, tmp_path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_in_the_archive_is_found(files: Files, tmp_path: Path) -> None:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("entries.jsonl", files["entries.jsonl"])
    assert problems(out.getvalue(), tmp_path) == ["entries.jsonl: the file stands more than once in the archive"]


@pytest.mark.parametrize("name", ["entries.jsonl", "decisions.jsonl", "decisions.csv", "chain_verification.json"])
def test_a_file_of_another_bundle_is_found(files: Files, name: str, tmp_path: Path) -> None:
    other = unpacked(bundle_of(longer(MadeChain(2), 3), verification={"is_valid": True, "other": 1}))
    found = problems({**files, name: other[name]}, tmp_path)
    assert [text for text in found if text.startswith(f"{name}: it is")]


def test_another_key_is_found_by_the_chain_and_by_the_expected_fingerprint(files: Files, tmp_path: Path) -> None:
    other = key("second")
    plainly = {**files, "manifest.json.sig": resigned(files, other)["manifest.json.sig"]}
    assert problems(plainly, tmp_path) == [
        "manifest.json.sig: the signature does not fit manifest.json and public_key.pem"
    ]
    from precipiq_exports.signer import public_key_pem

    fingerprint = sha256(public_der(other)).hexdigest()
    consistent = {**files, "public_key.pem": public_key_pem(public_der(other)).encode()}
    consistent = resigned(said("signing_key.fingerprint", to=fingerprint)(consistent), other)
    assert openssl_says(unpack_to(consistent, tmp_path / "unpacked")) == "Verified OK"
    assert problems(consistent, tmp_path) == [
        "public_key.pem: the key that signed is not the one that entry 7 announces"
    ]
    real = sha256(public_der(key())).hexdigest()
    assert any("as you expect" in text for text in problems(consistent, tmp_path, real))


INSIDER = {
    "an entry dropped": (without("entries.jsonl", 4), "entries.jsonl line 4 (entry 5): entries 4 to 4 are missing"),
    "the last entry dropped": (without("entries.jsonl", 9), "manifest.json: its chain.last is"),
    "the first entry dropped": (without("entries.jsonl", 1), "manifest.json: its chain.first is"),
    "entries reordered": (swapped("entries.jsonl", 3, 4), "entries.jsonl line 4 (entry 3): it stands after entry 4"),
    "an entry doubled": (doubled("entries.jsonl", 3), "entries.jsonl line 4 (entry 3): it stands after entry 3"),
    "a statement altered": (
        replaced("entries.jsonl", b"0.82", b"0.83"),
        "entries.jsonl line 1 (entry 1): the statement is not the one that was hashed",
    ),
    "an entry rewritten with its hash": (
        rehashed,
        "entries.jsonl line 2 (entry 2): its prev_hash is not the hash of entry 1",
    ),
    "a payload altered": (
        replaced("entries.jsonl", b'"discount_pct":15', b'"discount_pct":16'),
        "entries.jsonl line 1 (entry 1): the payload is not the one that was hashed",
    ),
    "a payload stripped": (
        lambda files: {**files, "entries.jsonl": stripped(files["entries.jsonl"])},
        "entries.jsonl entry 1: its payload is gone, and no redaction entry says so",
    ),
    "a key repeated in a payload": (
        replaced("entries.jsonl", b'"outputs":{"discount_pct":15}', b'"outputs":{"discount_pct":16,"discount_pct":15}'),
        "entries.jsonl line 1: a key stands twice in one object",
    ),
    "a row of a list dropped": (without("decisions.jsonl", 2), "decisions.jsonl row 2: it is not what entry 2 says"),
    "a row of a list dropped and not counted": (
        lambda files: said("counts.tables", to={"decisions.csv": 7, "decisions.jsonl": 6})(
            without("decisions.jsonl", 7)(files)
        ),
        "decisions.jsonl row 7: it is not what entry 8 says",
    ),
    "a row of a list doubled": (doubled("decisions.jsonl", 7), "decisions.jsonl row 8: there is no entry for it"),
    "rows of a list reordered": (
        swapped("decisions.jsonl", 1, 2),
        "decisions.jsonl row 1: it is not what entry 1 says",
    ),
    "a field of a list altered": (
        replaced("decisions.jsonl", b'"discount_pct":15', b'"discount_pct":16'),
        "decisions.jsonl row 1: it is not what entry 1 says",
    ),
    "a number of a list made text": (
        replaced("decisions.jsonl", b'"confidence":0.82', b'"confidence":"0.82"'),
        "decisions.jsonl row 1: it is not what entry 1 says",
    ),
    "another redaction named": (
        redaction_renamed,
        "entries.jsonl entry 2: its payload is gone, and no redaction entry",
    ),
    "a row of a spreadsheet dropped": (without("decisions.csv", 3), "decisions.csv row 2: it is not what entry 2 says"),
    "rows of a spreadsheet reordered": (swapped("decisions.csv", 2, 3), "decisions.csv row 1: it is not what entry 1"),
    "a cell altered": (
        replaced("decisions.csv", b"discount_offer", b"claim_denial"),
        "decisions.csv row 1: it is not what entry 1 says",
    ),
    "columns exchanged": (
        replaced("decisions.csv", b"agent_id,action_type", b"action_type,agent_id"),
        "decisions.csv row 0: it does not begin with the names of its columns",
    ),
    "fewer counted": (said("counts.entries", to=8), "manifest.json: its counts.entries is 8, but the bundle holds 9"),
    "erasures not counted": (said("counts.redacted", to=0), "manifest.json: its counts.redacted is 0"),
    "completeness claimed": (said("completeness.last_seq", to=12), "manifest.json: its completeness.entries_in_range"),
    "another range claimed": (said("completeness.first_seq", to=2), "entries.jsonl line 1 (entry 1): it is outside"),
    "another sentence": (said("completeness.statement", to="All."), "manifest.json: its completeness.statement is"),
    "a filter claimed": (
        lambda files: said("filters.agent_id", to="a")(without("entries.jsonl", 4)(files)),
        "entries.jsonl line 7 (entry 8): it is not what was asked for",
    ),
    "another time claimed": (
        said("filters.end", to="2026-09-21T14:13:20.000003Z"),
        "entries.jsonl line 4 (entry 4): its time is outside of what was asked for",
    ),
    "another organisation claimed": (
        said("org_id", to="org_beta"),
        "entries.jsonl line 1 (entry 1): it belongs to another chain",
    ),
    "the verdict altered": (
        replaced("chain_verification.json", b"true", b"false"),
        "manifest.json: its chain.is_valid is true, but the bundle holds false",
    ),
    "a verdict about nothing": (
        replaced("chain_verification.json", b'"entries_checked": 9', b'"entries_checked": 0'),
        "chain_verification.json: it is not about all entries from 1 to 9",
    ),
}


def stripped(text: bytes) -> bytes:
    first, _, rest = text.partition(b"\n")
    entry = json.loads(first)
    statement = first.partition(b',"statement":')[2]
    return b'{"hash":"%b","payload":null,"salt":null,"statement":%b\n%b' % (entry["hash"].encode(), statement, rest)


@pytest.mark.parametrize("what", INSIDER)
def test_who_has_the_key_cannot_change_what_the_chain_says(files: Files, what: str, tmp_path: Path) -> None:
    """Every digest is made right and the manifest signed with the right key: only the chain itself can tell."""
    change, expected = INSIDER[what]
    found = problems(resigned(change(files), key()), tmp_path)
    assert any(text.startswith(expected) for text in found), found


def test_an_erasure_that_nobody_stated_is_a_failure(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 5)
    chain.erase(2)
    chain.entries.pop()
    assert problems(bundle_of(chain), tmp_path) == [
        "entries.jsonl entry 2: its payload is gone, and no redaction entry says so"
    ]


def test_a_redaction_of_another_entry_by_its_hash_explains_no_missing_payload(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 5)
    target, other = chain.entries[1], chain.entries[2]
    chain.entries[1] = replace(target, payload=None)
    chain.add("redaction", {"target_seq": 2, "target_id": "x", "target_hash": other.hash, "reason": "asked to"})
    found = problems(bundle_of(chain), tmp_path)
    assert "entries.jsonl entry 2: its payload is gone, and no redaction entry says so" in found


def test_a_gap_in_the_store_is_not_excused(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 9)
    gone = chain.entries.pop(4)
    found = problems(bundle_of(chain, through_seq=9), tmp_path)
    assert f"entries.jsonl line 5 (entry 6): entries {gone.seq} to {gone.seq} are missing" in found


def test_context_entries_are_checked_too(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 9)
    chain.announce(key())
    chain.erase(3)
    files = unpacked(bundle_of(chain, through_seq=9))
    assert len(lines(files["context.jsonl"])) == 2
    altered = resigned(replaced("context.jsonl", b"asked to", b"no reason")(files), key())
    expected = "context.jsonl line 2 (entry 11): the statement is not the one that was hashed"
    assert expected in problems(altered, tmp_path)
    dropped = problems(resigned(without("context.jsonl", 2)(files), key()), tmp_path)
    assert "entries.jsonl entry 3: its payload is gone, and no redaction entry says so" in dropped
    assert "manifest.json: its counts.context is 2, but the bundle holds 1" in dropped
    doubled_line = resigned(doubled("context.jsonl", 2)(files), key())
    assert "context.jsonl line 3 (entry 11): it stands after entry 11" in problems(doubled_line, tmp_path)
    whole = resigned({**files, "context.jsonl": files["entries.jsonl"].splitlines(keepends=True)[0]}, key())
    assert any(
        "it is of the range, and so has its place in entries.jsonl" in text for text in problems(whole, tmp_path)
    )
    stranger = unpacked(bundle_of(longer(MadeChain(), 12)))["entries.jsonl"].splitlines(keepends=True)[11]
    more = resigned({**files, "context.jsonl": files["context.jsonl"] + stranger}, key())
    assert any("it explains nothing in this bundle" in text for text in problems(more, tmp_path))


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format":"precipiq-evidence"}', b'{"a":1,"a":1}', b"\xff"])
def test_what_is_no_manifest_is_told_without_a_traceback(files: Files, text: bytes, tmp_path: Path) -> None:
    changed = {**files, "manifest.json": text, "manifest.json.sig": b""}
    assert any(text.startswith("manifest.json:") for text in problems(changed, tmp_path))


ANY_CHANGE = settings(
    max_examples=rounds(20, long=60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY_CHANGE
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_found(files: Files, data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from([name for name in NAMES if files[name]]))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    new = files[name][at] ^ data.draw(st.integers(1, 255))
    changed = {**files, name: files[name][:at] + bytes((new,)) + files[name][at + 1 :]}
    assert problems(changed, tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@ANY_CHANGE
@given(data=st.data())
def test_any_chain_under_any_filter_verifies(data: st.DataObject, tmp_path: Path) -> None:
    chain = MadeChain(data.draw(st.integers(0, 2**16)))
    count = data.draw(st.integers(0, 12))
    for _ in range(count):
        chain.decide(
            agent_id=data.draw(st.sampled_from(["a", "b", '=1,"x"\r\n'])),
            inputs={"value": data.draw(VALUES)},
            metadata=data.draw(st.none() | st.dictionaries(st.text(max_size=5), VALUES, max_size=2)),
        )
    for seq in data.draw(st.sets(st.integers(1, max(count, 1)), max_size=3)):
        if seq <= count:
            chain.erase(seq)
    if data.draw(st.booleans()):
        chain.announce(key())
    through = data.draw(st.integers(0, len(chain.entries)))
    changes: dict[str, Any] = {"through_seq": through, "after_seq": data.draw(st.integers(0, through))}
    agent = data.draw(st.sampled_from([None, "a", "nobody"]))
    changes["filters"] = {**NO_FILTERS, "agent_id": agent}
    assert problems(bundle_of(chain, **changes), tmp_path) == []


def padded(private: RSAPrivateKey, block: bytes) -> bytes:
    """A signature by that key over a block of another form."""
    numbers = private.private_numbers()
    return pow(int.from_bytes(block), numbers.d, numbers.public_numbers.n).to_bytes(256)


def test_a_signature_of_another_form_is_refused(files: Files, tmp_path: Path) -> None:
    stated = verify.DIGEST_INFO + sha256(files["manifest.json"]).digest()
    room = 253 - len(stated)
    right = b"\0\1" + b"\xff" * room + b"\0" + stated
    assert padded(key(), right) == files["manifest.json.sig"]
    others = (
        b"\0\2" + right[2:],
        b"\0\1" + b"\xff" * 8 + b"\0" * (room - 7) + stated,
        b"\0\1\xff\0" + stated + b"x" * (room - 1),
        b"\0\1" + b"\xfe" * room + b"\0" + stated,
    )
    forms = [padded(key(), block) for block in others]
    for signature in (*forms, b"", b"\0" * 256, files["manifest.json.sig"] + b"\0", sign(key("second"), b"\1" * 32)):
        found = problems({**files, "manifest.json.sig": signature}, tmp_path)
        assert found == ["manifest.json.sig: the signature does not fit manifest.json and public_key.pem"]
