"""Entries that somebody made by SQL with right hashes, on either database: only the sealer's count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import parse_timestamp
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_macs.entry_macs import ALL, MacCheck, entry_mac, epoch_key, epoch_of
from precipiq_testkit.sealing import ROOT
from tests.ledger import forgers
from tests.ledger.forgers import forged_mac
from tests.ledger.intruders import (
    ENTRIES,
    IN_PROCESSES,
    INLINE,
    REDACTED,
    Intruder,
    Original,
    Signing,
    postgres_original,
    sqlite_original,
)

UNAUTHENTIC = "UNAUTHENTIC_ENTRY"
NEXT = ENTRIES + 1
HOUR_US = 3600 * 1_000_000


@pytest.fixture(scope="module")
def original(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Original]:
    if database == "sqlite":
        with sqlite_original(tmp_path_factory.mktemp("original")) as made:
            yield made
    else:
        with postgres_original(request.getfixturevalue("shared_postgres")) as made:
            yield made


@pytest.fixture
def intruder(original: Original, tmp_path: Path) -> Iterator[Intruder]:
    intruder = original.fresh(tmp_path)
    intruder.drop_triggers()
    yield intruder
    intruder.close()


def found(
    intruder: Intruder, *, through: int | None = None, exempt: int = 0, limits: VerifierLimits = INLINE
) -> tuple[int, str] | None:
    async def check_of(chain: Chain) -> MacCheck:
        return MacCheck(ROOT, exempt)

    verifier = Verifier(Signing(), intruder.files, limits, check_of=check_of)
    broken = asyncio.run(verifier.verify(intruder.auditor(), intruder.chain, 1, through)).broken
    return None if broken is None else (broken.seq, broken.code)


def timestamp_of(intruder: Intruder, seq: int) -> str:
    return str(bytes(intruder.get(seq, "statement")[0])[-35:-8].decode())


@pytest.mark.parametrize("limits", [INLINE, IN_PROCESSES], ids=["inline", "in processes"])
def test_a_decision_appended_by_sql_is_found(intruder: Intruder, limits: VerifierLimits) -> None:
    assert found(intruder, limits=limits) is None
    forgers.append(intruder, payload={"inputs": {}, "outputs": {}, "alternatives": None, "metadata": None})
    forgers.append(intruder)
    assert found(intruder, limits=limits) == (NEXT, UNAUTHENTIC)


def test_a_payload_erased_behind_a_made_up_redaction_is_found(intruder: Intruder) -> None:
    """Where the redaction is in the range that is checked, and where it is not."""
    redaction = forgers.erase(intruder, 5)
    assert found(intruder) == found(intruder, through=ENTRIES) == (5, UNAUTHENTIC)
    intruder.set(redaction.seq, mac=forged_mac(ROOT, timestamp_of(intruder, redaction.seq), redaction.hash))
    assert found(intruder) is found(intruder, through=ENTRIES) is None, "the sealer's own must explain it"


def test_a_made_up_redaction_beside_the_right_one_is_found_from_before_it(intruder: Intruder) -> None:
    """An export of the entries before must not name the forger's."""
    [target_hash] = intruder.get(2, "hash")
    forgers.append(intruder, "redaction", {"target_seq": 2, "target_hash": target_hash})
    assert found(intruder, through=ENTRIES) == (2, UNAUTHENTIC)


def test_a_mac_copied_from_another_entry_is_found(intruder: Intruder) -> None:
    [mac] = intruder.get(ENTRIES, "mac")
    forgers.append(intruder, mac=mac, after_us=1)
    assert found(intruder) == (NEXT, UNAUTHENTIC)


def test_macs_that_change_places_are_found(intruder: Intruder) -> None:
    fourth, fifth = intruder.get(4, "mac")[0], intruder.get(5, "mac")[0]
    intruder.set(4, mac=fifth)
    intruder.set(5, mac=fourth)
    assert found(intruder) == (4, UNAUTHENTIC)


