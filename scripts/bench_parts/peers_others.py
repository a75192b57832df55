"""Durable appends to other libraries, in the environment that has them; a task on standard input, rates on standard output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

BATCH = 100
AT_ONCE = 32
TASK = json.load(sys.stdin) if __name__ == "__main__" else {"record": "", "folder": "", "seconds": 0}
RECORD = TASK["record"].encode()
FOLDER = Path(TASK["folder"])
SECONDS = float(TASK["seconds"])


def rate(append: Callable[[], object], each: int = 1) -> float:
    count, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < SECONDS:
        append()
        count += each
    return count / (time.perf_counter() - began_s)


def witness_log() -> dict[str, float]:
    import witness_log

    log = witness_log.open(str(FOLDER / "witness"))

    def append(count: int) -> None:
        for _ in range(count):
            log.append_result(RECORD)
        log.sync()

    return {"one in flight": rate(lambda: append(1)), f"batches of {BATCH}": rate(lambda: append(BATCH), BATCH)}


def eventsourcing() -> dict[str, float]:
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(FOLDER / "events.db")))
    recorder.create_table()

    def append(count: int) -> None:
        recorder.insert_events([StoredEvent(uuid.uuid4(), 1, "Decision", RECORD) for _ in range(count)])

    return {"one in flight": rate(lambda: append(1)), f"batches of {BATCH}": rate(lambda: append(BATCH), BATCH)}


def pymerkle() -> dict[str, float]:
    from pymerkle import SqliteTree

    tree = SqliteTree(str(FOLDER / "merkle.db"))
    return {
        "one in flight": rate(lambda: tree.append_entry(RECORD)),
        f"batches of {BATCH}": rate(lambda: tree.append_entries([RECORD] * BATCH), BATCH),
    }


def umadb() -> dict[str, float]:
    import umadb

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("umadb"), "--listen", f"127.0.0.1:{port}", "--db-path", FOLDER / "uma.db"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = connected(port)
        count = [0] * AT_ONCE

        def append(number: int, at: umadb.Client = client) -> None:
            at.append([umadb.Event("Decision", RECORD, tags=["agent-1"]) for _ in range(number)])

        def work(place: int, until_s: float) -> None:
            own = connected(port)
            while time.perf_counter() < until_s:
                append(1, own)
                count[place] += 1

        found = {"one in flight": rate(lambda: append(1))}
        workers = [threading.Thread(target=work, args=(n, time.perf_counter() + SECONDS)) for n in range(AT_ONCE)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found[f"{AT_ONCE} in flight"] = sum(count) / SECONDS
        return found | {f"batches of {BATCH}": rate(lambda: append(BATCH), BATCH)}
    finally:
        server.terminate()
        server.wait()


def connected(port: int) -> object:
    import umadb

    until_s = time.perf_counter() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return umadb.Client(f"http://127.0.0.1:{port}")
        except OSError:
            if time.perf_counter() > until_s:
                raise
            time.sleep(0.05)


def main() -> None:
    os.makedirs(FOLDER, exist_ok=True)
    told = os.dup(1)
    os.dup2(2, 1)  # what the libraries print is no answer
    found = {measure.__name__: measure() for measure in (witness_log, eventsourcing, pymerkle, umadb)}
    os.write(told, json.dumps(found).encode())


if __name__ == "__main__":
    main()
