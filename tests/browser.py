"""A browser for tests that look at pages: Chromium without a window."""

import base64
import contextlib
import fcntl
import glob
import itertools
import json
import os
import select
import shutil
import subprocess
import sys


def find_browser():
    """Return the path of Chromium or Chrome: CHROMIUM, on PATH, or as Playwright installs it."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    places = (
        "~/.cache/ms-playwright/chromium*/chrome*/chrome",
        "~/.cache/ms-playwright/chromium*/chrome*/*headless*shell",
        "~/Library/Caches/ms-playwright/chromium*/chrome*/*.app/Contents/MacOS/*",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    )
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    found += [path for place in places for path in sorted(glob.glob(os.path.expanduser(place)))]
    return next((path for path in found if path and runs(path)), None)


def runs(path):
    """Tell whether this is a browser and not, say, a script that asks to install one."""
    with contextlib.suppress(OSError):
        version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
        return version.returncode == 0 and "Chrom" in version.stdout
    return False


class Browser:
    """A page of a Chromium without a window, driven by its DevTools protocol through two pipes.

    https://chromedevtools.github.io/devtools-protocol/; messages are JSON and end with a zero byte.
    """

    def __init__(self, path, folder):
        pipes = [os.pipe(), os.pipe()]
        # Chromium reads from file descriptor 3 and writes to 4, which may have other uses here.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (pipes[0][0], pipes[1][1])]
        start = "import os, sys; [os.dup2(int(sys.argv[i]), 2 + i) for i in (1, 2)]; "
        start += "os.execv(sys.argv[3], sys.argv[3:])"
        command = [
            *(sys.executable, "-ISc", start, *map(str, theirs), path),
            *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}"),
            *("--no-sandbox", "--no-first-run", "--window-size=1200,900", "--hide-scrollbars"),
            *("--disable-gpu", "--enable-unsafe-swiftshader", "--mute-audio", "about:blank"),
        ]
        errors = (folder / "stderr.txt").open("w")
        self.process = subprocess.Popen(command, pass_fds=theirs, stderr=errors)
        errors.close()
        for fd in (*theirs, pipes[0][0], pipes[1][1]):
            os.close(fd)
        self.requests, self.answers, self.received = pipes[0][1], pipes[1][0], b""
        self.numbers, self.session = itertools.count(1), {}
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result; events are passed over."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters} | self.session
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        reply = {}
        while reply.get("id") != number:
            reply = self.receive()
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def receive(self):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.answers], [], [], 60)
            content = os.read(self.answers, 1 << 16) if ready else b""
            assert content, f"the browser {'has ended' if ready else 'does not answer'}"
            self.received += content
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.call("Page.navigate", url="about:blank")  # a new "#..." alone would load nothing
        self.call("Page.navigate", url=address)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def evaluate_elements(self, expression):
        """Evaluate with `e`, a list of all elements, also those in shadow roots and frames."""
        elements = """(function all(node) {
          const inner = [...node.querySelectorAll('*')];
          return inner.concat(...inner.map(
            (e) => [e.shadowRoot, e.contentDocument].filter(Boolean).flatMap(all)));
        })(document)"""
        return self.evaluate(f"((e) => {expression})({elements})")

    def text(self):
        """Return all that the page says, a line for each text."""
        return self.evaluate_elements(
            "e.filter((x) => !['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(x.tagName))"
            ".flatMap((x) => [...x.childNodes].filter((n) => n.nodeType == 3))"
            ".map((n) => n.data.trim()).filter(Boolean).join('\\n')"
        )

    def resize(self, width, height=900, dark=False):
        """Make the window so many pixels wide and high, as of a screen or a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        os.close(self.requests)
        os.close(self.answers)
