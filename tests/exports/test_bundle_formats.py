"""Bundles of all sorts: OpenSSL, sha256sum and verify.py under other Pythons agree that they are what was signed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import parse_statement
from precipiq_exports.bundle.spec import Table
from precipiq_exports.bundle.verify import csv_cell
from precipiq_exports.bundle.writer import write_bundle
from precipiq_testkit.memory import MemoryAuditor

from .chains import (
    NO_FILTERS,
    MadeChain,
    bundle_of,
    key,
    lines,
    longer,
    made,
    openssl_says,
    packed,
    problems,
    public_der,
    report_on,
    run_verifier,
    sign,
    spec_of,
    unpack_to,
    unpacked,
    verification_of,
)

REAL = Path(__file__).parents[1] / "data" / "real-decisions.jsonl"


def _is_supported(python: Path) -> bool:
    command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 8))"]
    return subprocess.run(command, capture_output=True).returncode == 0


OTHER_PYTHONS = sorted(
    str(path)
    for path in [*Path.home().glob(".pyenv/versions/*/bin/python3"), Path("/usr/bin/python3")]
    if path.is_file() and path.resolve() != Path(sys.executable).resolve() and _is_supported(path)
)


def one_entry() -> tuple[MadeChain, dict[str, Any]]:
    return longer(MadeChain(), 1), {}


def real_decisions() -> tuple[MadeChain, dict[str, Any]]:
    chain = MadeChain()
    chain.announce(key())
    for line in REAL.read_text().splitlines():
        chain.decide(**json.loads(line))
    return chain, {}


def filtered_slice() -> tuple[MadeChain, dict[str, Any]]:
    chain = longer(MadeChain(), 30)
    chain.announce(key())
    return chain, {"filters": {**NO_FILTERS, "agent_id": "a"}}


def part() -> tuple[MadeChain, dict[str, Any]]:
    return longer(MadeChain(), 30), {"after_seq": 9, "through_seq": 21}


def redacted() -> tuple[MadeChain, dict[str, Any]]:
    chain = longer(MadeChain(), 20)
    chain.announce(key())
    for seq in (3, 20, 1):
        chain.erase(seq)
    return chain, {}


def redacted_outside() -> tuple[MadeChain, dict[str, Any]]:
    chain, _ = redacted()
    return chain, {"through_seq": 21}


def redacted_and_filtered() -> tuple[MadeChain, dict[str, Any]]:
    chain, _ = redacted()
    return chain, {"filters": {**NO_FILTERS, "agent_id": "a", "action_type": "discount_offer"}}


ALL = [one_entry, real_decisions, filtered_slice, part, redacted, redacted_outside, redacted_and_filtered]


@pytest.mark.parametrize("make", ALL)
def test_every_check_passes(make: Any, tmp_path: Path) -> None:
    chain, changes = make()
    bundle, summary = made(chain, **changes)
    assert (summary.size_bytes, summary.sha256) == (len(bundle), sha256(bundle).hexdigest())
    files = unpacked(bundle)
    folder = unpack_to(files, tmp_path / "unpacked")
    assert openssl_says(folder) == "Verified OK"
    manifest = json.loads(files["manifest.json"])
    sums = "".join(f"{item['sha256']}  {item['path']}\n" for item in manifest["files"])
    assert subprocess.run(["sha256sum", "-c"], input=sums, text=True, cwd=folder, capture_output=True).returncode == 0
    assert {item["path"] for item in manifest["files"]} == set(files) - {"manifest.json", "manifest.json.sig"}
    assert problems(bundle, tmp_path) == []
    code, said = run_verifier(bundle, tmp_path, "--fingerprint", sha256(public_der(key())).hexdigest())
    assert (code, "VERIFIED: manifest.json was signed by the key" in said, "FAILED" in said) == (0, True, False), said
    alone = subprocess.run([sys.executable, "-I", "-S", "verify.py"], cwd=folder, capture_output=True, text=True)
    assert (alone.returncode, "VERIFIED: manifest.json" in alone.stdout) == (0, True), alone.stdout + alone.stderr
    assert summary.entries_count == manifest["counts"]["entries"] == len(lines(files["entries.jsonl"]))


@pytest.mark.parametrize(
    ("chain", "changes"),
    [(MadeChain(), {}), (longer(MadeChain(), 3), {"filters": {**NO_FILTERS, "agent_id": "nobody"}})],
    ids=["an empty range", "nothing that fits the filter"],
)
@pytest.mark.parametrize("is_valid", [None, True], ids=["new", "of an older version"])
def test_a_bundle_without_an_entry_is_neither_verified_nor_failed(
    chain: MadeChain, changes: dict[str, Any], is_valid: bool | None, tmp_path: Path
) -> None:
    verification = verification_of(1, len(chain.entries))
    if not chain.entries:
        verification["is_valid"] = is_valid
    bundle = bundle_of(chain, verification=verification, **changes)
    report = report_on(bundle, tmp_path)
    assert (report.problems, report.exit_code, report.document()["verdict"]) == ([], 2, "could_not_check")
    assert "CHECKED_ZERO" in report.document()["reason"]
    assert any("was signed by the key" in text for text in report.held)
    code, said = run_verifier(bundle, tmp_path)
    assert (code, "COULD NOT CHECK: CHECKED_ZERO" in said, "FAILED" in said) == (2, True, False)


GRADE: dict[str, Any] = {
    "verdict": "unanchored",
    "findings": [{"seq": 8, "code": "ANCHOR_STALE", "reason": "it waits", "id": None}],
    "anchors": [{"kind": "checkpoint", "newest_seq": 7, "newest_time": "T", "age_s": 61, "compared": 3}],
    "not_checked": ["what came later"],
    "forgeable": [{"threat": "T1", "act": "remove", "from_seq": 8, "sentence": "who writes it can"}],
}


def test_the_verifier_tells_the_servers_verdict_in_the_servers_words(tmp_path: Path) -> None:
    bundle = bundle_of(longer(MadeChain(), 9), verification={**verification_of(1, 9), **GRADE})
    assert json.loads(unpacked(bundle)["manifest.json"])["chain"]["verdict"] == "unanchored"
    report = report_on(bundle, tmp_path)
    assert (report.exit_code, report.document()["server_verdict"]) == (0, "unanchored")
    assert "the server verified these entries when it made the bundle; its verdict: unanchored" in report.held
    assert "the server compared 3 checkpoints: the newest is of entry 7, of T, 61 s old at the request" in report.held
    assert {
        "the server found ANCHOR_STALE: it waits",
        "by the server: what came later",
        "by the server, what a thief could do (T1, remove, from entry 8): who writes it can",
    } <= set(report.not_checked)


@pytest.mark.parametrize("odd", [None, 3, "x", [3], [{}], {"a": 1}, [{"newest_seq": {}, "from_seq": []}]])
def test_an_odd_verdict_of_the_server_stops_no_check(odd: Any, tmp_path: Path) -> None:
    grade = dict.fromkeys(GRADE, odd)
    bundle = bundle_of(longer(MadeChain(), 2), verification={**verification_of(1, 2), **grade})
    assert problems(bundle, tmp_path) == []


def test_a_manifest_that_tells_another_verdict_than_the_server_fails(tmp_path: Path) -> None:
    files = unpacked(bundle_of(longer(MadeChain(), 9), verification={**verification_of(1, 9), **GRADE}))
    name = "chain_verification.json"
    files[name] = files[name].replace(b'"unanchored"', b'"checkpointed"')
    assert any("its chain.verdict is" in text for text in problems(packed(files), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("python", OTHER_PYTHONS or [""])
def test_the_verifier_runs_under_other_pythons(python: str, tmp_path: Path) -> None:
    if not python:
        pytest.skip("no other Python is installed here")
    chain, changes = redacted_outside()
    assert run_verifier(bundle_of(chain, **changes), tmp_path, python=python)[0] == 0
    real, _ = real_decisions()
    assert run_verifier(bundle_of(real), tmp_path, python=python)[0] == 0
    assert run_verifier(b"PK no zip", tmp_path, python=python)[0] == 2


@pytest.mark.slow
def test_every_command_of_the_instructions_does_what_they_say(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 5)
    bundle = bundle_of(chain)
    (tmp_path / "evidence.zip").write_bytes(bundle)
    text = unpacked(bundle)["VERIFY.md"].decode()
    assert "{" not in text.partition("## The short way")[0]
    blocks = [block.partition("```")[0] for block in text.split("```\n")[1::2]]
    assert len(blocks) == 6
    if shutil.which("unzip") is None:
        blocks[0] = blocks[0].replace(
            "unzip -q evidence.zip -d evidence", "python3 -m zipfile -e evidence.zip evidence"
        )
    done = subprocess.run(["bash", "-e"], input="".join(blocks), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED: 5 entries" in done.stdout
    assert "Verified OK" in done.stdout
    assert sha256(public_der(key())).hexdigest() in done.stdout
    assert done.stdout.count(": OK") == 8
    shown = [line.split()[0] for line in done.stdout.splitlines()[-3:]]
    first = parse_statement(chain.entries[0].statement)
    assert shown == [chain.entries[0].hash, chain.entries[0].hash, first.payload_hash]


def test_the_same_inputs_give_the_same_bytes() -> None:
    chain, changes = redacted_outside()
    assert bundle_of(chain, **changes) == bundle_of(chain, **changes)
    assert bundle_of(chain, **changes) != bundle_of(chain, **{**changes, "export_id": "exp_2"})
    assert bundle_of(chain, **changes, batch_entries=3) == bundle_of(chain, **changes, batch_entries=1000)


def test_the_manifest_says_what_is_left_out(tmp_path: Path) -> None:
    chain, changes = filtered_slice()
    manifest = json.loads(unpacked(bundle_of(chain, **changes))["manifest.json"])
    stated = manifest["completeness"]
    assert (stated["entries_in_range"], stated["entries_included"], stated["entries_left_out"]) == (31, 15, 16)
    assert (stated["is_complete"], stated["covers_from_genesis"]) == (False, True)
    assert 'the 15 decisions with agent_id "a" are included; the other 16 are left out' in stated["statement"]
    report = report_on(bundle_of(chain, **changes), tmp_path)
    assert "links across 14 gaps that the filter left" in report.not_checked
    chain, changes = part()
    stated = json.loads(unpacked(bundle_of(chain, **changes))["manifest.json"])["completeness"]
    assert (stated["first_seq"], stated["last_seq"], stated["is_complete"]) == (10, 21, True)
    assert "The 9 entries before them are not." in stated["statement"]
    assert stated["statement"].endswith("Whether there are entries after entry 21 is not said.")


def test_what_was_damaged_in_the_store_is_shown_and_named(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 9)
    for seq, changes in ((3, {"statement": b"\xff{"}), (5, {"payload": b"[1"}), (7, {"hash": "no hash"})):
        entry = chain.entries[seq - 1]
        chain.entries[seq - 1] = type(entry)(**{**{name: getattr(entry, name) for name in entry.__slots__}, **changes})
    bundle = bundle_of(chain, verification={**verification_of(1, 9), "is_valid": False, "first_break": {"seq": 3}})
    assert len(lines(unpacked(bundle)["entries.jsonl"])) == 9
    found = problems(bundle, tmp_path)
    for seq in (3, 5, 7):
        assert (
            f"entries.jsonl line {seq}: entry {seq} was damaged in the store already when the bundle was made" in found
        )
    assert any("the chain did not hold when the server verified it" in text for text in found)
    assert json.loads(unpacked(bundle)["manifest.json"])["counts"]["damaged"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"statement": b"[]"},
        {"statement": b'{"kind":"decision","body":[1],"seq":2}'},
        {"statement": b'{"kind":{"a":1}}'},
        {"payload": b"{}"},
        {"payload": b'{"payload":{},"salt":5}'},
        {"payload": b'{"salt":"00000000000000000000000000000000","payload":{}}'},
        {"payload": b'{"payload":{\n},"salt":"00000000000000000000000000000000"}'},
        {"payload": b"\xff" * 80},
        {"hash": "A" * 64},
        {"hash": "\ud800"},
    ],
)
def test_whatever_the_store_holds_every_line_is_json(changes: dict[str, Any], tmp_path: Path) -> None:
    chain = longer(MadeChain(), 4)
    chain.entries[1] = replace(chain.entries[1], **changes)
    files = unpacked(bundle_of(chain))
    assert [line.get("damaged") for line in lines(files["entries.jsonl"])] == [None, True, None, None]
    assert len(lines(files["decisions.jsonl"])) == 3
    assert problems(bundle_of(chain), tmp_path)[0].startswith("entries.jsonl line 2: entry 2 was damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("body", [1]),
        ("seq", "x"),
        ("timestamp", 5),
        ("kind", None),
        ("actor", {}),
        ("org_id", 1),
        ("more", 1),
        ("v", 2),
    ],
)
def test_a_statement_that_is_not_one_of_version_1_is_shown_as_damaged(name: str, value: Any, tmp_path: Path) -> None:
    chain = longer(MadeChain(), 4)
    statement = canonical({**json.loads(chain.entries[1].statement), name: value})
    chain.entries[1] = replace(chain.entries[1], statement=statement)
    assert problems(bundle_of(chain), tmp_path)[0].startswith("entries.jsonl line 2: entry 2 was damaged")


def test_an_altered_entry_goes_out_as_it_is_and_fails(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 5)
    chain.entries[2] = replace(chain.entries[2], statement=chain.entries[2].statement.replace(b"0.82", b"0.83"))
    expected = "entries.jsonl line 3 (entry 3): the statement is not the one that was hashed"
    assert problems(bundle_of(chain), tmp_path) == [expected]
    code, said = run_verifier(bundle_of(chain), tmp_path)
    assert (code, said) == (1, f"FAILED: {expected}\n")


def test_a_payload_that_is_erased_while_the_bundle_is_made_is_no_failure(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 5)
    chain.announce(key())

    class Auditor(MemoryAuditor):
        passes = 0

        def batches(self, *arguments: Any) -> Any:
            Auditor.passes += 1
            if Auditor.passes == 2:  # the raw entries are written, the first list is not
                chain.erase(2)
            return chain.auditor.batches(*arguments)

        def redactions(self, *arguments: Any) -> Any:
            return chain.auditor.redactions(*arguments)

    out = io.BytesIO()
    write_bundle(Auditor({}), spec_of(chain, key()), out, lambda digest: sign(key(), digest))
    files = unpacked(out.getvalue())
    assert [record.get("redacted") for record in lines(files["decisions.jsonl"])] == [None, True, None, None, None]
    report = report_on(out.getvalue(), tmp_path)
    assert report.problems == []
    assert any(text.startswith("why 2 rows of lists lack a payload") for text in report.not_checked)


def test_members_whose_names_are_taken_are_called_after_their_part(tmp_path: Path) -> None:
    chain = MadeChain()
    chain.add("event", {"timestamp": "then", "amount": "1.00"}, {"amount": 2, "note": "=1", "hash": None})
    chain.add("event", {"amount": "1.00"}, {"note": [1.5, {"a": "b"}]})
    bundle = bundle_of(
        chain, tables=(Table("events", ("event",), ("timestamp", "amount"), ("amount", "note", "hash")),)
    )
    assert problems(bundle, tmp_path) == []
    files = unpacked(bundle)
    first, second = lines(files["events.jsonl"])
    assert (first["body.timestamp"], first["amount"], first["payload.amount"], first["payload.hash"]) == (
        "then",
        "1.00",
        2,
        None,
    )
    assert (second["body.timestamp"], second["payload.amount"], second["note"]) == (None, None, [1.5, {"a": "b"}])
    rows = list(csv.DictReader(io.StringIO(files["events.csv"].decode("utf-8-sig"), newline="")))
    assert [(row["body.timestamp"], row["payload.amount"], row["note"]) for row in rows] == [
        ("then", "2", "'=1"),
        ("", "", '[1.5,{"a":"b"}]'),
    ]


def test_a_payload_that_is_no_object_is_shown_in_the_entries_alone(tmp_path: Path) -> None:
    chain = longer(MadeChain(), 1)
    chain.add("decision", {"agent_id": "a"}, [1, {"b": 2}])  # type: ignore[arg-type]
    bundle = bundle_of(chain)
    assert problems(bundle, tmp_path) == []
    assert lines(unpacked(bundle)["decisions.jsonl"])[1]["inputs"] is None


def test_lists_show_the_same_as_the_entries() -> None:
    chain, _ = redacted()
    files = unpacked(bundle_of(chain))
    records = lines(files["decisions.jsonl"])
    rows = list(csv.DictReader(io.StringIO(files["decisions.csv"].decode("utf-8-sig"), newline="")))
    assert [record["hash"] for record in records] == [row["hash"] for row in rows]
    assert (records[2]["redacted"], records[2]["inputs"], rows[2]["redacted"], rows[2]["inputs"]) == (
        True,
        None,
        "true",
        "",
    )
    assert records[2]["redaction_id"] == rows[2]["redaction_id"] != ""
    assert json.loads(rows[3]["inputs"]) == records[3]["inputs"]
    assert (rows[3]["confidence"], rows[3]["human_in_loop"], rows[3]["external_id"]) == ("0.82", "false", "")


def test_kinds_of_one_table_lie_together_in_it(tmp_path: Path) -> None:
    chain = MadeChain()
    for number in range(6):
        chain.add(("link_created", "link_deleted")[number % 2], {"link_id": number})
    table = Table("links", ("link_created", "link_deleted"), ("link_id", "reason"), ())
    bundle = bundle_of(chain, tables=(table,))
    assert problems(bundle, tmp_path) == []
    records = lines(unpacked(bundle)["links.jsonl"])
    assert [(record["kind"], record["link_id"]) for record in records[:2]] == [("link_created", 0), ("link_deleted", 1)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("@cmd", "'@cmd"),
        ("\t=1", "'\t=1"),
        ("  =1", "'  =1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-12.50", "-12.50"),
        ("-1e5", "-1e5"),
        (-7, "-7"),
        (1.0, "1"),
        (2**70, str(2**70)),
        (True, "true"),
        (None, ""),
        ("plain, \"quoted\"", "plain, \"quoted\""),
        ("'=1", "''=1"),
        ("'tis", "''tis"),
        ("\u200b\ufeff=1", "'\u200b\ufeff=1"),
        ("\x00@x", "'\x00@x"),
        ("\u2212 1", "'\u2212 1"),
        ("+1", "'+1"),
        ("a=1", "a=1"),
        ({"b": 1, "a": "=x"}, '{"a":"=x","b":1}'),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(value: Any, shown: str) -> None:
    [[found, _]] = csv.reader(io.StringIO(csv_cell(value, canonical(value).decode()) + ",", newline=""))
    assert found == shown


def test_cells_survive_commas_quotes_and_lines(tmp_path: Path) -> None:
    chain = MadeChain()
    text = 'a,"b"\r\nc\nd; =1'
    chain.decide(agent_id=text, action_type="=HYPERLINK(1)")
    bundle = bundle_of(chain)
    assert problems(bundle, tmp_path) == []
    [row] = csv.DictReader(io.StringIO(unpacked(bundle)["decisions.csv"].decode("utf-8-sig"), newline=""))
    assert (row["agent_id"], row["action_type"]) == (text, "'=HYPERLINK(1)")
