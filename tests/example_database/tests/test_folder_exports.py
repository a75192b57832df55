"""Tests of exports, as they are, over the example database: bundles that OpenSSL and their own verify.py accept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precipiq_testkit.server import ServerProcess
from tests.exports.evidence import bundle_of, exported
from tests.exports.test_exports_http import (
    client,
    strangers,
    test_a_bundle_holds_the_chain_and_passes_every_check,
    test_a_range_in_time_is_found,
    test_an_erased_payload_stays_erased_and_explained,
    test_everything_about_an_export_stands_in_the_chain,
    test_the_key_that_signed_is_in_the_bundle_and_published_to_everybody,
)
from tests.system.client import Client

__all__ = [
    "client",
    "strangers",
    "test_a_bundle_holds_the_chain_and_passes_every_check",
    "test_a_range_in_time_is_found",
    "test_an_erased_payload_stays_erased_and_explained",
    "test_everything_about_an_export_stands_in_the_chain",
    "test_the_key_that_signed_is_in_the_bundle_and_published_to_everybody",
]

pytestmark = pytest.mark.slow


def test_the_command_accepts_the_bundle_and_the_ledger(
    client: Client, shared_server: ServerProcess, tmp_path: Path
) -> None:
    client.decide()
    bundle = tmp_path / "evidence.zip"
    bundle.write_bytes(bundle_of(client, exported(client)))
    shared_server.run("bundle", "verify", str(bundle))
    verified = shared_server.run("ledger", "verify", "--org", shared_server.org_id, "--env", "test", "--json")
    assert json.loads(verified.stdout)["is_valid"]
