"""A verifying process: reads one pickled task from standard input, writes one JSON line per step, and a last result.

Ends when its standard input closes, so it never outlives the server that started it.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from dataclasses import asdict, dataclass

import orjson

from precipiq_chain.verify import Anchor, Stretch, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.ledger import ChainBreak


@dataclass(frozen=True, slots=True)
class Task:
    """One stretch of one chain."""

    auditor: EntryAuditor
    chain: Chain
    after: Anchor
    through_seq: int | None
    batch_entries: int


def decode_result(line: dict[str, object]) -> Stretch:
    """A stretch from the worker's last line."""
    last, broken = line["last"], line["broken"]
    assert isinstance(last, dict)
    assert isinstance(line["checked_count"], int)
    return Stretch(line["checked_count"], Anchor(**last), ChainBreak(**broken) if isinstance(broken, dict) else None)


def _exit_when_orphaned() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Run the task on standard input."""
    task: Task = pickle.load(sys.stdin.buffer)  # noqa: S301  (from the parent process, over a pipe)
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()
    out = sys.stdout.buffer

    def progress(count: int) -> None:
        out.write(b'{"checked":%d}\n' % count)
        out.flush()

    stretch = verify_stretch(
        task.auditor, task.chain, task.after, task.through_seq, batch_entries=task.batch_entries, progress=progress
    )
    out.write(orjson.dumps({"result": asdict(stretch)}) + b"\n")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
