"""The files of the driver ``jsonl``: what a crash, another process and an intruder may do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from acme_plugin.driver import JsonlDriver, JsonlLimits
from acme_plugin.entry_file import EntryFile, chains_in, file_of, writing_alone
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable
from precipiq_testkit.sealing import Writer

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_Files", "test")

# Appends batches of three until it is killed; tells after each how long the chain is, with the first entry's hash.
WRITER = """
import sys
from pathlib import Path
import anyio
from acme_plugin.driver import JsonlDriver
from precipiq_contracts.chain import Chain
from precipiq_testkit.sealing import Writer

async def main(folder, seed):
    async with JsonlDriver(Path(folder)).open() as store:
        writer = Writer(store, seed=int(seed))
        for number in range(10_000):
            appended = await writer.append(Chain("org_Files", "test"), *(writer.draft("x" * 500) for _ in range(3)))
            print(appended.entries[0].seq, appended.entries[0].hash, flush=True)

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture
def driver(tmp_path: Path) -> JsonlDriver:
    return JsonlDriver(tmp_path, JsonlLimits(lock_timeout_s=5.0))


@pytest.fixture
async def path(driver: JsonlDriver, tmp_path: Path) -> Path:
    """The file of a chain of two appends: entry 1, then the entries 2 and 3, which has a key."""
    async with driver.open() as store:
        writer = Writer(store)
        await writer.append(CHAIN, writer.draft("first"))
        await writer.append(CHAIN, writer.draft("second"), writer.draft("third", key="key"))
    return file_of(tmp_path, CHAIN)


async def test_an_append_that_was_cut_short_anywhere_never_happened(driver: JsonlDriver, path: Path) -> None:
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    third = whole.index(b"\n", second) + 1
    for end in [*range(second, len(whole), 97), third, len(whole) - 1]:
        path.write_bytes(whole[:end])
        async with driver.open() as store:
            entries = await store.read(CHAIN, 0, 10)
            assert [entry.seq for entry in entries] == [1], end
            assert store.auditor().last_seq(CHAIN) == 1
            writer = Writer(store, seed=end)
            again = await writer.append(CHAIN, writer.draft(key="key"))
            assert (again.entries[0].seq, again.created) == (2, (True,))
            assert verify_stretch(store.auditor(), CHAIN, GENESIS, None, batch_entries=10).broken is None


