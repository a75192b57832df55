"""Whatever is done to a bundle, a check fails and says what and where; what an insider with the key does as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    assert "more.txt: the file does not belong to the bundle: the manifest does not list it" in problems(
        {**files, "more.txt": b""}, tmp_path
    )
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
    assert [text for text in found if text.startswith(f"{name}: it is not the file that was signed")]


def test_another_key_is_found_by_the_chain_and_by_the_expected_fingerprint(files: Files, tmp_path: Path) -> None:
    other = key("second")
    plainly = {**files, "manifest.json.sig": resigned(files, other)["manifest.json.sig"]}
    assert problems(plainly, tmp_path) == [
        "manifest.json.sig: the signature does not belong to manifest.json and public_key.pem"
    ]
    from hashlib import sha256

    from precipiq_exports.signer import public_key_pem

    fingerprint = sha256(public_der(other)).hexdigest()
    consistent = {**files, "public_key.pem": public_key_pem(public_der(other)).encode()}
    consistent = resigned(said("signing_key.fingerprint", to=fingerprint)(consistent), other)
    assert openssl_says(unpack_to(consistent, tmp_path / "unpacked")) == "Verified OK"
    assert problems(consistent, tmp_path) == ["public_key.pem: the chain names other keys than the one that signed"]
    real = sha256(public_der(key())).hexdigest()
    assert any("not the one that you expect" in text for text in problems(consistent, tmp_path, real))


INSIDER = {
    "an entry dropped": (without("entries.jsonl", 4), "entries.jsonl line 4 (entry 5): entries 4 to 4 are missing"),
    "the last entry dropped": (without("entries.jsonl", 9), "entries.jsonl: the last entry is not the one"),
    "the first entry dropped": (without("entries.jsonl", 1), "entries.jsonl: the first entry is not the one"),
    "entries reordered": (swapped("entries.jsonl", 3, 4), "entries.jsonl line 3 (entry 4): entries 3 to 3 are missing"),
    "an entry doubled": (doubled("entries.jsonl", 3), "entries.jsonl line 4 (entry 3): it stands after entry 3"),
    "a statement altered": (
        replaced("entries.jsonl", b"0.82", b"0.83"),
        "entries.jsonl line 1: its hash is not that of its statement",
    ),
    "a payload altered": (
        replaced("entries.jsonl", b'"discount_pct":15', b'"discount_pct":16'),
        "entries.jsonl line 1: its payload is not the one that was hashed",
    ),
    "a payload stripped": (
        lambda files: {**files, "entries.jsonl": stripped(files["entries.jsonl"])},
        "entries.jsonl line 1 (entry 1): its payload is gone, and no redaction entry says so",
    ),
    "a row of a list dropped": (without("decisions.jsonl", 2), "decisions.jsonl: it has 6 rows, the manifest counts 7"),
    "rows of a list reordered": (swapped("decisions.jsonl", 1, 2), "decisions.jsonl line 2: it is none of the raw"),
    "a field of a list altered": (
        replaced("decisions.jsonl", b'"discount_pct":15', b'"discount_pct":16'),
        "decisions.jsonl line 1 (entry 1): its outputs is not that of the raw entry",
    ),
    "a number of a list made text": (
        replaced("decisions.jsonl", b'"confidence":0.82', b'"confidence":"0.82"'),
        "decisions.jsonl line 1 (entry 1): its confidence is not that of the raw entry",
    ),
    "a row of a spreadsheet dropped": (without("decisions.csv", 3), "decisions.csv: it has 6 rows"),
    "rows of a spreadsheet reordered": (swapped("decisions.csv", 2, 3), "decisions.csv row 2: it is none of the raw"),
    "fewer counted": (said("counts.entries", to=8), "entries.jsonl: it holds 9 entries, not those"),
    "completeness claimed": (said("completeness.last_seq", to=12), "manifest.json: what it says of its completeness"),
    "another range claimed": (said("completeness.first_seq", to=2), "manifest.json: what it says of its completeness"),
    "a filter claimed": (
        lambda files: said("filters.agent_id", to="a")(without("entries.jsonl", 4)(files)),
        "entries.jsonl: it holds 8 entries",
    ),
    "another organisation claimed": (
        said("org_id", to="org_beta"),
        "entries.jsonl line 1: it belongs to another chain",
    ),
    "the verdict altered": (
        replaced("chain_verification.json", b"true", b"false"),
        "chain_verification.json: it does not say what the manifest says",
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
        "entries.jsonl line 2 (entry 2): its payload is gone, and no redaction entry says so"
    ]


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
    assert "context.jsonl line 2: its hash is not that of its statement" in problems(altered, tmp_path)
    dropped = problems(resigned(without("context.jsonl", 2)(files), key()), tmp_path)
    assert "entries.jsonl line 3 (entry 3): its payload is gone, and no redaction entry says so" in dropped
    assert "context.jsonl: it holds 1 entries, not as many as the manifest counts" in dropped


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format":"precipiq-evidence"}', b'{"a":1,"a":1}', b"\xff"])
def test_what_is_no_manifest_is_told_without_a_traceback(files: Files, text: bytes, tmp_path: Path) -> None:
    changed = {**files, "manifest.json": text, "manifest.json.sig": b""}
    assert problems(changed, tmp_path)[0].startswith("manifest.json:")


ANY_CHANGE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY_CHANGE
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_found(files: Files, data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from([name for name in NAMES if files[name]]))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != files[name][at]))
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


def test_a_signature_of_another_form_is_refused(files: Files, tmp_path: Path) -> None:
    for signature in (b"", b"\0" * 256, files["manifest.json.sig"] + b"\0", sign(key("second"), b"\1" * 32)):
        found = problems({**files, "manifest.json.sig": signature}, tmp_path)
        assert found == ["manifest.json.sig: the signature does not belong to manifest.json and public_key.pem"]
