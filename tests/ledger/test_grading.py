"""What verdicts are worth: their words, anchors and ages, what they leave out, and what a thief could still do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from precipiq_chain.verify import Anchor
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.ledger import ChainBreak, ChainVerdict, CheckpointComparison
from precipiq_ledger.anchors import Compared
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.grading import (
    ANCHOR_STALE,
    CHECKED_ZERO,
    SWEEP_STALE,
    WORST_FIRST,
    first_failing,
    grade,
    grade_record,
    newest_age_s,
    windows,
)
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.records import verdict_record
from precipiq_ledger.sweep_book import Pass, SweepBook, Swept, book_of
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.sweep_memory import Seen, SweepMemory
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.verdict_models import AnchorOut, Grade, IntegrityOut, Verification, WindowOut
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_macs.entry_macs import ALL
from precipiq_testkit.clock import START_US, ManualClock
from precipiq_testkit.memory import MemoryAuditor, MemoryDriver
from precipiq_testkit.sealing import Writer
from tests.ledger.intruders import SIGNER, Signing

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
ENTRIES = 10
INCONSISTENT = "INCONSISTENT_WITH_CHECKPOINT"
LIMITS = VerifierLimits(100, 1, 1000, 2, 100)
STALE = ChainBreak(8, "ANCHOR_STALE", "entry 8 is without a checkpoint for 901 s")


def broken(code: str) -> ChainBreak:
    return ChainBreak(3, code, "why")


@pytest.mark.parametrize(
    ("findings", "newest_seq", "word"),
    [
        ([], 7, "checkpointed"),
        ([], None, "unanchored"),
        ([STALE], 7, "unanchored"),
        ([STALE], None, "unanchored"),
        ([broken("CHECKED_ZERO")], 7, "could_not_check"),
        ([broken("SWEEP_STALE"), STALE], 7, "could_not_check"),
        ([broken("CHECKPOINTS_LOST")], 7, "failed"),
        ([STALE, broken("TRUNCATED")], 7, "failed"),
        ([broken("ROW_UNANNOUNCED")], 7, "failed"),
        ([broken("A_CODE_THAT_COMES_LATER")], 7, "failed"),
    ],
)
def test_the_worst_finding_decides_and_age_alone_fails_nothing(
    findings: list[ChainBreak], newest_seq: int | None, word: str
) -> None:
    assert grade(findings, newest_seq) == word
    assert (first_failing(findings) is not None) == (word == "failed")


def could(
    newest_seq: int | None, exempt_through: int = 0
) -> dict[tuple[str, str], tuple[int | None, int | None, bool]]:
    return {
        (each.threat, each.act): (each.from_seq, each.through_seq, each.is_worst_case)
        for each in windows(newest_seq, exempt_through)
    }


def test_who_writes_the_database_makes_nothing_and_removes_what_no_checkpoint_confirms() -> None:
    assert could(7) == {
        ("T1", "make"): (None, None, False),
        ("T1", "remove"): (8, None, False),
        ("T2", "make"): (None, None, False),
        ("T2", "remove"): (1, None, True),
        ("T3", "make"): (1, None, True),
        ("T3", "remove"): (1, None, True),
    }
    assert could(None)["T1", "remove"] == (1, None, False)


def test_entries_without_a_mac_are_named() -> None:
    assert could(7, 4)["T1", "make"] == could(7, 4)["T2", "make"] == (1, 4, False), "adopted, so no others since"
    assert could(7, ALL)["T1", "make"] == (1, None, False), "while the upgrade lasts"


def test_a_window_says_what_bounds_it_and_what_the_server_does_not_know() -> None:
    said = {(each.threat, each.act): each.sentence for each in windows(7, 4)}
    assert "back to entry 8: no checkpoint confirms one after 7" in said["T1", "remove"]
    assert "entries 1 to 4 were adopted" in said["T1", "make"]
    assert "with it he is T3" in said["T2", "make"]
    for one in ("T2", "T3"):
        assert "this server does not know what is kept there" in said[one, "remove"]


def verdict(findings: tuple[ChainBreak, ...] = (), newest_seq: int | None = 7, exempt_through: int = 0) -> ChainVerdict:
    newest_time = None if newest_seq is None else format_timestamp(START_US)
    comparison = CheckpointComparison(3, 2, newest_seq, first_failing(findings), newest_time, findings)
    word = grade(findings, newest_seq)
    return ChainVerdict(
        word, 10, comparison.broken, 10, "a" * 64, 1, comparison, ("something",), findings, exempt_through
    )


def test_the_json_of_a_verdict_names_its_anchor_with_its_age() -> None:
    found = verdict_record(verdict((STALE,)), START_US + 90_000_000)
    Verification.model_validate(found)
    [anchor] = found["anchors"]
    assert anchor == {
        "kind": "checkpoint",
        "newest_seq": 7,
        "newest_time": format_timestamp(START_US),
        "age_s": 90,
        "compared": 3,
        "signatures_checked": 2,
    }
    assert (found["is_valid"], found["verdict"], found["first_broken_link"], found["reason"]) == (
        True,
        "unanchored",
        None,
        None,
    )
    assert [finding["code"] for finding in found["findings"]] == ["ANCHOR_STALE"]
    assert found["not_checked"] == found["unchecked"] == ["something"]
    assert len(found["forgeable"]) == 6


def test_a_failed_chain_has_findings_and_no_windows() -> None:
    found = grade_record(verdict((broken("TRUNCATED"),)), START_US)
    assert (found["verdict"], found["forgeable"]) == ("failed", [])


def test_an_anchor_from_the_future_has_no_negative_age() -> None:
    assert newest_age_s(verdict().checkpoints, START_US - 1) == 0
    assert newest_age_s(verdict(newest_seq=None).checkpoints, START_US) is None


@pytest.fixture
async def auditor() -> MemoryAuditor:
    async with MemoryDriver().open() as store:
        await Writer(store).fill(CHAIN, ENTRIES)
        return MemoryAuditor({CHAIN: list(await store.read(CHAIN, 0, 100))})


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def sign(files: CheckpointFiles, auditor: MemoryAuditor, *seqs: int) -> None:
    for seq in seqs:
        files.append(SIGNER.sign(CHAIN, Head(seq, auditor.entries[CHAIN][seq - 1].hash, 0), START_US))


async def test_a_checkpoint_confirms_only_what_was_checked_up_to_it(
    auditor: MemoryAuditor, files: CheckpointFiles
) -> None:
    """An entry behind the range ties nothing in it to its checkpoint; nor does one before it."""
    sign(files, auditor, 4, 9)
    verifier = Verifier(Signing(), files, LIMITS)
    expected = {(1, 10): 9, (1, 8): 4, (5, 8): None, (5, 9): 9, (1, 3): None}
    for (from_seq, through_seq), newest_seq in expected.items():
        found = await verifier.verify(auditor, CHAIN, from_seq, through_seq)
        word = "unanchored" if newest_seq is None else "checkpointed"
        assert (found.verdict, found.checkpoints.newest_seq) == (word, newest_seq), (from_seq, through_seq)
    apart = await verifier.verify(auditor, CHAIN, 5, 8)
    assert "whether these entries were rewritten: no checkpoint of one of them counts" in apart.unchecked


async def test_an_empty_range_is_no_success(auditor: MemoryAuditor, files: CheckpointFiles) -> None:
    sign(files, auditor, 4)
    found = await Verifier(Signing(), files, LIMITS).verify(auditor, CHAIN, 5, 4)
    assert (found.is_valid, found.verdict, found.broken, found.checked_count) == (None, "could_not_check", None, 0)
    record = verdict_record(found, START_US)
    assert (record["is_valid"], record["first_broken_link"]) == (None, None)
    assert [finding["code"] for finding in record["findings"]] == ["CHECKED_ZERO"]
    assert "no entry of org_alpha in the environment test from 5 to 4" in record["reason"]
    Verification.model_validate(record)


async def test_a_chain_that_is_gone_and_that_the_sweep_saw_is_missing(files: CheckpointFiles, tmp_path: Path) -> None:
    nothing = MemoryAuditor({CHAIN: []})
    verifier = Verifier(Signing(), files, LIMITS)
    unknown = await verifier.verify(nothing, CHAIN)
    assert [finding.code for finding in unknown.findings] == ["CHECKED_ZERO"]

    file = SweepFile(tmp_path / "sweep", Signing())
    file.write(SweepBook({CHAIN: Swept(1, tail=Anchor(4, "a" * 64)), Chain("org_beta", "test"): Swept(1)}))
    verifier.remembered = SweepMemory(tmp_path / "sweep", Signing())
    assert dict(verifier.remembered()) == {CHAIN: Seen(4, "a" * 64)}
    gone = await verifier.verify(nothing, CHAIN)
    assert (gone.is_valid, gone.verdict, [finding.code for finding in gone.findings]) == (
        False,
        "failed",
        ["ORG_MISSING"],
    )
    assert gone.broken is not None
    assert "saw entry 4" in gone.broken.reason

    path = tmp_path / "sweep" / "sweep.json"
    path.write_bytes(path.read_bytes().replace(b'"seq":4', b'"seq":5'))
    assert SweepMemory(tmp_path / "sweep", Signing())() == {}, "a record that somebody changed is none"


@pytest.mark.parametrize(("seq", "code", "at"), [(ENTRIES + 3, "TRUNCATED", ENTRIES + 1), (4, INCONSISTENT, 4)])
async def test_an_entry_that_the_sweep_saw_and_that_is_gone_fails_the_chain(
    auditor: MemoryAuditor, files: CheckpointFiles, tmp_path: Path, seq: int, code: str, at: int
) -> None:
    """Newer than every checkpoint: the sweep of this machine is the only witness."""
    sign(files, auditor, 2)
    verifier = Verifier(Signing(), files, LIMITS)
    verifier.remembered = SweepMemory(tmp_path / "sweep", Signing())
    assert (await verifier.verify(auditor, CHAIN)).verdict == "checkpointed"
    SweepFile(tmp_path / "sweep", Signing()).write(SweepBook({CHAIN: Swept(1, tail=Anchor(seq, "a" * 64))}))
    for from_seq in (1, 3):
        found = await verifier.verify(auditor, CHAIN, from_seq)
        assert (found.verdict, [(each.code, each.seq) for each in found.findings]) == ("failed", [(code, at)])


async def test_checkpoints_that_the_sweep_saw_and_that_are_gone_fail_the_chain(
    auditor: MemoryAuditor, files: CheckpointFiles, tmp_path: Path
) -> None:
    """Who removes the whole folder, manifest and all, leaves the chain not merely without an anchor."""
    swept = Site().swept
    newest = auditor.entries[CHAIN][-1]
    swept.tail = Anchor(newest.seq, newest.hash)
    SweepFile(tmp_path / "sweep", Signing()).write(SweepBook({CHAIN: swept}))
    verifier = Verifier(Signing(), files, LIMITS)
    assert (await verifier.verify(auditor, CHAIN)).verdict == "unanchored"
    verifier.remembered = SweepMemory(tmp_path / "sweep", Signing())
    found = await verifier.verify(auditor, CHAIN)
    assert (found.verdict, [(each.code, each.seq) for each in found.findings]) == ("failed", [("CHECKPOINTS_LOST", 7)])

    sign(files, auditor, 9)
    assert (await verifier.verify(auditor, CHAIN)).verdict == "checkpointed", "begun anew"


async def test_the_rest_of_a_broken_chain_and_its_checkpoints_are_not_checked(
    auditor: MemoryAuditor, files: CheckpointFiles
) -> None:
    sign(files, auditor, 9)
    auditor.entries[CHAIN][5] = replace(auditor.entries[CHAIN][5], hash="0" * 64)
    found = await Verifier(Signing(), files, LIMITS).verify(auditor, CHAIN)
    assert (found.verdict, found.findings) == ("failed", (found.broken,))
    assert found.unchecked == ("whatever comes after entry 6", "the checkpoints, since the entries do not hold")


class Site:
    """What a process knows of the chain, whose last pass was at the start of the clock."""

    def __init__(self, *findings: ChainBreak, exempt_through: int = 0) -> None:
        self.clock, self.registry = ManualClock(), CollectorRegistry()
        self.integrity = Integrity(self.clock, SweepMetrics(self.registry), 100.0)
        compared = Compared(verdict(findings).checkpoints, ("a sentence",))
        done = Pass(START_US, START_US, ENTRIES, ENTRIES, "a" * 64)
        self.swept = Swept(START_US, tail=Anchor(12, "b" * 64), last=done, compared=compared)
        self.swept.exempt_through, self.swept.since_s = exempt_through, self.clock.monotonic_s()
        self.integrity.book.chains[CHAIN] = self.swept

    def record(self, chain: Chain = CHAIN) -> IntegrityOut:
        return IntegrityOut.model_validate(self.integrity.record(chain))

    def counts(self) -> dict[str, float]:
        self.integrity.show()
        words = ("checkpointed", "unanchored", "could_not_check", "failed")
        name = "precipiq_ledger_verdicts"
        return {word: self.registry.get_sample_value(name, {"verdict": word}) or 0 for word in words}


def test_the_sweep_grades_what_it_found_in_the_same_words() -> None:
    site = Site(exempt_through=4)
    site.clock.advance(60)
    found = site.record()
    assert (found.status, found.is_valid, found.verdict, found.findings) == ("whole", True, "checkpointed", [])
    assert (found.anchors[0].newest_seq, found.anchors[0].age_s) == (7, 60)
    assert found.not_checked[-1] == "a sentence"
    assert any("entries after 12" in sentence for sentence in found.not_checked)
    assert (found.forgeable[0].from_seq, found.forgeable[0].through_seq) == (1, 4)
    assert site.counts() == {"checkpointed": 1, "unanchored": 0, "could_not_check": 0, "failed": 0}


def test_a_sweep_that_is_late_vouches_for_nothing() -> None:
    site = Site(STALE)
    site.clock.advance(101)
    found = site.record()
    assert (found.status, found.is_valid, found.verdict) == ("stale", None, "could_not_check")
    assert [finding.code for finding in found.findings] == ["SWEEP_STALE", "ANCHOR_STALE"]


def test_what_the_sweep_has_not_checked_is_no_success() -> None:
    site = Site()
    site.swept.last = None
    for chain in (CHAIN, Chain("org_unknown", "test")):
        found = site.record(chain)
        assert (found.status, found.is_valid, found.verdict) == ("not_checked", None, "could_not_check")
        assert [finding.code for finding in found.findings] == ["CHECKED_ZERO"]
        assert found.not_checked == ["the whole chain"]


def test_a_fault_that_the_sweep_found_fails_the_chain() -> None:
    site = Site()
    site.swept.broken = ChainBreak(3, "SEQ_GAP", "entry 3 is missing")
    found = site.record()
    assert (found.status, found.is_valid, found.verdict, found.forgeable) == ("broken", False, "failed", [])
    assert site.counts()["failed"] == 1


def test_an_anchor_that_is_too_old_is_told_and_breaks_nothing() -> None:
    site = Site(STALE)
    with capture_logs() as told:
        site.integrity.note_graded(CHAIN, site.swept)
    assert [(line["log_level"], line["code"], line["seq"]) for line in told] == [("warning", "ANCHOR_STALE", 8)]
    assert (site.record().verdict, site.record().is_valid) == ("unanchored", True)
    assert site.integrity.book.broken() == {}


def test_the_record_of_sweeps_keeps_the_grade_and_an_older_one_has_none() -> None:
    site = Site(STALE, exempt_through=4)
    kept = site.integrity.book.to_json()
    again = book_of(_plain(kept)).chains[CHAIN]
    assert (again.compared, again.exempt_through) == (site.swept.compared, 4)

    older = _plain(kept)
    for name in ("compared", "exempt_through"):
        del older["chains"][0][name]
    site.integrity.book.chains[CHAIN] = book_of(older).chains[CHAIN]
    site.integrity.book.chains[CHAIN].since_s = site.clock.monotonic_s()
    found = site.record()
    assert found.verdict == "unanchored"
    assert any("an older version" in sentence for sentence in found.not_checked)


def _plain(document: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(document))


def test_the_pages_have_every_word_of_a_verdict() -> None:
    format_page, interface = (Path(__file__).parents[2] / "docs" / name for name in ("chain-format.md", "api.md"))
    words = [*WORST_FIRST, *Grade.model_fields]
    for page in (format_page, interface):
        text = page.read_text(encoding="utf-8")
        assert [word for word in (*words, ANCHOR_STALE, CHECKED_ZERO, SWEEP_STALE) if f"`{word}`" not in text] == []
    details = [*AnchorOut.model_fields, *WindowOut.model_fields, "T1", "T2", "T3"]
    assert [word for word in details if f"`{word}`" not in format_page.read_text(encoding="utf-8")] == []
