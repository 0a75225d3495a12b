"""Chromium by its DevTools protocol, over a pair of pipes: no port, no driver, no further package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
SECONDS = 60.0


class Tab:
    """A page in a browser. `console`: what it was told of, errors of the page itself and of the network included."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._last, self._session = to, back, b"", 0, ""
        self.console: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """What the browser answers. Raises RuntimeError where it refuses, TimeoutError where it says nothing."""
        self._last += 1
        asked = {"id": self._last, "method": method, "params": given}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while (heard := self._heard()).get("id") != self._last:
            pass
        if "error" in heard:
            raise RuntimeError(f"{method}: {heard['error']}")
        return heard["result"]

    def show(self, address: str, width: int, *, dark: bool = False, media: str = "") -> None:
        """Loads an address in a window `width` CSS pixels wide, as it looks on a screen, or as `media` has it."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._heard()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, which a page's own policy does not forbid."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    def photograph(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """The page as a PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"])

    def _heard(self) -> dict[str, Any]:
        """The next message; what it says of the console and of loading is kept."""
        until = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            if not select.select([self._back], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {SECONDS:.0f} seconds")
            more = os.read(self._back, 1 << 20)
            if not more:
                raise RuntimeError("the browser ended")
            self._rest += more
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        told = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                self.console.append(f"{told['type']}: {[one.get('value') for one in told['args']]}")
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {told['exceptionDetails'].get('text')}")
            case "Log.entryAdded":
                self.console.append(f"{told['entry']['level']}: {told['entry']['text']}")
        return message


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, whose profile lies in `folder`; it ends with the block."""
    if BROWSER is None:
        raise RuntimeError("no Chromium on PATH")
    (browser_reads, to), (back, browser_writes) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (browser_reads, browser_writes)]

    def numbered() -> None:  # the protocol's numbers of the pipes are 3 and 4
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    with (folder / "browser.log").open("wb") as log:
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=log, close_fds=False, preexec_fn=numbered)
    for end in (browser_reads, browser_writes, *ends):
        os.close(end)
    try:
        yield Tab(to, back)
    finally:
        os.close(to)  # which ends it, with the processes that it started
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(back)
