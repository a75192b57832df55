"""A child process: calls, callbacks and errors, and that it outlives neither its use nor its parent."""

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
import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable, VaultRefused
from precipiq_work import child_process
from precipiq_work.child_process import ChildProcess, Role, call_once
from precipiq_work.child_process_main import frame
from tests.core.servants import SECRET, DiesWhenTaken, Servant, Unloadable

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
async def process() -> AsyncIterator[ChildProcess]:
    started = ChildProcess(Servant())
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


async def test_one_process_apart_serves_all_calls(process: ChildProcess) -> None:
    assert process.pid is None
    pid = await process.call("pid")

    assert (await process.call("hear", "a"), await process.call("hear", "b")) == (("a",), ("a", "b"))
    assert (await process.call("pid"), process.pid) == (pid, pid)
    assert pid != os.getpid()


async def test_each_of_many_callers_gets_its_own_answer(process: ChildProcess) -> None:
    words = [f"word {number}" * number for number in range(200)]

    assert await asyncio.gather(*(process.call("echo", word) for word in words)) == words


async def test_errors_of_the_project_come_through_as_they_are(process: ChildProcess) -> None:
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
async def test_no_other_error_brings_its_text_along(method: str, says: str, process: ChildProcess) -> None:
    pid = await process.call("pid")
    with pytest.raises(InternalError, match=says) as caught:
        await process.call(method)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error!r} {vars(error)} {error.args}"
        error = error.__cause__ or error.__context__

    assert await process.call("pid") == pid


async def test_what_a_library_prints_there_is_no_answer(process: ChildProcess) -> None:
    assert await process.call("chatter") == "said"
    assert await process.call("echo", 1) == 1


async def test_a_servant_that_cannot_be_loaded_is_an_error_and_leaves_no_process() -> None:
    process = ChildProcess(Unloadable())
    for _ in range(2):
        with pytest.raises(InternalError, match=r"^RuntimeError in a process that holds secrets$"):
            await process.call("pid")

    assert process.pid is None


async def test_no_module_of_the_working_folder_gets_into_it(
    tmp_path: Path, process: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)

    assert await process.call("echo", 1) == 1


async def test_after_a_crash_the_next_call_has_a_new_process(process: ChildProcess) -> None:
    pid = await process.call("pid")
    os.kill(pid, signal.SIGKILL)
    assert await becomes(lambda: process.pid is None)

    assert await process.call("pid") not in (pid, None)


@pytest.mark.parametrize("way", ["die", "leave", "too_much"])
async def test_the_call_that_it_dies_under_is_told_and_no_other(way: str, process: ChildProcess) -> None:
    before, died, after = await asyncio.gather(
        process.call("echo", "before"), process.call(way), process.call("echo", "after"), return_exceptions=True
    )

    assert (before, after) == ("before", "after")
    assert type(died) is Unavailable


def kill(pid: int) -> None:
    """The process is dead when this returns, and no event loop has heard of it."""
    os.kill(pid, signal.SIGKILL)
    while is_there(pid):
        time.sleep(0.005)


async def assert_replaced(process: ChildProcess, dead: int) -> None:
    assert await process.call("pid") != dead


