"""The rounds of checkpoints: what is signed, what is not, and that one chain keeps no other from its own."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.errors import Unavailable
from precipiq_ledger.checkpoint_files import CheckpointFiles, Place
from precipiq_ledger.checkpoint_manifest import FILE_NAME
from precipiq_ledger.checkpointer import Checkpointer
from precipiq_ledger.checkpoints import Checkpoint
from precipiq_testkit.clock import ManualClock
from tests.ledger.checkpoint_helpers import CHAIN, OTHER, OURS, THEIRS, hash_of, manifest_of, path_of, sign

pytestmark = pytest.mark.anyio

THIRD = Chain("org_gamma", "test")


@dataclass
class Store:
    """Chains by their last seq; ``rewritten``: those whose hashes are others now."""

    last_seqs: dict[Chain, int] = field(default_factory=lambda: {CHAIN: 5, OTHER: 3, THIRD: 4})
    rewritten: set[Chain] = field(default_factory=set)
    reads: list[tuple[Chain, int]] = field(default_factory=list)

    async def chains(self) -> AsyncIterator[Chain]:
        for chain in list(self.last_seqs):
            yield chain

    async def head(self, chain: Chain) -> Head:
        seq = self.last_seqs[chain]
        return Head(seq, self._hash(chain, seq), 0)

    async def read(self, chain: Chain, after_seq: int, limit: int) -> list[Entry]:
        self.reads.append((chain, after_seq + 1))
        seqs = range(after_seq + 1, min(self.last_seqs[chain], after_seq + limit) + 1)
        return [Entry(chain, seq, self._hash(chain, seq), b"", None) for seq in seqs]

    def _hash(self, chain: Chain, seq: int) -> str:
        return hash_of(-seq if chain in self.rewritten else seq)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "checkpoints")


def a_process(store: Store, files: CheckpointFiles) -> Checkpointer:
    clock = ManualClock()
    return Checkpointer(store, OURS, files, manifest_of(files, clock), clock, 60.0)  # type: ignore[arg-type]


@pytest.fixture
def checkpointer(store: Store, files: CheckpointFiles) -> Checkpointer:
    return a_process(store, files)


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as captured:
        yield captured  # type: ignore[misc]


def seqs(files: CheckpointFiles, chain: Chain = CHAIN) -> list[int | None]:
    return [None if line.checkpoint is None else line.checkpoint.seq for line in files.read(chain)]


def cried(lines: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(line["event"], line.get("org_id")) for line in lines if line["log_level"] == "critical"]


async def test_each_chain_that_moved_gets_one(store: Store, files: CheckpointFiles, checkpointer: Checkpointer) -> None:
    assert await checkpointer.write_all() == 3
    assert await checkpointer.write_all() == 0
    store.last_seqs[CHAIN] = 6
    assert await checkpointer.write_all() == 1
    assert (seqs(files), seqs(files, OTHER)) == ([5, 6], [3])
    assert store.reads == [(CHAIN, 5)], "the entry that the newest checkpoint saw is looked at before the next"


async def test_a_stop_begins_no_checkpoint_after_its_time_and_the_next_round_signs_what_is_left(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    store.last_seqs |= {Chain(f"org_{number:03}", "test"): 2 for number in range(40)}
    assert await checkpointer.write_all(within_s=0.0) == 0
    [told] = [line for line in lines if line["event"] == "checkpoints of some chains wait for the next start"]
    assert told["chains"] == 43
    assert await a_process(store, files).write_all(within_s=60.0) == 43


async def test_all_heads_are_asked_for_at_once_where_the_store_can(files: CheckpointFiles) -> None:
    class Lister(Store):
        async def heads(self) -> AsyncIterator[tuple[Chain, Head | None]]:
            for chain in self.last_seqs:
                yield chain, None if chain == OTHER else await Store.head(self, chain)

        async def head(self, chain: Chain) -> Head:
            asked.append(chain)
            return await Store.head(self, chain)

    asked: list[Chain] = []
    checkpointer = a_process(Lister(), files)
    assert await checkpointer.write_all() == 3
    assert await checkpointer.write_all() == 0
    assert asked == [OTHER, OTHER], "only the one that was not told"


async def test_one_slow_file_keeps_no_other_waiting(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_are_there = threading.Event()
    append = CheckpointFiles.append

    def slow(self: CheckpointFiles, checkpoint: Checkpoint) -> Place:
        if checkpoint.chain == CHAIN:
            assert others_are_there.wait(20)
        place = append(self, checkpoint)
        if seqs(files, OTHER) and seqs(files, THIRD):
            others_are_there.set()
        return place

    monkeypatch.setattr(CheckpointFiles, "append", slow)
    assert await checkpointer.write_all() == 3


async def test_processes_that_share_a_folder_sign_a_head_once(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer
) -> None:
    another = a_process(store, files)
    await checkpointer.write_all()
    assert await another.write_all() == 0
    store.last_seqs[CHAIN] = 6
    assert await another.write_all() == 1
    assert await checkpointer.write_all() == 0
    assert seqs(files) == [5, 6]


@pytest.mark.parametrize(
    "line",
    [sign(10**9, THEIRS).line(), sign(10**9, chain=OTHER).line(), b"nonsense\n" + sign(3, THEIRS).line(), b"\0" * 99],
    ids=["foreign key", "other chain", "no checkpoint in the middle", "torn"],
)
async def test_no_line_of_a_forger_or_a_crash_stops_the_checkpoints(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, line: bytes
) -> None:
    await checkpointer.write_all()
    with path_of(files).open("ab") as stream:
        stream.write(line)
    store.last_seqs |= {CHAIN: 6, OTHER: 4}
    for process in (checkpointer, a_process(store, files)):
        await process.start()
        await process.write_all()
    newest = files.newest(CHAIN, OURS)
    assert newest is not None
    assert newest.checkpoint.seq == 6
    assert seqs(files, OTHER) == [3, 4]


async def test_a_chain_that_does_not_extend_its_checkpoint_is_not_signed_and_cried_out_once(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    await checkpointer.write_all()
    store.rewritten.add(CHAIN)
    for last_seq in (5, 7, 8):
        store.last_seqs |= {CHAIN: last_seq, OTHER: last_seq}
        await checkpointer.write_all()
    await a_process(store, files).write_all()
    assert seqs(files) == [5]
    assert seqs(files, OTHER) == [3, 5, 7, 8]
    assert cried(lines) == 2 * [
        ("chain was rewritten: it does not extend its newest checkpoint, and gets no other", CHAIN.org_id)
    ], "once by each process"


async def test_a_chain_whose_file_is_gone_must_still_extend_what_is_on_record(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    await checkpointer.write_all()
    path_of(files).unlink()
    store.rewritten.add(CHAIN)
    store.last_seqs[CHAIN] = 9
    another = a_process(store, files)
    await another.start()
    await another.write_all()
    assert seqs(files) == []
    assert [event for event, _ in cried(lines)] == [
        "a chain's file of checkpoints was removed or cut",
        "chain was rewritten: it does not extend its newest checkpoint, and gets no other",
    ]


async def test_a_shorter_chain_is_not_signed_and_cried_out_at_the_start_and_once(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    await checkpointer.write_all()
    store.last_seqs |= {CHAIN: 4, OTHER: 4}
    another = a_process(store, files)
    await another.start()
    await another.write_all()
    await another.write_all()
    assert (seqs(files), seqs(files, OTHER)) == ([5], [3, 4])
    assert [org_id for _, org_id in cried(lines)] == [CHAIN.org_id]


async def test_nothing_is_signed_over_a_known_break_until_it_is_none(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    broken = {CHAIN}
    checkpointer.may_sign = lambda chain: chain not in broken
    await checkpointer.write_all()
    await checkpointer.write_all()
    assert (seqs(files), seqs(files, OTHER)) == ([], [3])
    assert cried(lines) == [("chain has a known break: it gets no checkpoint", CHAIN.org_id)]
    broken.clear()
    await checkpointer.write_all()
    assert seqs(files) == [5]


async def test_odd_organisations_in_rows_stop_no_other(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    odd = [Chain("../../x", "live"), Chain("x" * 99, "live"), Chain("", "live"), Chain("a", "b/../c")]  # type: ignore[arg-type]
    store.last_seqs = {**dict.fromkeys(odd, 1), CHAIN: 5}
    await checkpointer.start()
    assert await checkpointer.write_all() == 2
    assert await checkpointer.write_all() == 0
    assert (seqs(files), seqs(files, odd[0])) == ([5], [1])
    assert [org_id for _, org_id in cried(lines)] == ["x" * 99, "", "a"]
    assert {path.name for path in files.folder.parent.rglob("*.jsonl")} == {
        path_of(files).name,
        path_of(files, odd[0]).name,
    }


async def test_a_file_that_cannot_be_written_keeps_no_other_chain_from_its_checkpoint(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer
) -> None:
    files.append(sign(1, chain=OTHER))
    os.mkfifo(path_of(files))
    store.last_seqs = {CHAIN: 5, OTHER: 3}
    await checkpointer.start()
    with pytest.raises(OSError, match="no regular file"):
        await checkpointer.write_all()
    assert files.newest(OTHER, OURS) is not None
    path_of(files).unlink()
    assert await checkpointer.write_all() == 1


async def test_a_chain_that_was_deleted_from_the_database_is_cried_out_at_the_start(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    await checkpointer.write_all()
    del store.last_seqs[CHAIN]
    path_of(files).unlink()
    another = a_process(store, files)
    await another.start()
    assert [(str(event)[:30], org_id) for event, org_id in cried(lines)] == [
        ("a chain's file of checkpoints ", CHAIN.org_id),
        ("a chain that has checkpoints i", CHAIN.org_id),
    ]


async def test_a_refused_manifest_is_cried_out_and_stops_no_checkpoint(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    await checkpointer.write_all()
    (files.folder / FILE_NAME).write_text("nonsense")
    store.last_seqs[CHAIN] = 6
    another = a_process(store, files)
    await another.start()
    await another.write_all()
    assert seqs(files) == [5, 6]
    assert "the manifest of the checkpoints is refused, and not replaced" in [event for event, _ in cried(lines)]


async def test_another_nodes_checkpoint_is_kept_once_and_goes_on_record(
    files: CheckpointFiles, checkpointer: Checkpointer
) -> None:
    for seq in (4, 7, 6, 7):
        await checkpointer.keep(sign(seq))
    await checkpointer.note()
    assert seqs(files) == [4, 7]
    manifest = manifest_of(files, ManualClock()).read()
    assert manifest is not None
    assert manifest.records[CHAIN].seq == 7


async def test_a_round_that_could_not_write_the_manifest_writes_it_in_the_next(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer
) -> None:
    part = files.folder / f".{FILE_NAME}.part"
    part.mkdir(parents=True)
    with pytest.raises(OSError):
        await checkpointer.write_all()
    part.rmdir()
    await checkpointer.write_all()
    manifest = manifest_of(files, ManualClock()).read()
    assert manifest is not None
    assert set(manifest.records) == set(store.last_seqs)


async def test_a_round_counts_unless_the_store_was_unavailable(
    store: Store, files: CheckpointFiles, checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    checkpointer.on_round = lambda: rounds.append(1)
    await checkpointer.write_all()
    path_of(files).unlink()
    path_of(files).mkdir()  # as good as a full disk
    store.last_seqs[CHAIN] = 6
    with pytest.raises(OSError):
        await checkpointer.write_all()
    assert len(rounds) == 2

    async def away(chain: Chain) -> Head:
        raise Unavailable

    monkeypatch.setattr(store, "head", away)
    with pytest.raises(Unavailable):
        await checkpointer.write_all()
    assert len(rounds) == 2


async def test_a_folder_that_is_none_keeps_no_server_from_starting(
    files: CheckpointFiles, checkpointer: Checkpointer, lines: list[dict[str, object]]
) -> None:
    files.folder.write_text("no folder")
    await checkpointer.start()
    assert [line["event"] for line in lines] == ["the manifest of the checkpoints is not written"]
    with pytest.raises(OSError):
        await checkpointer.write_all()
