"""Allure Report 3 and a headless Chromium, where they are at hand: generates a report and says what a reader sees of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALLED = Path.home() / ".cache" / "pytest-llmperf" / "allure"
# Opens the attachments of these names, as a reader does by a click, and tells how wide the pictures in them are.
OPENING = """<script>
const wanted = %r;
setInterval(() => {
  for (const heading of document.querySelectorAll('[data-testid="test-result-attachment-header"]')) {
    const found = wanted.find(name => heading.textContent.includes(name));
    if (found) { wanted.splice(wanted.indexOf(found), 1); heading.querySelector("button").click(); }
  }
  for (const image of document.querySelectorAll("img")) image.setAttribute("data-seen", image.naturalWidth);
  for (const frame of document.querySelectorAll('iframe[title="HTML attachment"]'))
    frame.setAttribute("data-seen", frame.contentDocument?.body?.innerText ?? "");
}, 200);
</script></body>"""


def allure_command() -> str:
    """Allure 3: that of ``LLMPERF_ALLURE`` (a directory with node_modules), on PATH, or installed by npm; skips without any."""
    if named := os.environ.get("LLMPERF_ALLURE"):
        command = Path(named) / "node_modules" / ".bin" / "allure"
        assert command.is_file(), f"LLMPERF_ALLURE={named} has no node_modules/.bin/allure"
        return str(command)
    if (found := shutil.which("allure")) is not None and _is_version_3(found):
        return found
    installed = INSTALLED / "node_modules" / ".bin" / "allure"
    if not installed.is_file():
        _install()
    return str(installed)


def _is_version_3(command: str) -> bool:
    asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return asked.stdout.strip().startswith("3.")


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here to install Allure Report 3 with; LLMPERF_ALLURE names a directory whose node_modules has it")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    options = ["--prefix", str(INSTALLED), "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run([npm, "install", *options, "allure@^3.18"], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"npm could not install Allure Report 3: {done.stderr.strip()[-300:]}")


def browser_command() -> str:
    """A Chromium; skips where there is none."""
    names = filter(None, (os.environ.get("LLMPERF_CHROMIUM"), *BROWSERS))
    found = next((path for name in names if (path := shutil.which(name)) is not None), None)
    if found is None:
        pytest.skip("no Chromium here to open the report in; LLMPERF_CHROMIUM names one")
    return found


@dataclass(frozen=True)
class Report:
    """A generated report, served on this machine."""

    folder: Path
    url: str
    browser: str

    def page(self, place: str = "", opened: Sequence[str] = ()) -> str:
        """The page's elements as the browser has built them; ``opened`` are attachments to open."""
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--window-size=1400,2400"]
        # Nothing is to be looked for outside.
        options += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
        query = f"?open={','.join(opened)}" if opened else ""
        command = [self.browser, *options, "--dump-dom", f"{self.url}/{query}#{place}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    def test_id(self, title: str) -> str:
        """The address of the one test whose title begins so."""
        pages = (self.folder / "data" / "test-results").glob("*.json")
        (found,) = [path.stem for path in pages if json.loads(path.read_text())["name"].startswith(title)]
        return found


@contextmanager
def generated(results: Path, configuration: Path, folder: Path) -> Iterator[Report]:
    """A report of these results, until the block ends."""
    browser, command = browser_command(), [allure_command(), "generate", str(results), "-o", str(folder)]
    done = subprocess.run(
        [*command, "--config", str(configuration)],
        cwd=results.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Report(folder, f"http://127.0.0.1:{server.server_port}", browser)
        server.shutdown()


class _Handler(SimpleHTTPRequestHandler):
    """Serves the report; the page that is asked to ``?open=`` attachments gets a script that does."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path).query
        if not asked.startswith("open="):
            super().do_GET()
            return
        names = asked.removeprefix("open=").replace("%20", " ").split(",")
        page = (Path(self.directory) / "index.html").read_text().replace("</body>", OPENING % names).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
