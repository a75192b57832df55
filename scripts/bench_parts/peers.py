"""Durable appends of the same bytes: the ledger in process beside a plain write and fsync, and beside other libraries.

The others (``peers.in``) are installed into ``.venv-peers`` by their lock, and measured by ``peers_others.py`` there. Each
stores a record of one decision and syncs before it answers: one in flight, 32 in flight, and batches of 100. They prove
different things, so this is a comparison of costs alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
from chain import assembled
from http_append import HERE, ROUNDS, SECONDS, decision

from precipiq_contracts.chain import Chain, Draft
from precipiq_core.running import run_lifespans
from precipiq_ledger.models import DecisionIn
from precipiq_ledger.routes import decision_draft
from precipiq_ledger.service import LedgerService
from precipiq_testkit.server import ServerProcess

ENVIRONMENT = HERE.parents[1] / ".venv-peers"
AT_ONCE = 32
BATCH = 100


def environment() -> Path:
    """The Python that has the others."""
    python, lock = ENVIRONMENT / "bin/python", HERE / "peers.lock"
    stamp = ENVIRONMENT / "installed.lock"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            lock,
        ]
        subprocess.run(install, check=True)
        stamp.write_text(lock.read_text())
    return python


def synced_writes_per_s(folder: Path, record: bytes) -> float:
    """The limit: the same bytes at the end of a file, each synced."""
    file = os.open(folder / "plain", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    count, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < SECONDS:
        os.write(file, record)
        os.fsync(file)
        count += 1
    elapsed_s = time.perf_counter() - began_s
    os.close(file)
    return count / elapsed_s


async def rate(append: Callable[[], Awaitable[object]], at_once: int = 1, each: int = 1) -> float:
    """Records a second, with so many calls in flight."""
    count, began_s = 0, time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - began_s < SECONDS:
            await append()
            count += each

    await asyncio.gather(*(work() for _ in range(at_once)))
    return count / (time.perf_counter() - began_s)


async def ours(server: ServerProcess, drafts: list[Draft]) -> dict[str, float]:
    assembly, chain = assembled(server), Chain(server.org_id, "test")
    async with run_lifespans(assembly):
        service = assembly.services.get(LedgerService)
        return {
            "one in flight": await rate(lambda: service.append(chain, drafts[:1])),
            f"{AT_ONCE} in flight": await rate(lambda: service.append(chain, drafts[:1]), AT_ONCE),
            f"batches of {BATCH}": await rate(lambda: service.append(chain, drafts), each=BATCH),
        }


def main() -> None:
    python = environment()
    record = orjson.dumps(decision(1), option=orjson.OPT_SORT_KEYS)
    drafts = [decision_draft(DecisionIn.model_validate(decision(number)), "key_bench") for number in range(BATCH)]
    rates: dict[str, dict[str, list[float]]] = {}

    def note(name: str, found: dict[str, float]) -> None:
        for what, value in found.items():
            rates.setdefault(name, {}).setdefault(what, []).append(value)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(folder / "server").start()
        server.stop()
        for number in range(ROUNDS):
            note("write and fsync", {"one in flight": synced_writes_per_s(folder, record)})
            note("this ledger", asyncio.run(ours(server, drafts)))
            task = {"record": record.decode(), "folder": str(folder / f"others{number}"), "seconds": SECONDS}
            done = subprocess.run(
                [python, HERE / "peers_others.py"], input=json.dumps(task), capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                sys.exit(done.stderr)
            for other, found in json.loads(done.stdout).items():
                note(other, found)
    print("durable appends of one decision, records/s, medians:")
    for name, found in rates.items():
        print(f"  {name}: " + "; ".join(f"{what} {statistics.median(values):,.0f}" for what, values in found.items()))
    one = [statistics.median(rates[name]["one in flight"]) for name in ("this ledger", "write and fsync")]
    print(f"  one append in flight, in process / write and fsync of the same bytes: {one[0] / one[1]:.2f} (aim 0.50)")


if __name__ == "__main__":
    main()