async def test_what_a_crash_left_is_cut_off_whatever_its_length(driver: JsonlDriver, path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"row":{"seq":4,"hash":"' + b"0" * 5000)
    async with driver.open() as store:
        auditor = store.auditor()
        assert auditor.last_seq(CHAIN) == 3
        await Writer(store, seed=9).append(CHAIN)
        assert auditor.last_seq(CHAIN) == 4, "the auditor did not look again"
        assert path.read_bytes().endswith(b"}\n")


async def test_any_altered_byte_is_found_and_nothing_is_appended_after_it(driver: JsonlDriver, path: Path) -> None:
    whole = path.read_bytes()
    starts = [0, *(index + 1 for index, byte in enumerate(whole) if byte == ord("\n"))]
    for seq, (start, end) in enumerate(pairwise(starts), 1):
        for position in [*range(start, end - 1, 41), end - 2]:
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            async with driver.open() as store:
                broken = verify_stretch(store.auditor(), CHAIN, GENESIS, None, batch_entries=10).broken
                assert broken is not None
                assert broken.seq == seq, (position, broken)
                altered = path.read_bytes()
                with pytest.raises(Unavailable, match="damaged"):
                    await Writer(store, seed=position).append(CHAIN)
                assert path.read_bytes() == altered, "the evidence was changed"


async def test_lines_that_are_taken_out_swapped_or_doubled_are_found(driver: JsonlDriver, path: Path) -> None:
    one, two, three = path.read_bytes().splitlines(keepends=True)
    for lines, seq in (
        ((one, three), 2),
        ((two, three), 1),
        ((one, three, two, three), 3),
        ((one, one, two, three), 1),
    ):
        path.write_bytes(b"".join(lines))
        async with driver.open() as store:
            broken = verify_stretch(store.auditor(), CHAIN, GENESIS, None, batch_entries=10).broken
            assert broken is not None
            assert broken.seq in (seq, seq + 1), broken


async def test_an_old_copy_that_is_put_back_is_read_as_it_is(driver: JsonlDriver, path: Path) -> None:
    whole = path.read_bytes()
    async with driver.open() as store:
        assert len(await store.read(CHAIN, 0, 10)) == 3
        path.write_bytes(whole[: whole.index(b"\n") + 1])
        assert [entry.seq for entry in await store.read(CHAIN, 0, 10)] == [1]
        writer = Writer(store, seed=5)
        assert (await writer.append(CHAIN, writer.draft(key="key"))).created == (True,)


async def test_a_file_under_another_chains_name_is_a_stray(driver: JsonlDriver, path: Path, tmp_path: Path) -> None:
    other = Chain("org_other", "live")
    path.rename(file_of(tmp_path, other))
    async with driver.open() as store:
        stray = store.auditor().stray(CHAIN)
        assert stray is not None
        assert stray[0] == 1
        assert store.auditor().stray(other) is None
        broken = verify_stretch(store.auditor(), other, GENESIS, None, batch_entries=10).broken
        assert broken is not None


async def test_an_erased_payload_is_in_no_file(driver: JsonlDriver, path: Path, tmp_path: Path) -> None:
    path.with_suffix(".erasing").write_text("left behind by a crash: Grace Hopper")
    async with driver.open() as store:
        assert not path.with_suffix(".erasing").exists()
        writer = Writer(store, seed=7)
        target = (await writer.append(CHAIN, writer.draft(payload={"inputs": {"name": "Grace Hopper"}}))).entries[0]
        assert b"Grace" in path.read_bytes()
        redaction = await writer.redact(CHAIN, target)
        assert not any(b"Grace" in each.read_bytes() for each in tmp_path.iterdir())
        assert [entry.payload is None for entry in await store.read(CHAIN, 3, 10)] == [True, True]
        assert (await store.get(CHAIN, json.loads(redaction.statement)["id"])) == redaction
        assert verify_stretch(store.auditor(), CHAIN, GENESIS, None, batch_entries=10).broken is None


async def test_writers_that_are_killed_lose_nothing_acknowledged(driver: JsonlDriver, tmp_path: Path) -> None:
    for round_number in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        writers = [
            subprocess.Popen(
                [*command, str(10 * round_number + seed)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for seed in range(2)
        ]
        with ThreadPoolExecutor(2) as threads:
            told = threads.map(lambda process: _acknowledged(process, 8), writers)
            acknowledged = [line for lines in told for line in lines]
        assert len(acknowledged) >= 16
        async with driver.open() as store:
            entries = await store.read(CHAIN, 0, 100_000)
            hashes = {entry.seq: entry.hash for entry in entries}
            assert all(hashes[seq] == hash_ for seq, hash_ in acknowledged)
            assert len(entries) % 3 == 0, "an append was stored in part"
            stretch = verify_stretch(store.auditor(), CHAIN, GENESIS, None, batch_entries=100)
            assert (stretch.broken, stretch.checked_count) == (None, len(entries))


def _acknowledged(process: subprocess.Popen[str], count: int) -> list[tuple[int, str]]:
    """What the writer said before it was killed in the middle of its work."""
    guard = threading.Timer(60, process.kill)
    guard.start()
    assert process.stdout is not None
    with process, process.stdout as said:
        lines = [said.readline() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        lines += [line for line in said if line.endswith("\n")]
    guard.cancel()
    return [(int(seq), hash_) for seq, hash_ in map(str.split, filter(None, lines))]


async def test_its_own_appends_wake_without_waiting_for_the_next_look(tmp_path: Path) -> None:
    async with JsonlDriver(tmp_path, JsonlLimits(watch_poll_s=3600.0)).open() as store:
        with anyio.fail_after(30):
            async with store.watch(CHAIN) as wake_ups:
                await Writer(store).append(CHAIN)
                await anext(wake_ups)


async def test_an_append_that_fails_on_disk_leaves_nothing(
    driver: JsonlDriver, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    async with driver.open() as store:
        writer = Writer(store, seed=3)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(Unavailable, match="unknown"):
                await writer.append(CHAIN, writer.draft(key="new"))
        assert path.read_bytes() == before
        assert (await writer.append(CHAIN, writer.draft(key="new"))).created == (True,)


async def test_what_is_bounded_says_so(tmp_path: Path) -> None:
    limits = JsonlLimits(entries_max=2, waiting_max=2, lock_timeout_s=0.01)
    async with JsonlDriver(tmp_path, limits).open() as store:
        writer = Writer(store)
        await writer.fill(CHAIN, 2)
        with pytest.raises(Unavailable, match="full"):
            await writer.append(CHAIN)
        with writing_alone(tmp_path, 1.0), pytest.raises(Unavailable, match="another process"):
            await writer.append(CHAIN)
        answers: list[str] = []

        async def ask() -> None:
            try:
                await store.head(CHAIN)
                answers.append("answered")
            except Unavailable as error:
                answers.append(error.message)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        assert sorted(answers)[:2] == ["answered", "answered"]
        assert "too many" in sorted(answers)[2]


async def test_no_two_chains_share_a_file_and_no_name_leaves_the_folder(tmp_path: Path) -> None:
    names = ["a", "A", "../a", "a.live", "a%41", "ä", "", ".", "con", "a/b", "a\x00b"]
    chains = {Chain(name, environment) for name in names for environment in ("live", "test")}  # type: ignore[arg-type]
    paths = {file_of(tmp_path, chain) for chain in chains}
    assert len({path.name.lower() for path in paths}) == len(chains)
    assert {path.parent for path in paths} == {tmp_path}
    for path in paths:
        path.touch()
    assert set(chains_in(tmp_path)) == chains


async def test_the_folder_that_is_gone_is_unavailable(driver: JsonlDriver, path: Path, tmp_path: Path) -> None:
    async with driver.open() as store:
        path.unlink()
        (tmp_path / "lock").unlink()
        tmp_path.rmdir()
        with pytest.raises(Unavailable):
            await store.ping()
        with pytest.raises(Unavailable):
            await Writer(store).append(CHAIN)
        tmp_path.mkdir()


def test_a_file_alone_reads_as_it_was_written(tmp_path: Path) -> None:
    file = EntryFile(tmp_path / "none.jsonl", CHAIN).refresh()
    assert (file.head, file.damage, file.kinds) == (None, None, [])
