"""The system's tests of bad input that come to the store, as they are, over the example database."""

from __future__ import annotations

import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.test_bad_input import (
    client,
    test_a_bad_idempotency_key_is_refused,
    test_a_decision_over_the_limit_is_refused,
    test_a_wrong_decision_of_a_batch_is_named_and_none_is_stored,
    test_batches_hold_1_to_100_decisions,
    test_ids_that_cannot_be_are_unknown,
    test_what_is_not_acceptable_json_is_refused,
    test_wrong_fields_are_named,
    test_wrong_parameters_of_other_reads_are_refused,
    test_wrong_query_parameters_are_refused,
)

__all__ = [
    "client",
    "test_a_bad_idempotency_key_is_refused",
    "test_a_decision_over_the_limit_is_refused",
    "test_a_wrong_decision_of_a_batch_is_named_and_none_is_stored",
    "test_batches_hold_1_to_100_decisions",
    "test_ids_that_cannot_be_are_unknown",
    "test_what_is_not_acceptable_json_is_refused",
    "test_wrong_fields_are_named",
    "test_wrong_parameters_of_other_reads_are_refused",
    "test_wrong_query_parameters_are_refused",
]


@pytest.fixture(scope="module")
def target(shared_server: ServerProcess) -> ServerProcess:
    return shared_server
