"""A page opened in headless Chromium: what it came to, what its console said, what it asked the network for."""

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
WAIT = 30_000  # milliseconds of the page's own clock, which runs ahead while it has nothing to do


@dataclass
class Visit:
    """What became of a page.

    Args:
        html: the document once its scripts have run.
        console: every message.
        requests: addresses that the page asked for; the browser's own are left out.
    """

    html: str
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path, *flags: str) -> Visit:
    """Opens a file in a browser of its own, which keeps its things in `folder`."""
    assert CHROMIUM is not None
    folder.mkdir()
    log = folder / "net.json"
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", "--no-first-run", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
        "--enable-logging=stderr", f"--virtual-time-budget={WAIT}", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    with (folder / "html").open("wb") as html, (folder / "err").open("wb") as err:
        browser = subprocess.Popen(words, stdout=html, stderr=err, start_new_session=True)
        try:
            assert browser.wait(timeout=120) == 0, (folder / "err").read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)  # what it started
            browser.wait()
    said = (folder / "err").read_text(errors="replace")
    return Visit(
        (folder / "html").read_text(),
        re.findall(r'CONSOLE:\d+\] (".*)', said),
        _requests(log.read_text(errors="replace")),
    )


def _requests(log: str) -> list[str]:
    try:
        found = json.loads(log)
    except ValueError:  # the browser ends before its log does
        found = json.loads(log.rstrip().rstrip(",") + "]}")
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event["params"] for event in found["events"] if event["type"] == start and event.get("params")]
    return [one["url"] for one in begun if "url" in one and one.get("initiator") != "not an origin"]
