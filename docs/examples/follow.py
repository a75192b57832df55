"""Follow a chain: print each entry once, as a line of JSON, and go on where it was when started again.

    PRECIPIQ_KEY=pq_... python follow.py ws://127.0.0.1:8000/ws/v1/stream [position.json]

Needs the package ``websockets``. The file holds the last entry that was printed; each chain needs one of its own.
"""
# ruff: noqa: S311, T201

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

STOP = {4400, 4401, 4403, 4409, 4510, 4511}
RESUME_AT_ONCE = {4508}
PAUSE_S_MAX = 60.0

Position = dict[str, Any]
BEFORE_THE_FIRST: Position = {"seq": 0, "hash": "0" * 64}


def handle(frame: dict[str, Any]) -> None:
    """Your work. It may see an entry again when it is killed before the position is stored."""
    print(json.dumps(frame), flush=True)


def stored(file: Path) -> Position:
    """Where the last run stopped."""
    position: Position = json.loads(file.read_text()) if file.exists() else BEFORE_THE_FIRST
    return position


def store(file: Path, position: Position) -> None:
    """Replace the file in one step: after a crash it holds the position before or this one, nothing else."""
    new = file.with_name(file.name + ".new")
    with new.open("w") as output:
        json.dump(position, output)
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)


def next_position(position: Position, frame: dict[str, Any]) -> Position:
    """The position after a frame that follows the one before."""
    if frame["seq"] != position["seq"] + 1 or frame["prev_hash"] != position["hash"]:
        sys.exit(f"entry {frame['seq']} does not follow entry {position['seq']}: the chain is broken")
    return {"seq": frame["seq"], "hash": frame["hash"]}


async def follow(url: str, key: str, file: Path) -> None:
    """Until the server says that there is no use in going on."""
    position, failures = stored(file), 0
    while True:
        query = urlencode({"after_seq": position["seq"], "after_hash": position["hash"]})
        try:
            async with connect(
                f"{url}?{query}",
                additional_headers={"X-Precipiq-Key": key},
                subprotocols=["precipiq.v1"],  # type: ignore[list-item]
                max_size=None,
            ) as stream:
                while True:
                    frame = json.loads(await stream.recv())
                    if frame["id"] is not None:  # an entry, and no word about the stream itself
                        after = next_position(position, frame)
                        handle(frame)
                        store(file, after)
                        position = after
                    if frame["type"] != "connection.ready":
                        failures = 0
        except ConnectionClosed as error:
            code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "connection lost")
        except InvalidStatus as error:
            code, reason = 4000 + error.response.status_code, "refused before the upgrade"
        except (InvalidHandshake, OSError) as error:
            code, reason = 1006, str(error)
        if code in STOP:
            sys.exit(f"stopped: {code} {reason}")
        if code not in RESUME_AT_ONCE:
            failures += 1
            pause_s = random.uniform(0.5, 1.0) * min(PAUSE_S_MAX, 2.0 ** min(failures, 10))
            print(f"again in {pause_s:.1f} s: {code} {reason}", file=sys.stderr)
            await asyncio.sleep(pause_s)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], os.environ["PRECIPIQ_KEY"], Path(*sys.argv[2:3] or ["position.json"])))
