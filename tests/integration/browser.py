"""A real browser without a network, spoken to over a pipe in its own protocol of debugging."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
DEADLINE_S = 60.0


def chromium() -> str:
    """The command; the test that asks is skipped where there is none, but fails in CI."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        message = "there is no Chromium; install it, with apt-get install chromium for example"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


@contextmanager
def opened(page: Path, profile: Path) -> Iterator["Tab"]:
    """The page in a browser that cannot reach any network; `profile` is an empty directory."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    command = [chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    # The protocol is on file descriptors 3 and 4, which only a shell gives without more ado.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "browser", *command],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        tab = Tab(from_us, to_us)
        tab.open(page)
        yield tab
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        os.close(from_us)
        os.close(to_us)


class Tab:
    """One page: evaluates JavaScript in it, and knows what it complained of."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to = write_to
        self._read_from = read_from
        self._received = b""
        self._num_calls = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors, warnings and whatever else was written to the console."""
        self.requests: list[str] = []

    def open(self, page: Path) -> None:
        """Goes to the page, and waits until it is loaded."""
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def evaluate(self, script: str) -> Any:
        """The value of an expression, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until the expression is true; fails after the deadline."""
        end = time.monotonic() + DEADLINE_S
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        self._num_calls += 1
        message = {"id": self._num_calls, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write_to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + DEADLINE_S
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._num_calls:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read_from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read_from, 1 << 20)
            assert part, "the browser has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, details = event["method"], event["params"]
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(details))
        if method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
