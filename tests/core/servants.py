"""What the tests of ``child_process`` have it serve: imported by the child, so nothing here needs pytest."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence

from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable, ValidationFailed, VaultRefused

SECRET = "correct horse battery staple"
PR_GET_DUMPABLE = 3


class Servant:
    """Remembers what it was told, and fails in every way that it is asked to."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def hear(self, word: object) -> Sequence[object]:
        self.heard.append(word)
        return tuple(self.heard)

    def echo(self, word: object) -> object:
        return word

    def pid(self) -> int:
        return os.getpid()

    def dumpable(self) -> int:
        return ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)  # type: ignore[no-any-return]

    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return f"waited {seconds}"

    def wait_for(self, path: str, then: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return then

    def converse(self, ask: Callable[[int], int], tell: Callable[[int], None]) -> int:
        total = 0
        for number in range(5):
            tell(number)
            total += ask(number)
        return total

    def chatter(self) -> str:
        print("printed", flush=True)
        os.write(1, b"written")
        return "said"

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        raise SystemExit(0)

    def too_much(self) -> bytes:
        return bytes(2 * 1024 * 1024)

    def no_pickle(self) -> object:
        return lambda: SECRET

    def refuse(self) -> None:
        raise VaultRefused("altered")

    def be_away(self) -> None:
        raise Unavailable("away", retry_after_s=7.0)

    def misconfigured(self) -> None:
        raise DeploymentError(["no file a", "no file b"])

    def fault(self) -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error

    def fault_on_purpose(self) -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise InternalError("cannot") from error


class Unloadable:
    """Pickles, and cannot be taken out again."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _fail, (SECRET,)


class DiesWhenTaken:
    """Kills the first process that takes it out, and serves in the next."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, str]) -> None:
        vars(self).update(state)
        if not os.path.exists(self.mark):
            with open(self.mark, "w"):
                os.kill(os.getpid(), signal.SIGKILL)

    def pid(self) -> int:
        return os.getpid()


def _fail(text: str) -> None:
    raise RuntimeError(text)


class OddlyMadeError(ValidationFailed):
    """An error that cannot be made from its pickled form."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Thrower:
    """Raises it."""

    def throw(self) -> None:
        raise OddlyMadeError("made", "of two")

    def add(self, one: int, two: int) -> int:
        return one + two
