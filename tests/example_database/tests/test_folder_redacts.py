"""Tests of erasure, as they are, over the example database: what is erased is in none of its files."""

from __future__ import annotations

from tests.ledger.test_redaction import (
    client,
    target,
    test_a_payload_of_many_pages_leaves_none_of_them,
    test_a_retry_of_an_erased_decision_returns_its_receipt,
    test_a_second_redaction_is_a_conflict_and_changes_nothing,
    test_an_erased_payload_is_null_in_every_answer,
    test_erased_bytes_are_in_no_file_and_no_row,
    test_redactions_at_the_same_time_are_one_entry,
    test_the_chain_holds_after_redactions_for_the_server_and_for_anybody,
    test_the_redaction_is_an_entry_that_names_its_target_and_reason,
)

__all__ = [
    "client",
    "target",
    "test_a_payload_of_many_pages_leaves_none_of_them",
    "test_a_retry_of_an_erased_decision_returns_its_receipt",
    "test_a_second_redaction_is_a_conflict_and_changes_nothing",
    "test_an_erased_payload_is_null_in_every_answer",
    "test_erased_bytes_are_in_no_file_and_no_row",
    "test_redactions_at_the_same_time_are_one_entry",
    "test_the_chain_holds_after_redactions_for_the_server_and_for_anybody",
    "test_the_redaction_is_an_entry_that_names_its_target_and_reason",
]
