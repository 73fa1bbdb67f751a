"""Pages in a headless Chromium: what a reader's screen shows, over the browser's own protocol (CDP).

One browser serves any number of looks. Widths and the colour scheme are emulated, so that 390 pixels are a phone's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.agents import wait_for

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Texts of one chart must not lie on each other, and no text may be cut at the chart's edge.
LOOK = """(async () => {
  await document.fonts.ready;
  await window.reportDrawn;
  const root = document.documentElement, charts = [...document.querySelectorAll("svg")];
  const met = [], cut = [];
  for (const chart of charts) {
    const frame = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].filter(t => t.textContent.trim())
      .filter(t => getComputedStyle(t).opacity > 0).map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const [text, b] of texts)
      if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1 || b.bottom > frame.bottom + 1)
        cut.push(text);
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [texts[i][1], texts[j][1]];
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) met.push(texts[i][0] + " / " + texts[j][0]);
    }
  }
  return {
    wide: root.scrollWidth - root.clientWidth,
    tall: root.scrollHeight,
    charts: charts.length,
    marks: charts.map(c => c.querySelectorAll(".mark-rect path,.mark-symbol path,.mark-line path").length),
    met, cut,
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor,
    strokes: [...new Set(charts.flatMap(c => [...c.querySelectorAll("text")].map(t => getComputedStyle(t).fill)))],
  };
})()"""


@dataclass(frozen=True)
class Look:
    """A page at one width: `found` by `LOOK`, what the console said, what was asked of the network, and a picture."""

    found: dict
    console: list[str]
    requests: list[str]
    picture: bytes


def program() -> str | None:
    """The browser, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """An open browser."""

    def __init__(self, address: str):
        self.address = address

    def look(self, page: Path, width: int, dark: bool = False, script: str = LOOK) -> Look:
        """Open a page's file and look at all of it."""
        return asyncio.run(self._look(page.resolve().as_uri(), width, dark, script))

    async def _look(self, url: str, width: int, dark: bool, script: str) -> Look:
        from tornado.websocket import websocket_connect

        new = urllib.request.Request(f"http://{self.address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(new) as answer:
            tab = json.load(answer)
        socket = await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=1 << 28)
        console, requests, events, number = [], [], set(), 0

        async def hear(until) -> dict:
            while True:
                text = await asyncio.wait_for(socket.read_message(), 300)
                assert text is not None, "the browser ended"
                said = json.loads(text)
                method, what = said.get("method", ""), said.get("params", {})
                events.add(method)
                if method == "Runtime.exceptionThrown":
                    console.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
                elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
                    console.append(str([one.get("value", one.get("description")) for one in what["args"]]))
                elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                    console.append(what["entry"]["text"])
                elif method == "Network.requestWillBeSent":
                    requests.append(what["request"]["url"])
                if until(said):
                    return said

        async def call(method: str, **parameters) -> dict:
            nonlocal number
            number += 1
            this = number
            await socket.write_message(json.dumps({"id": this, "method": method, "params": parameters}))
            said = await hear(lambda one: one.get("id") == this)
            assert "error" not in said, f"{method}: {said}"
            return said["result"]

        async def screen(height: int) -> None:
            await call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                       mobile=width < 600)  # fmt: skip

        for domain in ("Page", "Runtime", "Log", "Network"):
            await call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await call("Emulation.setEmulatedMedia", features=[scheme])
        await screen(900)
        await call("Page.navigate", url=url)
        if "Page.loadEventFired" not in events:
            await hear(lambda one: one.get("method") == "Page.loadEventFired")
        said = await call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        found = said["result"].get("value")
        await screen(min(found["tall"], 16000) if isinstance(found, dict) and "tall" in found else 900)
        picture = base64.b64decode((await call("Page.captureScreenshot", format="png"))["data"])
        socket.close()
        urllib.request.urlopen(f"http://{self.address}/json/close/{tab['id']}").close()
        return Look(found, console, [r for r in requests if not r.startswith((url, "data:", "blob:"))], picture)


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser, ended in the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(profile) / "DevToolsActivePort"
        try:
            wait_for(lambda: port.exists() and len(port.read_text().splitlines()) > 1, "Chromium listens")
            yield Browser(f"127.0.0.1:{port.read_text().splitlines()[0]}")
        finally:
            process.terminate()
            process.wait(60)
