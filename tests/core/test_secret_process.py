"""A process that holds secrets: calls and errors, and that it outlives neither its use nor its parent."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable, VaultRefused
from precipiq_core.secret_process import SecretProcess, call_once
from tests.core.secret_servants import SECRET, Servant, Unloadable

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0

LINUX = sys.platform == "linux"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def servants_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@pytest.fixture
async def process() -> AsyncIterator[SecretProcess]:
    started = SecretProcess(Servant())
    yield started
    await started.close()


def is_there(pid: int) -> bool:
    """Whether it runs; one that only waits to be buried does not."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text() if LINUX else True
    except (FileNotFoundError, ProcessLookupError):
        return False


async def becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not (holds := condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return holds


async def test_one_process_apart_serves_all_calls(process: SecretProcess) -> None:
    assert process.pid is None
    pid = await process.call("pid")

    assert (await process.call("hear", "a"), await process.call("hear", "b")) == (("a",), ("a", "b"))
    assert (await process.call("pid"), process.pid) == (pid, pid)
    assert pid != os.getpid()


async def test_it_can_be_started_before_the_first_call(process: SecretProcess) -> None:
    await process.start()
    pid = process.pid

    assert pid == await process.call("pid")


async def test_each_of_many_callers_gets_its_own_answer(process: SecretProcess) -> None:
    words = [f"word {number}" * number for number in range(200)]

    assert await asyncio.gather(*(process.call("echo", word) for word in words)) == words


async def test_errors_of_the_project_come_through_as_they_are(process: SecretProcess) -> None:
    with pytest.raises(VaultRefused, match=r"^altered$") as refused:
        await process.call("refuse")
    with pytest.raises(Unavailable, match=r"^away$") as away:
        await process.call("be_away")
    with pytest.raises(Unavailable, match=r"^no file a; no file b$"):
        await process.call("misconfigured")

    assert (type(refused.value), type(away.value), away.value.retry_after_s) == (VaultRefused, Unavailable, 7.0)


@pytest.mark.parametrize(
    ("method", "says"),
    [("fault", "KeyError"), ("fault_on_purpose", "cannot"), ("no_pickle", "Error"), ("no_such_method", "Attribute")],
)
async def test_no_other_error_brings_its_text_along(method: str, says: str, process: SecretProcess) -> None:
    pid = await process.call("pid")
    with pytest.raises(InternalError, match=says) as caught:
        await process.call(method)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error!r} {vars(error)} {error.args}"
        error = error.__cause__ or error.__context__

    assert await process.call("pid") == pid


async def test_what_a_library_prints_there_is_no_answer(process: SecretProcess) -> None:
    assert await process.call("chatter") == "said"
    assert await process.call("echo", 1) == 1


async def test_a_servant_that_cannot_be_loaded_is_an_error_and_leaves_no_process() -> None:
    process = SecretProcess(Unloadable())
    for _ in range(2):
        with pytest.raises(InternalError, match=r"^RuntimeError in a process that holds secrets$"):
            await process.call("pid")

    assert process.pid is None


async def test_no_module_of_the_working_folder_gets_into_it(
    tmp_path: Path, process: SecretProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)

    assert await process.call("echo", 1) == 1


async def test_after_a_crash_the_next_call_has_a_new_process(process: SecretProcess) -> None:
    pid = await process.call("pid")
    os.kill(pid, signal.SIGKILL)
    assert await becomes(lambda: process.pid is None)

    assert await process.call("pid") not in (pid, None)


@pytest.mark.parametrize("way", ["die", "leave", "too_much"])
async def test_the_call_that_it_dies_under_is_told_and_no_other(way: str, process: SecretProcess) -> None:
    before, died, after = await asyncio.gather(
        process.call("echo", "before"), process.call(way), process.call("echo", "after"), return_exceptions=True
    )

    assert (before, after) == ("before", "after")
    assert type(died) is Unavailable


async def test_a_process_that_does_not_answer_is_replaced() -> None:
    process = SecretProcess(Servant(), timeout_s=2.0)
    stuck = await process.call("pid")
    with pytest.raises(Unavailable, match="did not answer"):
        await process.call("wait", 3600)

    assert not is_there(stuck)
    assert await process.call("pid") != stuck
    await process.close()


async def test_a_cancelled_caller_takes_nobody_elses_answer_away(tmp_path: Path, process: SecretProcess) -> None:
    pid = await process.call("pid")
    go = tmp_path / "go"
    cancelled = [asyncio.create_task(process.call("wait_for", str(go), f"lost {number}")) for number in range(3)]
    failing = asyncio.create_task(process.call("refuse"))
    kept = asyncio.create_task(process.call("echo", "kept"))
    await asyncio.sleep(0.05)
    for task in [*cancelled, failing]:
        task.cancel()
    await asyncio.gather(*cancelled, failing, return_exceptions=True)
    go.touch()

    assert await kept == "kept"
    assert all(task.cancelled() for task in cancelled)
    assert await process.call("pid") == pid


async def test_who_is_cancelled_while_it_starts_leaves_no_second_process(process: SecretProcess) -> None:
    task = asyncio.create_task(process.call("pid"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = await process.call("pid")

    await process.close()
    assert await becomes(lambda: not is_there(pid))


async def test_signals_that_end_a_server_do_not_end_it(process: SecretProcess) -> None:
    pid = await process.call("pid")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)

    assert await process.call("pid") == pid


async def test_close_ends_it(process: SecretProcess) -> None:
    pid = await process.call("pid")
    await process.close()

    assert process.pid is None
    assert not is_there(pid)


async def test_it_dumps_no_core(process: SecretProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        pid = await process.call("pid")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    if LINUX:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        [cores] = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
        assert cores == ["0", "0"]
        assert await process.call("dumpable") == 0


_PARENT = """
import asyncio, sys
from precipiq_core.secret_process import SecretProcess
from tests.core.secret_servants import Servant

async def main():
    process = SecretProcess(Servant())
    print(await process.call("pid"), flush=True)
    await process.call("wait", 3600) if sys.argv[1] == "busy" else await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.skipif(not LINUX, reason="needs prctl")
@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_it_dies_with_its_parent_whatever_it_is_doing(state: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, state], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_there(pid)
        await asyncio.sleep(0.2)
        parent.kill()

    assert await becomes(lambda: not is_there(pid))


def once(method: str, *arguments: object, **options: Any) -> Any:
    return call_once(Servant(), method, *arguments, **options)


def test_a_process_for_one_call_ends_with_it() -> None:
    pid = once("pid")

    assert pid != os.getpid()
    assert not is_there(pid)


def test_errors_of_one_call_are_those_of_any_but_that_boots_see_theirs() -> None:
    with pytest.raises(VaultRefused, match=r"^altered$"):
        once("refuse")
    with pytest.raises(InternalError, match=r"^KeyError in a process that holds secrets$"):
        once("fault")
    with pytest.raises(DeploymentError) as caught:
        once("misconfigured")
    with pytest.raises(Unavailable, match="did not answer"):
        once("die")
    with pytest.raises(Unavailable, match="did not answer"):
        once("wait", 3600, timeout_s=0.5)

    assert (caught.value.problems, str(caught.value)) == (("no file a", "no file b"), "no file a\nno file b")
    with pytest.raises(InternalError, match=r"^RuntimeError"):
        call_once(Unloadable(), "pid")
