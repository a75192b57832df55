"""Puts each break of the list into a copy of the tree, runs the tests that should notice, says which did not.

usage: scripts/mutants [--list] [NAME ... | --area AREA] [--jobs N] [--tests all] [--no-baseline]
Exit code: 0 every break was noticed, 1 one survived, 2 one could not be tried (stale, or its tests fail without it).
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from tests.mutants.breaks import Break, StaleBreakError, check_fits, load_breaks
from tests.mutants.copies import Copy

# Tests without a break, and tests with one where nobody knows how long they take.
TESTS_TIMEOUT_S = 900.0
SUITE_TIMEOUT_S = 4 * 3600.0
# Tests that take this many times as long as without the break, and this much more, hang: the break was noticed.
HANG_FACTOR = 3
HANG_LEAST_S = 60.0
PASSED, FAILED = 0, 1
KILLED, SURVIVED, ERROR = "killed", "survived", "error"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner:
    """Copies of the tree that share the work, each with one break at a time."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._copies = [Copy(folder / str(number)) for number in range(jobs)]
        self._free: SimpleQueue[Copy] = SimpleQueue()
        for copy in self._copies:
            self._free.put(copy)
        self._pool = ThreadPoolExecutor(jobs)

    def close(self) -> None:
        """End what runs, and wait for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for copy in self._copies:
            copy.end()
        self._pool.shutdown()

    def each(self, items: Iterable[Item], work: Callable[[Copy, Item], Result]) -> Iterator[Result]:
        """The results of ``work``, as they come."""

        def with_copy(item: Item) -> Result:
            copy = self._free.get()
            try:
                return work(copy, item)
            finally:
                self._free.put(copy)

        for done in as_completed([self._pool.submit(with_copy, item) for item in items]):
            yield done.result()


def baseline(copy: Copy, test: str) -> tuple[str, float | None]:
    """A test without any break, and its seconds; None when it cannot judge one. Prints its line."""
    code, seconds = _timed(copy, (test,), TESTS_TIMEOUT_S)
    problem = "" if code == PASSED else "takes too long" if code is None else f"fails ({code}): {_first_failure(copy)}"
    print(f"baseline {seconds:6.1f} s  {test} {problem}".rstrip(), flush=True)
    return test, None if problem else seconds


def attempt(copy: Copy, each: Break, tests: tuple[str, ...], timeout_s: float, *, hang_kills: bool) -> str:
    """Try one break. Its verdict. Prints its line."""
    with copy.broken(each):
        code, seconds = _timed(copy, tests, timeout_s)
    if code == FAILED or (code is None and hang_kills):
        verdict, said = KILLED, "the tests hang" if code is None else _first_failure(copy)
    elif code == PASSED:
        verdict, said = SURVIVED, f"{each.why} ({' '.join(tests)})"
    else:
        verdict, said = ERROR, "no verdict: time was up" if code is None else f"pytest {code}: {_last_lines(copy)}"
    print(f"{verdict:8} {seconds:6.1f} s  {each.area}/{each.name}: {said}", flush=True)
    return verdict


def _timed(copy: Copy, tests: tuple[str, ...], timeout_s: float) -> tuple[int | None, float]:
    started_s = time.monotonic()
    return copy.run(tests, timeout_s), time.monotonic() - started_s


def _first_failure(copy: Copy) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", _output(copy), re.MULTILINE)
    return found[1] if found else _last_lines(copy)


def _last_lines(copy: Copy) -> str:
    return " | ".join(_output(copy).splitlines()[-4:])


def _output(copy: Copy) -> str:
    return copy.log.read_text(encoding="utf-8", errors="replace")


def run(runner: Runner, breaks: list[Break], options: argparse.Namespace) -> int:
    """The baseline, then all breaks. The exit code."""
    whole = options.tests == "all"
    judged = not options.no_baseline and not whole
    named = dict.fromkeys(test for each in breaks for test in each.tests)
    seconds = dict(runner.each(named, baseline)) if judged else {}

    def work(copy: Copy, each: Break) -> str:
        if whole:
            return attempt(copy, each, ("tests",), SUITE_TIMEOUT_S, hang_kills=False)
        if not judged:
            return attempt(copy, each, each.tests, TESTS_TIMEOUT_S, hang_kills=False)
        if any(seconds[test] is None for test in each.tests):
            print(f"{ERROR:8}           {each.area}/{each.name}: its tests cannot judge it, see above", flush=True)
            return ERROR
        timeout_s = HANG_LEAST_S + HANG_FACTOR * sum(seconds[test] or 0 for test in each.tests)
        return attempt(copy, each, each.tests, timeout_s, hang_kills=True)

    count = Counter(runner.each(breaks, work))
    errors = f", {count[ERROR]} errors" if count[ERROR] else ""
    print(f"mutants: {count[KILLED]} killed, {count[SURVIVED]} survived{errors}")
    return 2 if count[ERROR] else int(count[SURVIVED] > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description="Which deliberate breaks does no test notice?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these breaks")
    parser.add_argument("--area", help="only the breaks of tests/mutants/AREA.toml")
    parser.add_argument("--list", action="store_true", help="print the breaks and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that work side by side (1)")
    parser.add_argument("--tests", choices=["named", "all"], default="named", help="all: the whole suite each time")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a break first")
    return parser.parse_args()


def main() -> int:
    """What scripts/mutants runs."""
    options = _options()
    known = load_breaks()
    chosen = [
        each
        for each in known
        if options.area in (None, each.area) and (not options.names or each.name in options.names)
    ]
    unknown = set(options.names) - {each.name for each in chosen}
    if unknown or not chosen:
        print(f"mutants: there is no break {' '.join(sorted(unknown)) or options.area}", file=sys.stderr)
        return 2
    try:
        check_fits(known)
    except StaleBreakError as stale:
        print(f"mutants: stale breaks:\n{stale}", file=sys.stderr)
        return 2
    if options.list:
        for each in chosen:
            print(f"{each.area}/{each.name}: {each.why}\n    {each.file}; {' '.join(each.tests)}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # a shell lets what it starts in the background ignore SIGINT
    folder = Path(tempfile.mkdtemp(prefix="precipiq-mutants-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    try:
        runner = Runner(folder, options.jobs)
        try:
            return run(runner, chosen, options)
        finally:
            runner.close()
    except KeyboardInterrupt:
        print("mutants: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
