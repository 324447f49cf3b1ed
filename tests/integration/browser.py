"""Headless Chromium, driven through its DevTools protocol over a pipe: no further package.

    with Browser() as browser:
        browser.open(path)
        browser.evaluate("document.title")

Not for: pages of the web: whatever a page asks the network for is written down, in `requests`.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    # WebGL without a graphics card.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


class Browser:
    """One tab.

    Attributes:
        errors: what went wrong in the page: exceptions, and errors on the console.
        requests: addresses that were asked for, the page's own file and data URLs left out.
    """

    def __init__(self):
        self.errors, self.requests = [], []
        self._number, self._events, self._left = 0, [], b""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        from_us, self._to = os.pipe()
        self._from, to_us = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", shell, "chromium", PROGRAM, *OPTIONS),
                *(f"--user-data-dir={self._folder.name}", "about:blank"),
            ],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._session = None
        (target,) = [
            t
            for t in self.call("Target.getTargets")["targetInfos"]
            if t["type"] == "page" and t["url"] == "about:blank"
        ]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=60)
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method, **parameters):
        """The answer to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]

    def _read(self):
        while b"\0" not in self._left:
            got = os.read(self._from, 1 << 20)
            assert got, "Chromium has gone"
            self._left += got
        one, self._left = self._left.split(b"\0", 1)
        said = json.loads(one)
        self._note(said.get("method"), said.get("params", {}))
        return said

    def _note(self, event, said):
        match event:
            case "Runtime.exceptionThrown":
                self.errors.append(said["exceptionDetails"].get("exception", said))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "assert"):
                self.errors.append([each.get("value") for each in said["args"]])
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.errors.append(said["entry"]["text"])
            case "Network.requestWillBeSent":
                address = said["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:", "about:")):
                    self.requests.append(address)

    def open(self, path):
        """Open a file and wait until it is loaded."""
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def evaluate(self, expression):
        """The value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression, seconds=120):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.1)

    def screen(self, width, height, *, dark=False, phone=False):
        """Size of the screen, and what the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def scroll_through(self):
        """Bring everything into sight once: figures are drawn when they are."""
        for place in self.evaluate(
            "[...document.querySelectorAll('.plot, #view')].map((p) => p.id)"
        ):
            plot = f"document.getElementById({place!r})"
            self.evaluate(f"{plot}.scrollIntoView()")
            self.until(f"{plot}.matches('.js-plotly-plot, :has(canvas)')")
        self.evaluate("scrollTo(0, 0)")

    def move(self, x, y, *, kind="mouseMoved", **more):
        """The mouse, at a place on the screen."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key):
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, *, clip=None, kind="png"):
        """The screen, or a part of the page, as an image."""
        options = {"clip": clip | {"scale": 1}, "captureBeyondViewport": True} if clip else {}
        answer = self.call("Page.captureScreenshot", format=kind, **options)
        return base64.b64decode(answer["data"])

    def pdf(self):
        """The page as it is printed, A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])
