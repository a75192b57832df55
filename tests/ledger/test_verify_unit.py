"""Verification on the memory driver: stretches, anchors, processes, places, checkpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Event

import pytest

from precipiq_chain.canonical import canonical
from precipiq_chain.verify import GENESIS, Anchor, Stretch, anchor_at, verify_stretch
from precipiq_contracts.chain import GENESIS_HASH, Chain, Entry, Head
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.entry_store import AuditBatch, EntryStore
from precipiq_contracts.errors import Unavailable, ValidationFailed
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger import verifier as verifier_module
from precipiq_ledger.anchors import Evidence, compare
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner
from precipiq_ledger.verifier import Verifier, VerifierLimits, join_stretches
from precipiq_macs.entry_macs import PURPOSE, MacCheck, entry_mac, epoch_key, epoch_of
from precipiq_testkit.memory import MemoryAuditor, MemoryDriver
from precipiq_testkit.sealing import ROOT, Writer

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
OTHER = Chain("org_beta", "test")
ABSENT = object()
ENTRIES = 10
IN_PROCESSES = VerifierLimits(3, 2, 0, 2, 100)
INLINE = VerifierLimits(3, 2, 1000, 2, 100)


class Key:
    """A master key for tests. The entries' MACs have one root, whatever key signs the checkpoints."""

    def __init__(self, name: str = "one") -> None:
        self.name = name

    def derive(self, purpose: str) -> bytes:
        return ROOT if purpose == PURPOSE else sha256(f"{self.name} {purpose}".encode()).digest()


def mac_of(timestamp: object, entry_hash: str) -> str | None:
    """As a server that could be made to seal anything."""
    try:
        return entry_mac(epoch_key(ROOT, epoch_of(parse_timestamp(str(timestamp)))), entry_hash)
    except ValueError:
        return None


@dataclass(slots=True)
class Rows:
    """The stored rows of one chain, to be altered at will; kept dense in memory, so seq is the place in the list."""

    rows: list[Entry]

    @property
    def auditor(self) -> MemoryAuditor:
        return MemoryAuditor({CHAIN: self.rows})

    def rewrite(self, place: int, **changes: object) -> None:
        """Change the statement of that entry and recompute every hash and link from there on."""
        for index in range(place - 1, len(self.rows)):
            fields = json.loads(self.rows[index].statement)
            fields["prev_hash"] = self.rows[index - 1].hash if index else GENESIS_HASH
            if index == place - 1:
                fields = {name: value for name, value in (fields | changes).items() if value is not ABSENT}
            statement = canonical(fields)
            digest = sha256(statement).hexdigest()
            row, mac = self.rows[index], mac_of(fields.get("timestamp"), digest)
            self.rows[index] = replace(row, statement=statement, hash=digest, seq=index + 1, mac=mac)

    def timestamp(self, seq: int) -> str:
        return str(json.loads(self.rows[seq - 1].statement)["timestamp"])


@pytest.fixture
async def store() -> EntryStore:
    async with MemoryDriver().open() as store:
        await Writer(store).fill(CHAIN, ENTRIES)
        return store


@pytest.fixture
async def rows(store: EntryStore) -> Rows:
    return Rows(list(await store.read(CHAIN, 0, 100)))


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def stretch_of(rows: Rows, after: Anchor = GENESIS, through: int | None = None, **options: object) -> Stretch:
    return verify_stretch(rows.auditor, CHAIN, after, through, batch_entries=3, **options)  # type: ignore[arg-type]


def found(rows: Rows) -> tuple[int, str] | None:
    broken = stretch_of(rows).broken
    return None if broken is None else (broken.seq, broken.code)


async def verdict_of(
    rows: Rows,
    files: CheckpointFiles,
    limits: VerifierLimits = INLINE,
    from_seq: int = 1,
    key: str = "one",
    through_seq: int | None = None,
) -> ChainVerdict:
    return await Verifier(Key(key), files, limits).verify(rows.auditor, CHAIN, from_seq, through_seq)


def sign(rows: Rows, seq: int, key: str = "one") -> Checkpoint:
    return CheckpointSigner(Key(key)).sign(CHAIN, Head(seq, rows.rows[seq - 1].hash, 0), 1_700_000_000_000_000)


async def test_a_whole_chain_holds(rows: Rows) -> None:
    assert stretch_of(rows) == Stretch(ENTRIES, Anchor(ENTRIES, rows.rows[-1].hash, rows.timestamp(ENTRIES)), None)