async def test_a_process_that_is_dead_before_the_first_write_is_told_and_replaced(
    process: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await process.call("pid")

    def frame_too_late(message: bytes) -> bytes:
        kill(dead)
        return frame(message)

    with monkeypatch.context() as patch, pytest.raises(Unavailable, match="did not answer") as caught:
        patch.setattr(child_process, "frame", frame_too_late)
        await process.call("echo", b"x" * 500_000)

    assert caught.value.retry_after_s
    await assert_replaced(process, dead)


class ClosedBeforeTheWrite(ChildProcess):
    """The loop closes the pipe of the first process between the look at it and the write."""

    is_closed = False

    async def _start(self) -> asyncio.subprocess.Process:
        process = await ChildProcess._start(self)
        if not self.is_closed:
            self.is_closed = True
            assert process.stdin is not None
            process.stdin.transport.abort()
            await asyncio.sleep(0.05)
        return process


async def test_a_pipe_that_the_loop_has_closed_is_a_dead_process_too() -> None:
    """uvloop raises ``RuntimeError`` when such a one is written to."""
    process = ClosedBeforeTheWrite(Servant())
    with pytest.raises(Unavailable, match="did not answer"):
        await process.call("echo", 1)

    assert await process.call("echo", 1) == 1
    await process.close()


async def test_a_process_that_died_while_nobody_called_is_replaced_or_told(process: ChildProcess) -> None:
    for _ in range(5):
        dead = await process.call("pid")
        kill(dead)
        try:
            assert await process.call("pid") != dead
        except Unavailable:
            await assert_replaced(process, dead)


async def test_a_process_that_dies_while_it_starts_is_told_and_replaced(tmp_path: Path) -> None:
    process = ChildProcess(DiesWhenTaken(str(tmp_path / "mark")))
    with pytest.raises(Unavailable, match="did not answer"):
        await process.call("pid")

    assert await process.call("pid")
    await process.close()


async def test_a_process_that_cannot_be_started_is_tried_again(
    process: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(child_process, "_COMMAND", ("/nowhere/python",))
        for _ in range(2):
            with pytest.raises(Unavailable, match="did not answer"):
                await process.call("pid")

    assert await process.call("pid")


async def test_a_servant_asks_and_tells_while_it_works(process: ChildProcess) -> None:
    told: list[int] = []

    async def ask(number: int) -> int:
        assert told[-1] == number
        await asyncio.sleep(0)
        return number * 10

    assert await process.call("converse", ask=ask, tell=told.append) == 100
    assert told == [0, 1, 2, 3, 4]


async def test_a_process_that_dies_between_two_writes_is_told_and_replaced(process: ChildProcess) -> None:
    dead = await process.call("pid")

    async def ask(number: int) -> int:
        if number == 2:
            kill(dead)
        return number

    with pytest.raises(Unavailable, match="did not answer"):
        await process.call("converse", ask=ask, tell=lambda _: None)

    await assert_replaced(process, dead)


@pytest.mark.parametrize("error", [RuntimeError("mine"), OSError("mine"), TimeoutError("mine"), VaultRefused("mine")])
async def test_what_a_callback_raises_is_its_callers_and_no_dead_process(
    error: Exception, process: ChildProcess
) -> None:
    dead = await process.call("pid")

    async def ask(number: int) -> int:
        raise error

    with pytest.raises(type(error), match="mine"):
        await process.call("converse", ask=ask, tell=lambda _: None)

    await assert_replaced(process, dead)


async def test_a_process_for_a_single_call_ends_with_its_caller() -> None:
    process = ChildProcess(Servant())
    asked = asyncio.Event()
    children: list[int | None] = []

    async def never(number: int) -> int:
        children.append(process.pid)
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    work = asyncio.create_task(process.call_and_end("converse", ask=never, tell=lambda _: None))
    await asyncio.wait_for(asked.wait(), DEADLINE_S)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    [child] = children
    assert child is not None
    assert not is_there(child)


async def test_a_fault_is_a_line_of_the_log_where_it_holds_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    role = Role("a worker", "no answer", structlog.get_logger())
    with structlog.testing.capture_logs() as logs, pytest.raises(InternalError, match="a worker failed"):
        await ChildProcess(Servant(), role).call_and_end("fault")

    assert (logs[0]["event"], "KeyError" in logs[0]["exception"]) == ("a worker failed", True)
    assert capfd.readouterr().err == ""


async def test_a_process_that_does_not_answer_is_replaced() -> None:
    process = ChildProcess(Servant(), timeout_s=2.0)
    stuck = await process.call("pid")
    with pytest.raises(Unavailable, match="did not answer"):
        await process.call("wait", 3600)

    assert not is_there(stuck)
    assert await process.call("pid") != stuck
    await process.close()


async def test_a_cancelled_caller_takes_nobody_elses_answer_away(tmp_path: Path, process: ChildProcess) -> None:
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


async def test_who_is_cancelled_while_it_starts_leaves_no_second_process(process: ChildProcess) -> None:
    task = asyncio.create_task(process.call("pid"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = await process.call("pid")

    await process.close()
    assert await becomes(lambda: not is_there(pid))


async def test_signals_that_end_a_server_do_not_end_it(process: ChildProcess) -> None:
    pid = await process.call("pid")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)

    assert await process.call("pid") == pid


async def test_close_ends_it(process: ChildProcess) -> None:
    pid = await process.call("pid")
    await process.close()

    assert process.pid is None
    assert not is_there(pid)


async def test_it_dumps_no_core(process: ChildProcess) -> None:
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
from precipiq_work.child_process import ChildProcess
from tests.core.servants import Servant

async def main():
    process = ChildProcess(Servant())
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


async def test_calls_of_organisations_take_turns_and_those_that_were_cancelled_are_never_sent(
    tmp_path: Path, process: ChildProcess
) -> None:
    crowded, other = Chain("org_a", "live"), Chain("org_b", "live")
    go = tmp_path / "go"
    first = asyncio.create_task(process.call("wait_for", str(go), "", chain=crowded))
    crowd = [asyncio.create_task(process.call("hear", number, chain=crowded)) for number in range(50)]
    await asyncio.sleep(0)
    one = asyncio.create_task(process.call("hear", "other", chain=other))
    await asyncio.sleep(0)
    for task in crowd[5:]:
        task.cancel()
    go.touch()
    await asyncio.gather(first, one, *crowd, return_exceptions=True)

    assert await process.call("hear", "end") == (0, "other", 1, 2, 3, 4, "end")
    assert len([task for task in crowd if task.cancelled()]) == 45


async def test_calls_that_wait_are_bounded_and_closing_answers_them(tmp_path: Path) -> None:
    process = ChildProcess(Servant(), waiting_max=3)
    go = tmp_path / "go"
    first = asyncio.create_task(process.call("wait_for", str(go), "first"))
    waiting = [asyncio.create_task(process.call("hear", number)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many calls of a process that holds secrets"):
        await process.call("hear", "one more")
    waiting.pop().cancel()
    await asyncio.sleep(0)
    closing = asyncio.create_task(process.close())
    go.touch()
    assert await asyncio.gather(first, *waiting) == ["first", (0,), (0, 1)]
    await closing
    assert process.pid is None
