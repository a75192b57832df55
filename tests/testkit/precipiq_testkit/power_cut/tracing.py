"""ptrace(2) through ctypes: stop another process's threads at each system call. Knows nothing of files.

Linux 5.3 or later, x86_64 or aarch64. An ordinary user may trace a process of the same user that allows it
(``PR_SET_PTRACER`` where Yama is on). When the tracer ends, however it ends, the kernel lets the threads go on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_SYSCALL, _DETACH = 24, 17
_SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 0x4206, 0x4207, 0x420E
_TRACE_SYSGOOD, _TRACE_CLONE = 1, 1 << 3
_ALL_CHILDREN = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_INFO_BYTES = 88
_ENTRY, _EXIT = 1, 2

CALLS = {
    0xC000003E: {  # x86_64
        1: "write",
        18: "pwrite64",
        20: "writev",
        26: "msync",
        74: "fsync",
        75: "fdatasync",
        162: "sync",
        296: "pwritev",
        306: "syncfs",
        328: "pwritev2",
    },
    0xC00000B7: {  # aarch64
        64: "write",
        66: "writev",
        68: "pwrite64",
        70: "pwritev",
        81: "sync",
        82: "fsync",
        83: "fdatasync",
        227: "msync",
        267: "syncfs",
        287: "pwritev2",
    },
}
"""The calls that are told of: what writes and what flushes, by the kernel's name of the architecture."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call of ``CALLS``. ``result``: None before the call, then what it gave (negative: an error)."""

    name: str
    arguments: tuple[int, ...]
    result: int | None


def _ptrace(request: int, thread: int, data: object = None, address: int = 0) -> int:
    done: int = _libc.ptrace(request, thread, address, data)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return done


class TracedProcess:
    """Every thread of a process, from now on. Raises ``OSError`` when it may not be traced."""

    def __init__(self, process_id: int) -> None:
        if os.uname().machine not in ("x86_64", "aarch64"):
            raise OSError(f"the system calls of {os.uname().machine} are not known")
        self._process_id = process_id
        self._stopped = 0
        self._threads: set[int] = set()
        self._entered: dict[int, Call] = {}
        while new := self._find_untraced():
            for thread in new:
                self._threads.add(thread)
                with suppress(ProcessLookupError):
                    _ptrace(_SEIZE, thread, _TRACE_SYSGOOD | _TRACE_CLONE)
        for thread in self._threads:
            with suppress(ProcessLookupError):
                _ptrace(_INTERRUPT, thread)

    def _find_untraced(self) -> set[int]:
        """Those that began meanwhile are traced already, when a traced thread started them."""
        threads = {int(name) for name in os.listdir(f"/proc/{self._process_id}/task")} - self._threads
        return {thread for thread in threads if self._tracer_of(thread) != os.getpid()}

    def _tracer_of(self, thread: int) -> int:
        with suppress(OSError), open(f"/proc/{self._process_id}/task/{thread}/status") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("TracerPid:")), 0)
        return os.getpid()  # it has ended

    def calls(self) -> Iterator[Call | None]:
        """The calls as they happen; each thread stands still while its call is looked at.

        None: every thread that was there at the start is followed from now on. Ends with the process.
        """
        awaited = set(self._threads)
        while True:
            try:
                thread, status = os.waitpid(-1, _ALL_CHILDREN)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                self._threads.discard(thread)
            else:
                self._threads.add(thread)
                deliver = 0
                if os.WSTOPSIG(status) == _SYSCALL_STOP:
                    call = self._call(thread)
                    if call is not None:
                        self._stopped = thread
                        yield call
                elif status >> 16 == 0:
                    deliver = os.WSTOPSIG(status)
                self._go_on(thread, _SYSCALL, deliver)
            if awaited and not (awaited := (awaited - {thread}) & self._threads):
                yield None

    def _call(self, thread: int) -> Call | None:
        info = ctypes.create_string_buffer(_INFO_BYTES)
        with suppress(ProcessLookupError):
            _ptrace(_GET_SYSCALL_INFO, thread, ctypes.addressof(info), _INFO_BYTES)
        kind, architecture = struct.unpack_from("=B3xI", info)
        if kind == _ENTRY:
            number, *arguments = struct.unpack_from("=Q6Q", info, 24)
            name = CALLS.get(architecture, {}).get(number)
            if name is None:
                return None
            self._entered[thread] = Call(name, tuple(arguments), None)
            return self._entered[thread]
        entered = self._entered.pop(thread, None)
        if kind != _EXIT or entered is None:
            return None
        return Call(entered.name, entered.arguments, struct.unpack_from("=q", info, 24)[0])

    def release(self) -> None:
        """Let every thread go, while one of them stands at a call that :meth:`calls` gave last."""
        running = self._threads - {self._stopped}
        self._go_on(self._stopped, _DETACH)
        for thread in running:
            with suppress(ProcessLookupError):
                _ptrace(_INTERRUPT, thread)
        while running:
            thread, status = os.waitpid(-1, _ALL_CHILDREN)
            if os.WIFSTOPPED(status):
                is_signal = status >> 16 == 0 and os.WSTOPSIG(status) != _SYSCALL_STOP
                self._go_on(thread, _DETACH, os.WSTOPSIG(status) if is_signal else 0)
            running.discard(thread)

    def _go_on(self, thread: int, request: int, deliver: int = 0) -> None:
        with suppress(ProcessLookupError):
            _ptrace(request, thread, deliver)
