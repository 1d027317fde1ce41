"""A headless Chromium for tests, by its DevTools protocol over a pipe. Needs no other package."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --force-prefers-reduced-motion
--remote-debugging-pipe""".split()
PATIENCE = 120  # seconds, for a machine with much else to do


def find_chromium():
    """The path of Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser; ``with Browser(path, profile_folder) as browser``."""

    def __init__(self, path, profile):
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
        read, self.requests, self.answers, write = ends

        def connect():  # the browser reads from descriptor 3 and writes to 4
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self.count, self.session, self.buffer = 0, None, b""

    def __enter__(self):
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.requests)
        os.close(self.answers)

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        while True:
            *whole, self.buffer = self.buffer.split(b"\0")
            for answer in map(json.loads, whole):
                if answer.get("id") == self.count:
                    assert "error" not in answer, answer
                    return answer["result"]
            ready, _, _ = select.select([self.answers], [], [], PATIENCE)
            assert ready, f"no answer to {method} within {PATIENCE} s"
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser has ended"
            self.buffer += part

    def open(self, path):
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression):
        """The value of a JavaScript expression, as JSON."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition):
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"not within {PATIENCE} s: {condition}"
            time.sleep(0.05)
