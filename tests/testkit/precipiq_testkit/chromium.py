"""A real Chromium without a screen, steered over a pipe: open pages, evaluate JavaScript in them.

The browser is the one that ``PRECIPIQ_CHROMIUM`` names (``none``: tests that need one are skipped), else the first of
chromium, chromium-browser and google-chrome on the path. Where there is none, and we are root on a machine with
apt-get, it is installed. It reaches loopback and nothing else. Needs the standard library and pytest only.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

INSTALL_TIMEOUT_S = 600.0
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser: install chromium (apt-get install chromium), or name one in PRECIPIQ_CHROMIUM; sought: {NAMES}"

_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-proxy-server",
    "--password-store=basic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

# Chromium reads commands from descriptor 3 and answers on 4. What lies between has no other way to put them there:
# `preexec_fn` is not safe beside threads.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
    os.close(end)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium_binary() -> str | None:
    """The browser that tests start, if this machine has one; installs nothing."""
    chosen = os.environ.get("PRECIPIQ_CHROMIUM")
    if chosen == "none":
        return None
    return chosen or next(filter(None, map(shutil.which, NAMES)), None)


@cache
def require_chromium() -> str:
    """The browser, installed if need be. Skips the test where that cannot be done."""
    found = chromium_binary()
    if found is not None:
        return found
    if os.environ.get("PRECIPIQ_CHROMIUM") == "none" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(MISSING)
    with (Path(tempfile.gettempdir()) / "precipiq-chromium.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reason = None if chromium_binary() else _install()
    return chromium_binary() or pytest.skip(f"{MISSING}; installing it failed: {reason}")


def _install() -> str | None:
    """Why it could not be installed."""
    deadline = time.monotonic() + INSTALL_TIMEOUT_S
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends", "chromium")
    for arguments in (("update",), install):
        try:
            done = subprocess.run(
                ["apt-get", "-q", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            return f"apt-get {arguments[0]} took too long"
        if done.returncode != 0:
            return f"apt-get: {(done.stderr.strip() or done.stdout.strip())[-400:]}"
    return None


class Browser:
    """One browser process with a fresh profile."""

    def __init__(self, binary: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "chromium.log"
        self._buffer = b""
        self._last_id = 0
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        own = [f"--user-data-dir={folder / 'profile'}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        launch = [sys.executable, "-c", _LAUNCH, str(commands), str(answers)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*launch, binary, *_FLAGS, *own, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(folder)},
                pass_fds=(commands, answers),
                start_new_session=True,
            )
        os.close(commands)
        os.close(answers)
        self.version = str(self.call("Browser.getVersion", timeout_s=START_TIMEOUT_S)["product"])

    def open(self, url: str) -> Page:
        """A new tab at that address, once its document is there."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, str(target), str(session))
        page.go(url)
        return page

    def call(
        self,
        method: str,
        parameters: Mapping[str, object] | None = None,
        *,
        session: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """One command of the Chrome DevTools Protocol; its result. Raises ``RuntimeError`` and ``TimeoutError``."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters or {}}
        if session is not None:
            command["sessionId"] = session
        deadline = time.monotonic() + timeout_s
        with suppress(BrokenPipeError):  # the answer that does not come says so, with the log
            os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message(deadline)
            if message.get("id") == self._last_id:
                break
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def close(self) -> None:
        """End it, politely first."""
        if self._process.poll() is None:
            with suppress(RuntimeError, TimeoutError):
                self.call("Browser.close", timeout_s=STOP_TIMEOUT_S)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its helpers; the group is its own
        self._process.wait(STOP_TIMEOUT_S)
        os.close(self._commands)
        os.close(self._answers)

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message: an answer or an event."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium does not answer:\n{self._log.read_text(errors='replace')[-2000:]}")
            piece = os.read(self._answers, 1 << 20)
            if not piece:
                raise RuntimeError(f"Chromium ended:\n{self._log.read_text(errors='replace')[-2000:]}")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


class Page:
    """One tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def go(self, url: str) -> None:
        """Load an address and wait for its document. Raises ``RuntimeError`` when it cannot be loaded."""
        error = self._browser.call("Page.navigate", {"url": url}, session=self._session).get("errorText")
        if error:
            raise RuntimeError(f"{url}: {error}")
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """A JavaScript expression's value, as JSON; promises are awaited. Raises ``RuntimeError`` when it throws."""
        answer = self._browser.call(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
            session=self._session,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The first true value of an expression. Raises ``TimeoutError`` with the page's text."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = self.evaluate(expression)
            if value:
                return value
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body ? document.body.innerText : ''")
                raise TimeoutError(f"{expression} stays {value!r}; the page shows:\n{shown[-2000:]}")
            time.sleep(0.05)

    def close(self) -> None:
        """Close the tab, and with it its connections."""
        self._browser.call("Target.closeTarget", {"targetId": self._target})


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """A browser that is gone afterwards, whatever happened. Skips the test where there is none."""
    browser = Browser(require_chromium(), folder)
    try:
        yield browser
    finally:
        browser.close()
