"""Every MUST of the entry store's contract has its tests in the suite, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from precipiq_contracts import entry_store
from precipiq_testkit.entry_store import standard_tests

CONTRACT = " ".join(Path(entry_store.__file__).read_text().partition('"""\n\n')[2].split())

TESTS = {
    "MUST NOT call the seal of one append twice at the same time": ["test_a_seal_runs_once_at_a_time"],
    "MUST NOT call it once that append has returned or raised": [
        "test_a_seal_is_not_called_once_its_append_has_ended",
    ],
    "the payload and its salt MUST NOT be in any file of the store": ["test_what_is_erased_is_in_no_file"],
    "the open store MUST remove them soon after that read has ended": [
        "test_what_is_erased_goes_once_its_readers_have_left",
    ],
    "MUST be picklable": ["test_the_auditor_works_in_another_process"],
    "MUST NOT repair, skip or reinterpret anything": [
        "test_the_audit_gives_the_stored_bytes",
        "test_batches_give_every_row_of_the_range",
    ],
    "MUST store, and distinguish, texts of every length up to the bounds above": [
        "test_the_longest_keys_are_kept_and_told_apart",
        "test_the_longest_organisation_ids_are_kept_and_told_apart",
        "test_the_longest_kinds_and_actors_are_kept_and_told_apart",
        "test_the_longest_names_are_found_and_told_apart",
    ],
    "MUST call ``seal``, last, with the chain's true head and only those drafts whose idempotency key is new": [
        "test_seal_is_called_with_the_true_head",
        "test_seal_sees_only_drafts_that_are_new",
        "test_a_key_twice_in_one_batch_makes_one_entry",
        "test_many_writers_neither_fork_a_chain_nor_leave_a_gap",
    ],
    "MUST store exactly the entries that this call returns": [
        "test_what_was_sealed_is_stored_and_given_back_byte_for_byte",
    ],
    "MUST give back each entry's MAC, or its absence, wherever it gives the entry": [
        "test_macs_are_stored_and_given_back",
    ],
    "MUST be durable (it survives a power cut) before it returns, also when it stores nothing new": [
        "test_an_append_survives_a_power_cut",
        "test_what_an_append_answered_again_survives_a_power_cut",
    ],
    "MUST NOT store anything when ``seal`` raises": ["test_nothing_is_stored_when_seal_raises"],
    "A draft with a known key MUST be answered with the stored entry": [
        "test_a_known_key_is_answered_with_the_stored_entry",
        "test_one_key_from_many_tasks_makes_one_entry",
    ],
    "MUST reflect every append that has returned": ["test_head_reflects_every_append_that_has_returned"],
    "MUST NOT skip one that matches": [
        "test_reading_in_steps_gives_every_entry_once",
        "test_reading_one_kind_gives_all_of_that_kind",
        "test_a_reader_who_follows_a_growing_chain_skips_nothing",
    ],
    "MUST NOT drop the payload before the redaction entry is durable": [
        "test_a_payload_is_kept_when_its_redaction_is_not_stored",
    ],
    "both MUST be durable before it returns": ["test_a_redaction_survives_a_power_cut"],
    "MUST return the first redaction and drop the payload if it is still there": [
        "test_a_second_redaction_gives_the_first",
        "test_a_redaction_that_was_cut_short_is_completed",
    ],
    "MUST reflect every redaction that has returned": ["test_redactions_are_known_by_their_targets"],
    "MUST NOT be missed": [
        "test_an_append_between_check_and_wait_is_not_missed",
        "test_a_follower_sees_everything_while_others_write",
    ],
}
ITS_AUTHORS_OWN = ["After 0 that MUST include rows that an intruder filed below 1"]
"""No suite can break into a store that it does not know: drivers have tests of their own for this."""


@pytest.mark.parametrize("rule", [*TESTS, *ITS_AUTHORS_OWN])
def test_a_rule_stands_in_the_contract(rule: str) -> None:
    assert rule in CONTRACT


def test_no_rule_is_left_out() -> None:
    left = CONTRACT
    for rule in (*TESTS, *ITS_AUTHORS_OWN):
        left = left.replace(rule, "")
    assert re.findall(r".{0,40}\bMUST\b.{0,60}", left) == []


def test_its_tests_are_in_the_suite() -> None:
    assert {test for tests in TESTS.values() for test in tests} <= set(standard_tests())
