"""Every broken driver of the shelf is caught by its test, for its reason; every test of the suite can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from precipiq_testkit.broken_drivers import SHELF, Fault
from precipiq_testkit.entry_store import standard_tests

pytestmark = [pytest.mark.slow, pytest.mark.system]

SUITES = """
import pytest
from precipiq_testkit.broken_drivers import SHELF, FilingFault, broken_driver
from precipiq_testkit.entry_store import EntryStoreConformance

def suite(fault):
    class TestBroken(EntryStoreConformance):
        patience_s = 1.0 if "did not come" in fault.symptom else 30.0

        @pytest.fixture
        def storage(self, tmp_path):
            return tmp_path if issubclass(fault, FilingFault) else None

        @pytest.fixture
        def driver(self, tmp_path):
            return broken_driver(fault, tmp_path)

        @pytest.fixture
        def reopen(self, driver):
            return driver.open

    return TestBroken

for fault in SHELF:
    globals()["Test" + fault.__name__] = suite(fault)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each fault's own test said when it failed, by the fault's name; faults that were not caught are absent."""
    folder: Path = tmp_path_factory.mktemp("shelf")
    (folder / "test_shelf.py").write_text(SUITES)
    wanted = [f"test_shelf.py::Test{fault.__name__}::{fault.caught_by}" for fault in SHELF]
    plugins = ("no:cacheprovider", "anyio.pytest_plugin", "precipiq_testkit.plugin")  # others only cost time
    command = [sys.executable, "-m", "pytest", "-q", *(option for name in plugins for option in ("-p", name))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    subprocess.run(
        [*command, "--junitxml=report.xml", *wanted],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    failed: dict[str, str] = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        fault = case.get("classname", "").rpartition(".Test")[2]
        for failure in case.findall("failure"):
            failed[fault] = failed.get(fault, "") + (failure.text or "")
        for skipped in case.findall("skipped"):
            failed[fault] = f"skipped: {skipped.get('message')}"
    return failed


@pytest.mark.parametrize("fault", SHELF, ids=lambda fault: fault.__name__)
def test_a_broken_driver_is_caught_by_its_test_for_its_reason(fault: type[Fault], failures: dict[str, str]) -> None:
    assert fault.__name__ in failures, f"{fault.caught_by} passes with a driver that {fault.__doc__}"
    if "does not let system calls be followed" in failures[fault.__name__]:
        pytest.skip(failures[fault.__name__])
    said = "\n".join(line for line in failures[fault.__name__].splitlines() if re.match(r"[ |+]*[>E] ", line))
    assert re.search(fault.symptom, said), said


def test_every_test_of_the_suite_catches_a_broken_driver() -> None:
    assert set(standard_tests()) - {fault.caught_by for fault in SHELF} == set()
    assert {fault.caught_by for fault in SHELF} <= set(standard_tests())