@pytest.mark.parametrize("limits", [INLINE, IN_PROCESSES])
async def test_a_range_is_checked_to_its_end_and_no_further(
    rows: Rows, files: CheckpointFiles, limits: VerifierLimits
) -> None:
    files.append(sign(rows, ENTRIES))
    rows.rows[7] = replace(rows.rows[7], statement=b"altered")
    verdict = await verdict_of(rows, files, limits, from_seq=3, through_seq=7)
    assert (verdict.is_valid, verdict.checked_count, verdict.head_seq) == (True, 5, 7)
    beyond = await verdict_of(rows, files, limits, from_seq=3, through_seq=8)
    assert (beyond.broken and beyond.broken.seq, beyond.checked_count) == (8, 5)
    after_the_end = (await verdict_of(rows, files, limits, from_seq=9, through_seq=ENTRIES + 2)).broken
    assert after_the_end is not None
    assert (after_the_end.seq, after_the_end.code) == (ENTRIES + 1, "SEQ_GAP")


@pytest.mark.parametrize(("named", "expected"), [(4, None), (5, (4, "PAYLOAD_ABSENT"))])
async def test_a_redaction_explains_a_missing_payload_of_the_entry_whose_hash_it_names(
    store: EntryStore, rows: Rows, named: int, expected: object
) -> None:
    body = {"target_seq": 4, "target_hash": rows.rows[named - 1].hash}
    writer = Writer(store, seed=1)
    await writer.append(CHAIN, writer.draft(kind="redaction", body=body, erasable=False))
    rows.rows[:] = await store.read(CHAIN, 0, 100)
    rows.rows[3] = replace(rows.rows[3], payload=None)
    assert found(rows) == expected


async def test_an_empty_chain_is_neither_valid_nor_broken(files: CheckpointFiles) -> None:
    for limits in (INLINE, IN_PROCESSES):
        verdict = await verdict_of(Rows([]), files, limits)
        assert (verdict.is_valid, verdict.verdict, verdict.broken) == (None, "could_not_check", None)
        assert (verdict.checked_count, verdict.head_seq, verdict.head_hash) == (0, 0, GENESIS_HASH)


@pytest.mark.parametrize("seq", [1, 3, 4, ENTRIES])
async def test_a_time_that_does_not_increase_is_a_break_though_every_hash_is_right(rows: Rows, seq: int) -> None:
    before = rows.timestamp(seq - 1) if seq > 1 else ""
    rows.rewrite(seq, timestamp=before)
    assert found(rows) == (seq, "TIME_NOT_INCREASING")


@pytest.mark.parametrize("seq", [1, 4, ENTRIES])
@pytest.mark.parametrize("change", [{"org_id": OTHER.org_id}, {"environment": "live"}])
async def test_a_statement_of_another_chain_is_a_break(rows: Rows, seq: int, change: dict[str, object]) -> None:
    rows.rewrite(seq, **change)
    assert found(rows) == (seq, "WRONG_CHAIN")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seq": 9}, "POSITION_MISMATCH"),
        ({"v": 2}, "MALFORMED"),
        ({"surprise": 1}, "MALFORMED"),
        ({"surprise": 1, "id": ABSENT}, "MALFORMED"),
        ({"body": ABSENT}, "MALFORMED"),
        ({"timestamp": 5}, "MALFORMED"),
        ({"timestamp": None}, "MALFORMED"),
        ({"org_id": ["org_alpha"]}, "WRONG_CHAIN"),
        ({"payload_hash": None}, "PAYLOAD_UNEXPECTED"),
        ({"payload_hash": "0" * 64}, "PAYLOAD_MISMATCH"),
        ({"payload_hash": [1]}, "PAYLOAD_MISMATCH"),
    ],
)
async def test_a_wrong_statement_is_named_though_every_hash_is_right(
    rows: Rows, change: dict[str, object], code: str
) -> None:
    rows.rewrite(5, **change)
    assert found(rows) == (5, code)


@pytest.mark.parametrize("statement", [b"", b"null", b"[1]", b"\xff", b"[" * 3000, b"9" * 30 + b"[" * 30_000])
async def test_a_statement_that_is_none_is_named(rows: Rows, statement: bytes) -> None:
    rows.rows[4] = replace(rows.rows[4], statement=statement, hash=sha256(statement).hexdigest())
    assert found(rows) == (5, "MALFORMED")


