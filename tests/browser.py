"""A page in a real browser: Debian's chromium without a window, driven through a pipe by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/; with --remote-debugging-pipe chromium reads messages from file
descriptor 3 and writes to 4, each a JSON object that ends with a zero byte.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = shutil.which("chromium")
SECONDS = 60.0  # for an answer: the machine may be busy
KEYS = {  # key: its Windows virtual key code, which the protocol asks for
    "Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One tab of the browser. `complaints` are its errors: of scripts, of the console, of the security policy."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from, self._buffer = to_browser, from_browser, b""
        self._number, self._session = 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []  # addresses that it asked for, data: URIs aside
        self._loaded, self._scripts = False, True
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **parameters) -> dict:
        """Call a method and return its result; events that come before it are taken in."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while (answer := self._read()).get("id") != self._number:
            self._take(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _read(self) -> dict:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _take(self, message: dict) -> None:
        """Take in an event."""
        method, facts = message.get("method", ""), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(facts["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(facts["entry"]["text"])
        elif method == "Audits.issueAdded":
            self.complaints.append(str(facts["issue"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {facts['message']}")
        elif method == "Network.requestWillBeSent" and not facts["request"]["url"].startswith("data:"):
            self.requests.append(facts["request"]["url"])

    def open(self, path: Path) -> "Page":
        """Load a file, and wait until all of it is there."""
        self._loaded = False
        found = self._ask("Page.navigate", url=path.absolute().as_uri())
        assert "errorText" not in found, found
        deadline = time.monotonic() + SECONDS
        while not self._loaded:
            self._take(self._read())
            assert time.monotonic() < deadline, "the page does not load"
        if self._scripts:  # then until it is drawn
            self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self

    def run(self, expression: str):
        """The value of an expression in the page, JSON-able; a promise's once it is fulfilled."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of KEYS, as a person at the keyboard does."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        for _ in range(times):
            self._ask("Input.dispatchKeyEvent", type="rawKeyDown", **common)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with a finger or the mouse between two points, in CSS pixels of the window."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        """The size of the window in CSS pixels; `mobile`: as a telephone lays pages out."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def colours(self, scheme: str) -> None:
        """`light` or `dark`."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def scripts(self, allowed: bool) -> None:
        """Whether pages that are loaded from now on may run scripts."""
        self._ask("Emulation.setScriptExecutionDisabled", value=not allowed)
        self._scripts = allowed

    def screenshot(self, path: Path, whole: bool = True) -> bytes:
        """A PNG of the page; of all of it, or of what the window shows."""
        data = base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
        path.write_bytes(data)
        return data


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with one tab; `profile` is a folder for its files, outside of which it writes nothing."""
    assert CHROMIUM is not None
    its_input, to_browser = os.pipe()
    from_browser, its_output = os.pipe()
    environment = {**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)}
    with (profile / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            # The pipes' ends get the numbers that chromium looks for; dash takes no numbers above 9.
            ["bash", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "bash", CHROMIUM, *FLAGS,
             f"--user-data-dir={profile}"],
            pass_fds=(its_input, its_output), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    os.close(its_input)
    os.close(its_output)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)  # then chromium ends
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_browser)
