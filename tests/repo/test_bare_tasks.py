"""Who may start a bare task: no part of core and no plugin, but for those listed here with the reason.

A bare task that outlives a request dies in silence. What goes on in the background is ``Background``'s.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTERS = {"create_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe"}

REASONS = {
    "core/precipiq_core/background.py": "the owner of all others",
    "plugins/postgres/precipiq_postgres/service.py": "a statement, run to its end; who asked waits for it",
    "plugins/sqlite/precipiq_sqlite/plain_reads.py": "a read, run to its end; who asked waits for it",
    "core/precipiq_core/http/answers.py": "lives as long as its request",
    "plugins/ledger/precipiq_ledger/late_answer.py": "lives as long as its request",
    "core/precipiq_work/child_process.py": "a call, run to its end; who asked waits for it",
    "plugins/hypercorn/precipiq_hypercorn/acceptor.py": "live as long as their connection; the stop waits for them",
    "plugins/hypercorn/precipiq_hypercorn/connections.py": "Hypercorn's: live as long as their connection",
    "plugins/hypercorn/precipiq_hypercorn/drain.py": "closes sockets while the server stops, and is waited for",
    "plugins/hypercorn/precipiq_hypercorn/protocols.py": "gives Hypercorn the cured task group",
    "plugins/hypercorn/precipiq_hypercorn/supervisor.py": "keeps workers; their parent waits for them",
    "plugins/hypercorn/precipiq_http1/protocol.py": "tasks of a request, in the group of its connection",
    "plugins/hypercorn/precipiq_peers/unread_body.py": "lives as long as its request",
    "plugins/bundles_s3/precipiq_bundles_s3/service.py": "an upload, run to its end; who asked waits for it",
    "plugins/exports/precipiq_exports/commands.py": "lives as long as its command",
    "plugins/exports/precipiq_exports/leases.py": "the work that a lease is held for; who holds it waits for both",
    "plugins/exports/precipiq_exports/local_bundles.py": "a file, stored to its end; who asked waits for it",
    "plugins/exports/precipiq_exports/runner.py": "one export: its failure is its result, and its lease ends with it",
    "plugins/postgres/precipiq_postgres/entries/append.py": "the appends that wait for one chain, who hear of all",
    "plugins/postgres/precipiq_postgres/entries/audit.py": "a read in a thread of its own; who asked waits for it",
    "plugins/ledger/precipiq_ledger/follower_runner.py": "one chain: its failures are told, and the stop waits for it",
    "plugins/outcomes/precipiq_outcomes/projection.py": "one page of a chain; who takes the chain in waits for it",
    "plugins/ledger/precipiq_ledger/verifier.py": "live as long as their verification",
    "plugins/ws_stream/precipiq_ws_stream/feed.py": "lives as long as a chain is streamed, and goes on after faults",
    "plugins/ws_stream/precipiq_ws_stream/replays.py": "one page; all who asked for it wait",
    "plugins/ws_stream/precipiq_ws_stream/subscription.py": "live as long as their stream, which a fault ends",
}


def starters(source: str) -> Iterator[str]:
    """The names in that module that start a task."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in STARTERS:
                yield name


def test_bare_tasks_are_started_where_there_is_a_reason_and_nowhere_else() -> None:
    files = [path for folder in ("core", "plugins") for path in ROOT.glob(f"{folder}/**/precipiq_*/**/*.py")]
    assert len(files) > 100
    found = {path.relative_to(ROOT).as_posix() for path in files if any(starters(path.read_text(encoding="utf-8")))}
    assert found - REASONS.keys() == set(), "use the capability Background"
    assert REASONS.keys() - found == set(), "they start none any more"


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.create_task(x())",
        "asyncio.get_running_loop().create_task(x())",
        "from asyncio import ensure_future as later",
        "async def f():\n    async with asyncio.TaskGroup() as group:\n        pass",
    ],
)
def test_every_way_to_start_one_is_seen(source: str) -> None:
    assert list(starters(source))