async def test_a_body_that_is_no_json_is_named(rows: Rows) -> None:
    row, time = rows.rows[-1], rows.timestamp(ENTRIES)
    for body in b'{"a":1e999}', b'{"a":01}', b'{"a":"\xff"}', b'["\xed\xa0\x80"]', b"{}}", b"[" * 3000:
        statement = row.statement.replace(canonical(json.loads(row.statement)["body"]), body)
        digest = sha256(statement).hexdigest()
        rows.rows[-1] = replace(row, statement=statement, hash=digest, mac=mac_of(time, digest))
        assert found(rows) == (ENTRIES, "MALFORMED"), body


async def test_a_reported_id_is_bounded_and_can_be_encoded(rows: Rows) -> None:
    for text in ('"id":"' + "x" * 100_000 + '"', '"id":"\\ud800","n":' + "9" * 30):
        statement = b"{%b}" % text.encode()
        rows.rows[4] = replace(rows.rows[4], statement=statement)
        broken = stretch_of(rows).broken
        assert broken == ChainBreak(5, "CONTENT_MISMATCH", "the statement is not the one that was hashed", None)


async def test_progress_adds_up_to_the_entries_checked(rows: Rows, files: CheckpointFiles) -> None:
    told: list[int] = []
    stretch_of(rows, progress=told.append)
    assert told == [3, 3, 3, 1]
    for limits in (INLINE, IN_PROCESSES):
        told.clear()
        verdict = await Verifier(Key(), files, limits).verify(rows.auditor, CHAIN, 1, progress=told.append)
        assert sum(told) == verdict.checked_count == ENTRIES
        assert len(told) > 1


@pytest.mark.parametrize("through", [1, 5, ENTRIES])
async def test_a_stretch_ends_where_it_is_told(rows: Rows, through: int) -> None:
    stretch = stretch_of(rows, through=through)
    assert (stretch.checked_count, stretch.last.seq, stretch.broken) == (through, through, None)


async def test_a_stretch_that_is_not_there_to_its_end_is_a_gap(rows: Rows) -> None:
    broken = stretch_of(rows, through=ENTRIES + 3).broken
    assert broken is not None
    assert (broken.seq, broken.code) == (ENTRIES + 1, "SEQ_GAP")


@pytest.mark.parametrize("limits", [INLINE, IN_PROCESSES])
async def test_from_seq_takes_the_entry_before_as_given(
    rows: Rows, files: CheckpointFiles, limits: VerifierLimits
) -> None:
    rows.rows[2] = replace(rows.rows[2], payload=b"altered")
    whole = await verdict_of(rows, files, limits)
    assert whole.broken is not None
    assert (whole.broken.seq, whole.head_seq, whole.checked_count) == (3, 2, 2)

    later = await verdict_of(rows, files, limits, from_seq=4)

    assert (later.is_valid, later.checked_count, later.head_seq, later.from_seq) == (True, ENTRIES - 3, ENTRIES, 4)
    assert any("the entries before 4" in sentence for sentence in later.unchecked)


@pytest.mark.parametrize("limits", [INLINE, IN_PROCESSES])
async def test_from_seq_checks_the_link_and_the_time_to_the_entry_before(
    rows: Rows, files: CheckpointFiles, limits: VerifierLimits
) -> None:
    rows.rewrite(4, timestamp=rows.timestamp(3))
    verdict = await verdict_of(rows, files, limits, from_seq=4)
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (4, "TIME_NOT_INCREASING")
    rows.rows[2] = replace(rows.rows[2], hash="0" * 64)
    verdict = await verdict_of(rows, files, limits, from_seq=4)
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (4, "LINK_BROKEN")


