"""The page of settings is the one that the code would make."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_the_page_of_settings_tells_what_the_code_reads() -> None:
    spec = importlib.util.spec_from_file_location("settings_page", Path(__file__).with_name("settings_page.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.render(), "run tests/repo/settings_page.py > docs/settings.md"
