"""Memory under load: appends as fast as they go, 500 subscribers, and stuck readers that come back all the time.

``BENCH_SOAK_SECONDS`` (600): how long. Subscribers fall behind, far out of what the server keeps in memory, and catch
up from the ledger; appends wait only when the slowest is 20,000 entries behind. Nobody may lose an entry.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from stream import BATCH, SUBSCRIBERS, Writer, check, fresh_server, resident_bytes, stream_path

from precipiq_testkit.crowd import crowd

SECONDS = float(os.environ.get("BENCH_SOAK_SECONDS", "600"))
SAMPLES = 20
STUCK = 20
LAG_ENTRIES_MAX = 20_000


def main() -> None:
    with fresh_server() as server:
        writer = Writer(server)
        writer.append(BATCH)
        done = threading.Event()

        def be_stuck() -> None:
            while not done.is_set():
                with suppress(RuntimeError), crowd(server.url, stream_path(server), 0, stuck=STUCK):
                    done.wait(15)

        with crowd(server.url, stream_path(server), SUBSCRIBERS) as members:
            stuck = threading.Thread(target=be_stuck)
            stuck.start()
            appended = 0
            samples: list[float] = []
            began_s = time.perf_counter()
            while (elapsed_s := time.perf_counter() - began_s) < SECONDS:
                writer.append(BATCH)
                appended += BATCH
                members.wait_for(appended - LAG_ENTRIES_MAX)
                if elapsed_s >= SECONDS * len(samples) / SAMPLES:
                    samples.append(resident_bytes(server) / 1e6)
            done.set()
            stuck.join()
            caught_up_s = time.perf_counter()
            seen = members.finish(appended)
            caught_up_s = time.perf_counter() - caught_up_s
        check(seen)
    middle = len(samples) // 2
    print(f"{SECONDS:.0f} s of appends at full speed, {SUBSCRIBERS} subscribers, {STUCK} stuck ones every 15 s: "
          f"{appended / SECONDS:,.0f} entries/s, {seen['frames'] / (SECONDS + caught_up_s):,.0f} frames/s; "
          f"everybody had every entry {caught_up_s:.0f} s after the last append")  # fmt: skip
    print("  server memory, MB: " + " ".join(f"{sample:.0f}" for sample in samples))
    print(f"  second half against first: {sum(samples[middle:]) / sum(samples[:middle]):.2f}")


if __name__ == "__main__":
    main()