@pytest.mark.parametrize("hours", [-1, 1, 24])
def test_a_key_seals_the_entries_of_its_hour_alone(intruder: Intruder, hours: int) -> None:
    """A forger who got the key of one hour cannot make entries of another."""
    entry = forgers.append(intruder, after_us=2 * HOUR_US)
    epoch = epoch_of(parse_timestamp(timestamp_of(intruder, NEXT)))
    intruder.set(NEXT, mac=entry_mac(epoch_key(ROOT, epoch + hours), entry.hash))
    assert found(intruder) == (NEXT, UNAUTHENTIC)
    intruder.set(NEXT, mac=entry_mac(epoch_key(ROOT, epoch), entry.hash))
    assert found(intruder) is None


def test_a_chain_of_many_hours_holds(intruder: Intruder) -> None:
    for _ in range(5):
        entry = forgers.append(intruder, after_us=HOUR_US // 2)
        intruder.set(entry.seq, mac=forged_mac(ROOT, timestamp_of(intruder, entry.seq), entry.hash))
    assert found(intruder) is found(intruder, limits=IN_PROCESSES) is None


@pytest.mark.parametrize("limits", [INLINE, IN_PROCESSES], ids=["inline", "in processes"])
def test_macs_stripped_from_a_tail_are_missed(intruder: Intruder, limits: VerifierLimits) -> None:
    """First where they are missing, or at the entry whose erasure only they proved."""
    intruder.set(ENTRIES, mac=None)
    assert found(intruder, limits=limits) == (ENTRIES, UNAUTHENTIC)
    for seq in range(6, ENTRIES):
        intruder.set(seq, mac=None)
    assert found(intruder, limits=limits) == (REDACTED, UNAUTHENTIC)


@pytest.mark.parametrize("mac", ["", "é", "0" * 64, "f" * 63, "F" * 64, "x" * 100_000])
def test_what_is_no_mac_of_the_entry_is_none(intruder: Intruder, mac: str) -> None:
    intruder.set(5, mac=mac)
    assert found(intruder) == found(intruder, exempt=ENTRIES) == found(intruder, exempt=ALL) == (5, UNAUTHENTIC)


def test_a_whole_chain_made_by_sql_is_found(intruder: Intruder) -> None:
    intruder.chain = Chain("org_made_up", "live")
    for _ in range(3):
        forgers.append(intruder)
    assert found(intruder) == (1, UNAUTHENTIC)


def test_other_breaks_keep_their_codes(intruder: Intruder) -> None:
    forgers.append(intruder)
    intruder.set(NEXT, hash="0" * 64)
    assert found(intruder) == (NEXT, "CONTENT_MISMATCH")


def test_entries_before_the_adoption_need_no_macs_and_those_after_it_do(intruder: Intruder) -> None:
    for seq in range(1, ENTRIES + 1):
        intruder.set(seq, mac=None)
    assert found(intruder) == (1, UNAUTHENTIC)
    adopt(intruder)
    assert found(intruder, exempt=ENTRIES) is None
    forgers.append(intruder)
    assert found(intruder, exempt=ENTRIES) == (NEXT + 1, UNAUTHENTIC)


def test_a_second_adoption_is_found_even_with_a_right_mac(intruder: Intruder) -> None:
    adopt(intruder)
    adopt(intruder)
    assert found(intruder, exempt=ENTRIES) == (NEXT + 1, UNAUTHENTIC)
    assert found(intruder, exempt=NEXT) == (NEXT, UNAUTHENTIC)
    assert found(intruder) == found(intruder, exempt=ALL) == (NEXT, UNAUTHENTIC)


def adopt(intruder: Intruder) -> None:
    """As a server with the keys would."""
    last = forgers.head(intruder)
    assert last is not None
    entry = forgers.append(intruder, "adoption", {"head_seq": last.seq, "head_hash": last.hash, "note": ""})
    intruder.set(entry.seq, mac=forged_mac(ROOT, timestamp_of(intruder, entry.seq), entry.hash))
