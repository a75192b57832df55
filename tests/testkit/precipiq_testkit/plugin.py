"""What pytest loads when the kit is installed: rewritten asserts in its suites, and the application fixtures."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("precipiq_testkit.entry_store_suite")
