"""The program that follows a test's process: ``python -m precipiq_testkit.power_cut.follower PID FOLDER TARGET``.

It watches what the process writes and flushes in ``FOLDER``. It begins when a line comes on its standard input and says
``following`` when it sees every call; at the next line, at the very write that sends it, the power is cut: it lets the
process go, and makes the folder ``TARGET`` of what was on disk by then. When it may not follow, it says ``refused`` and
why.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from precipiq_testkit.power_cut.durable_files import DurableFiles
from precipiq_testkit.power_cut.tracing import Call, TracedProcess

_WRITES = frozenset(("write", "writev", "pwrite64", "pwritev", "pwritev2"))
_MS_SYNC = 4
_RWF_DSYNC_OR_SYNC = 2 | 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +(/.*)")


class Follower:
    """Reports each flush of one process to ``files``."""

    def __init__(self, process_id: int, files: DurableFiles) -> None:
        self._proc = Path(f"/proc/{process_id}")
        self._files = files
        self._commands = os.readlink("/proc/self/fd/0")

    def is_cut(self, call: Call) -> bool:
        """Look at a call; True when it is the write that cuts the power."""
        if call.result is None:
            return call.name == "write" and self._path(call.arguments[0]) == self._commands
        if call.result >= 0:
            self._look(call)
        return False

    def _look(self, call: Call) -> None:
        if call.name in ("sync", "syncfs"):
            self._files.flush_all()
        elif call.name == "msync":
            self._flush_mapped(*call.arguments[:3])
        elif self._files.holds(self._path(call.arguments[0])) and self._flushes(call):
            self._files.flush(self._proc / "fd" / str(call.arguments[0]))

    def _flushes(self, call: Call) -> bool:
        if call.name not in _WRITES:
            return True
        if call.name == "pwritev2" and call.arguments[5] & _RWF_DSYNC_OR_SYNC:
            return True
        information = (self._proc / "fdinfo" / str(call.arguments[0])).read_text()
        return bool(int(information.partition("flags:")[2].split()[0], 8) & os.O_DSYNC)

    def _flush_mapped(self, address: int, size: int, flags: int) -> None:
        if not flags & _MS_SYNC:
            return
        for line in (self._proc / "maps").read_text().splitlines():
            found = _MAPPING.fullmatch(line)
            if found is None or not self._files.holds(found[3]) or not Path(found[3]).exists():
                continue
            if int(found[1], 16) < address + size and address < int(found[2], 16):
                self._files.flush(Path(found[3]))

    def _path(self, descriptor: int) -> str:
        try:
            return os.readlink(self._proc / "fd" / str(descriptor))
        except OSError:
            return ""


def main(process_id: int, folder: Path, target: Path) -> None:
    """Follow until the power is cut, or the process ends."""
    sys.stdin.readline()
    with TemporaryDirectory() as copies:
        files = DurableFiles(folder, Path(copies))
        follower = Follower(process_id, files)
        try:
            process = TracedProcess(process_id)
        except OSError as error:
            print(f"refused: {error}", flush=True)
            return
        for call in process.calls():
            if call is None:
                print("following", flush=True)
            elif follower.is_cut(call):
                process.release()
                files.write_to(target)
                print("cut", flush=True)
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
