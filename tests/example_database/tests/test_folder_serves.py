"""Tests of the system that need no SQL of ours, as they are, over the example database: clients, SDK, first start."""

from __future__ import annotations

from tests.system.test_concurrency import *  # noqa: F403
from tests.system.test_first_use import (
    test_the_key_is_in_one_private_file_and_stored_nowhere_else as test_the_key_is_in_one_file,
)
from tests.system.test_independent_verifier import test_a_chain_of_every_kind_verifies_without_the_server
from tests.system.test_sdk import (
    interpreter,
    sdk,
    test_a_wrong_key_is_refused_at_once_and_not_shown,
    test_batches_keep_their_order,
    test_single_decisions_come_back_with_every_value_unchanged,
    test_the_asynchronous_client_writes_the_same,
    test_tracked_functions_are_recorded_with_their_arguments,
)

__all__ = [
    "interpreter",
    "sdk",
    "test_a_chain_of_every_kind_verifies_without_the_server",
    "test_a_wrong_key_is_refused_at_once_and_not_shown",
    "test_batches_keep_their_order",
    "test_single_decisions_come_back_with_every_value_unchanged",
    "test_the_asynchronous_client_writes_the_same",
    "test_the_key_is_in_one_file",
    "test_tracked_functions_are_recorded_with_their_arguments",
]