@pytest.mark.parametrize("beyond", [1, 5])
async def test_from_seq_beyond_the_end_is_no_break_and_no_blessing(
    rows: Rows, files: CheckpointFiles, beyond: int
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        await verdict_of(rows, files, from_seq=ENTRIES + beyond)
    assert caught.value.details == {"from_seq": [f"is beyond the chain's last entry, {ENTRIES}"]}


async def test_from_seq_beyond_an_end_that_was_cut_is_a_break(rows: Rows, files: CheckpointFiles) -> None:
    """Whoever goes on where they stopped learns that the tail was cut meanwhile, where a checkpoint knows it."""
    signer = CheckpointSigner(Key())
    files.append(signer.sign(CHAIN, Head(ENTRIES + 4, "0" * 64, 0), 0))
    verdict = await verdict_of(rows, files, from_seq=ENTRIES + 5)
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (ENTRIES + 1, "TRUNCATED")


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
@pytest.mark.parametrize("fault", ["content", "time", "gap", "payload"])
async def test_processes_find_what_one_pass_finds_at_borders_too(
    rows: Rows, files: CheckpointFiles, seq: int, fault: str, in_this_process: None
) -> None:
    """With three parts of ten entries, breaks on both sides of both borders are among these."""
    row = rows.rows[seq - 1]
    if fault == "content":
        rows.rows[seq - 1] = replace(row, statement=row.statement.replace(b"email_send", b"email_sent"))
    elif fault == "time":
        rows.rewrite(seq, timestamp=rows.timestamp(seq - 1) if seq > 1 else "")
    elif fault == "payload":
        rows.rows[seq - 1] = replace(row, payload=None)
    elif seq < ENTRIES:
        rows.rows[seq - 1] = replace(row, seq=seq + 100)
        rows.rows.sort(key=lambda entry: entry.seq)

    expected = await verdict_of(rows, files, INLINE)
    verdict = await verdict_of(rows, files, replace(IN_PROCESSES, processes=3))

    assert verdict == expected
    assert expected.is_valid is (fault == "gap" and seq == ENTRIES)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parts and joins as with processes, without the time that starting them takes."""

    async def run(task: verifier_module.Task, macs: MacCheck, progress: verifier_module.Progress) -> Stretch:
        return verify_stretch(
            BySeq(list(task.auditor.entries[CHAIN])),  # type: ignore[attr-defined]
            task.chain,
            task.after,
            task.through_seq,
            batch_entries=task.batch_entries,
            progress=progress,
            macs=macs,
        )

    monkeypatch.setattr(verifier_module, "_run_worker", run)
    monkeypatch.setattr(Rows, "auditor", property(lambda rows: BySeq(rows.rows)))


class BySeq(MemoryAuditor):
    """The memory auditor, which takes seq for the place in its list, for rows that have gaps."""

    def __init__(self, rows: list[Entry]) -> None:
        super().__init__({CHAIN: rows})

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        rows: Sequence[Entry] = [
            row
            for row in self.entries[chain]
            if row.seq > after_seq and (through_seq is None or row.seq <= through_seq)
        ]
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])


async def test_an_anchor_is_the_stored_entry(rows: Rows) -> None:
    assert anchor_at(rows.auditor, CHAIN, 4) == Anchor(4, rows.rows[3].hash, rows.timestamp(4))
    assert anchor_at(rows.auditor, CHAIN, ENTRIES + 1) is None


def test_joined_stretches_end_at_the_first_break() -> None:
    one, two, three = Anchor(0, "0"), Anchor(3, "c", "t3"), Anchor(6, "f", "t6")
    broken = ChainBreak(5, "LINK_BROKEN", "x")
    good = Stretch(3, two, None)
    assert join_stretches([one, two, three], [good, Stretch(3, three, None), Stretch(0, three, None)]) == Stretch(
        6, three, None
    )
    after_break = join_stretches(
        [one, two, three], [good, Stretch(1, Anchor(4, "d"), broken), Stretch(0, three, ChainBreak(7, "x", "y"))]
    )
    assert after_break == Stretch(4, Anchor(4, "d"), broken)
    at_start = join_stretches([one, two], [good, Stretch(0, two, broken)])
    assert at_start == Stretch(3, two, broken)


@dataclass(slots=True)
class Waiting:
    """An auditor that answers only when it is let go."""

    go: Event
    running: list[int]

    def last_seq(self, chain: Chain) -> int:
        self.running.append(1)
        assert self.go.wait(30)
        return 0

    def batches(self, *_: object) -> Iterator[AuditBatch]:
        return iter(())

    def stray(self, chain: Chain) -> None:
        return None


async def test_only_so_many_verifications_run_at_once(files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_module, "_WAIT_FOR_A_TURN_S", 0.05)
    verifier = Verifier(Key(), files, replace(INLINE, concurrency_max=2))
    waiting = Waiting(Event(), [])
    try:
        chains = CHAIN, Chain("org_other", "live")
        tasks = [asyncio.create_task(verifier.verify(waiting, chain)) for chain in chains]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many verifications") as refused:
            await verifier.verify(waiting, Chain("org_third", "live"))  # type: ignore[arg-type]
        assert refused.value.retry_after_s >= 1
        assert len(waiting.running) == 2
    finally:
        waiting.go.set()
    assert [verdict.checked_count for verdict in await asyncio.gather(*tasks)] == [0, 0]
    assert (await verifier.verify(waiting, CHAIN)).verdict == "could_not_check"  # type: ignore[arg-type]


async def test_verdicts_say_what_was_not_checked(rows: Rows, files: CheckpointFiles) -> None:
    unanchored = await verdict_of(rows, files)
    assert unanchored.verdict == "unanchored"
    assert any("no checkpoint of it is held" in sentence for sentence in unanchored.unchecked)

    files.append(sign(rows, 6))
    older = await verdict_of(rows, files)
    assert older.verdict == "checkpointed"
    assert any("entries after 6" in sentence for sentence in older.unchecked)

    files.append(sign(rows, ENTRIES))
    newest = await verdict_of(rows, files)
    assert (newest.verdict, newest.unchecked) == ("checkpointed", ())
    assert (newest.checkpoints.compared_count, newest.checkpoints.signatures_checked_count) == (2, 2)


async def test_only_the_newest_signatures_are_checked_but_every_hash_is_compared(
    rows: Rows, files: CheckpointFiles
) -> None:
    for seq in (2, 4, 6, 8):
        files.append(sign(rows, seq))
    verdict = await verdict_of(rows, files, replace(INLINE, checkpoint_signatures_max=3))
    assert (verdict.checkpoints.compared_count, verdict.checkpoints.signatures_checked_count) == (4, 3)
    rows.rewrite(2, actor="somebody else")
    verdict = await verdict_of(rows, files, replace(INLINE, checkpoint_signatures_max=3))
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (2, "INCONSISTENT_WITH_CHECKPOINT")
    assert verdict.verdict == "failed"


async def test_a_checkpoint_of_entries_that_came_meanwhile_is_no_cut_tail(rows: Rows, files: CheckpointFiles) -> None:
    """Entries are appended, and a checkpoint of them written, while a long chain is being verified."""
    files.append(sign(rows, ENTRIES))
    evidence = Evidence(files, CheckpointSigner(Key()), 10)
    assert compare(evidence, rows.auditor, CHAIN, ENTRIES - 3).comparison.broken is None
    cut = Rows(rows.rows[: ENTRIES - 3])
    comparison = compare(evidence, cut.auditor, CHAIN, ENTRIES - 3).comparison
    assert comparison.broken is not None
    assert (comparison.broken.seq, comparison.broken.code) == (ENTRIES - 2, "TRUNCATED")


async def test_a_torn_last_line_of_checkpoints_is_passed_over(rows: Rows, files: CheckpointFiles) -> None:
    files.append(sign(rows, 4))
    path = next(files.folder.iterdir())
    path.write_bytes(path.read_bytes() + b'{"org_id":"org_al')
    verdict = await verdict_of(rows, files)
    assert (verdict.verdict, verdict.checkpoints.newest_seq) == ("checkpointed", 4)
    assert any("line 2 of the checkpoint file" in sentence for sentence in verdict.unchecked)


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"[]\n", b'{"seq":1}\n', b"x" * 5000 + b"\n"])
async def test_a_line_that_is_no_checkpoint_fails_the_verification(
    rows: Rows, files: CheckpointFiles, line: bytes
) -> None:
    files.append(sign(rows, 4))
    path = next(files.folder.iterdir())
    path.write_bytes(line + path.read_bytes())
    verdict = await verdict_of(rows, files)
    assert verdict.broken is not None
    assert verdict.broken.code == "CHECKPOINT_FORGED"
    assert "line 1 of" in verdict.broken.reason


@pytest.mark.parametrize(
    "change", [{"seq": 3}, {"time": "2027-01-01T00:00:00.000000Z"}, {"signature": ""}, {"signature": "AAAA"}]
)
async def test_every_field_of_a_checkpoint_is_signed(
    rows: Rows, files: CheckpointFiles, change: dict[str, object]
) -> None:
    signer, checkpoint = CheckpointSigner(Key()), sign(rows, 4)
    assert signer.holds(checkpoint) is True
    assert signer.holds(replace(checkpoint, **change)) is False  # type: ignore[arg-type]
    assert signer.holds(sign(rows, 4, key="another")) is None


async def test_an_entry_that_is_filed_elsewhere_is_named(rows: Rows, files: CheckpointFiles) -> None:
    auditor = MemoryAuditor({CHAIN: rows.rows[:-1], OTHER: [rows.rows[-1]]})
    verdict = await Verifier(Key(), files, INLINE).verify(auditor, CHAIN)
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (ENTRIES, "FILED_ELSEWHERE")


async def test_rows_that_are_counted_but_not_shown_are_a_break(rows: Rows, files: CheckpointFiles) -> None:
    class Hiding(MemoryAuditor):
        def batches(self, *_: object) -> Iterator[AuditBatch]:
            return iter(())

    verdict = await Verifier(Key(), files, INLINE).verify(Hiding({CHAIN: rows.rows}), CHAIN)
    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.code) == (1, "SEQ_GAP")
