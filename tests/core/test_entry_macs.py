"""The sealer's MAC, to the byte: against the standard library's HMAC, and at its edges."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest

from precipiq_contracts.clock import parse_timestamp
from precipiq_macs.entry_macs import ALL, EntryMacs, MacCheck, entry_mac, epoch_key, epoch_of

ROOT = bytes(range(32))
HASHES = [sha256(str(number).encode()).hexdigest() for number in range(50)]
TIMES = [f"2026-05-17T10:{number:02}:00.000000Z" for number in range(50)]
SEQS = range(1, 51)


def key_of(timestamp: str) -> bytes:
    return epoch_key(ROOT, epoch_of(parse_timestamp(timestamp)))


MACS = [entry_mac(key_of(time), text) for time, text in zip(TIMES, HASHES, strict=True)]


def test_the_mac_is_what_the_page_says() -> None:
    key = hmac.digest(ROOT, b"494066", "sha256")  # 2026-05-13T02
    assert epoch_key(ROOT, epoch_of(parse_timestamp("2026-05-13T02:59:59.999999Z"))) == key
    assert entry_mac(key, HASHES[0]) == hmac.digest(key, b"precipiq entry\n" + HASHES[0].encode(), "sha256").hex()


@pytest.mark.parametrize("length", [0, 1, 32, 63, 64])
def test_many_macs_at_once_are_the_same(length: int) -> None:
    key = bytes(range(length))
    expected = [hmac.digest(key, b"precipiq entry\n" + text.encode(), "sha256").hex() for text in HASHES]
    assert list(map(EntryMacs(key).of, HASHES)) == expected


def test_a_batch_holds_when_each_of_its_entries_does() -> None:
    check = MacCheck(ROOT)
    assert check.all_hold(SEQS, HASHES, TIMES, MACS)
    for index in (0, 25, 49):
        for wrong in (None, "", MACS[index - 1], MACS[index].upper(), MACS[index] + "0"):
            altered: list[object] = [*MACS]
            altered[index] = wrong
            assert not check.all_hold(SEQS, HASHES, TIMES, altered)
            assert not check.holds(index + 1, HASHES[index], TIMES[index], wrong)


def test_a_batch_of_several_hours_holds() -> None:
    times = [f"2026-05-17T{number // 10:02}:{number:02}:00.000000Z" for number in range(50)]
    macs = [entry_mac(key_of(time), text) for time, text in zip(times, HASHES, strict=True)]
    assert MacCheck(ROOT).all_hold(SEQS, HASHES, times, macs)
    assert not MacCheck(ROOT).all_hold(SEQS, HASHES, times, [*macs[:30], macs[29], *macs[31:]])


def test_a_driver_that_gives_fewer_macs_proves_nothing() -> None:
    for macs in ([], MACS[:-1]):
        assert not MacCheck(ROOT).all_hold(SEQS, HASHES, TIMES, macs)
        assert not MacCheck(ROOT, ALL).all_hold(SEQS, HASHES, TIMES, macs)


def test_an_exempt_entry_may_lack_its_mac_but_not_have_another() -> None:
    check = MacCheck(ROOT, 10)
    macs: list[object] = [*[None] * 10, *MACS[10:]]
    assert check.all_hold(SEQS, HASHES, TIMES, macs)
    assert not check.all_hold(SEQS, HASHES, TIMES, [*[None] * 11, *MACS[11:]])
    assert not check.all_hold(SEQS, HASHES, TIMES, [MACS[1], *macs[1:]])
    assert check.all_hold(range(1, 11), HASHES[:10], TIMES[:10], [None] * 10)
    assert not check.all_hold(range(2, 12), HASHES[:10], TIMES[:10], [None] * 10)


@pytest.mark.parametrize("mac", ["", None, 5, b"x", "\u00e9"])
def test_no_mac_fits_a_time_that_is_none(mac: object) -> None:
    assert not MacCheck(ROOT).holds(1, HASHES[0], "yesterday", mac)


def test_an_adoption_stands_after_the_exempt_entries_alone() -> None:
    assert [seq for seq in range(1, 20) if MacCheck(ROOT, 9).allows_adoption(seq)] == [10]
    assert not any(MacCheck(ROOT).allows_adoption(seq) for seq in range(1, 20))
