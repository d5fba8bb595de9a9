"""The browser that tests of the page drive: any Chromium or Chrome that is there. As a program: install Debian's, if it may.

``make test`` calls the program first; it says nothing and never fails, since the tests themselves say what they lack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
ELSEWHERE = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
CACHES = (".cache/ms-playwright", "Library/Caches/ms-playwright")
"""Where Playwright keeps its own, below the home folder."""
HOW = "apt-get install chromium (Debian), or any Chromium or Chrome on the PATH"


def find(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The first browser found: on the PATH, where macOS has them, or Playwright's own; None where there is none."""
    for name in NAMES:
        if found := shutil.which(name, path=environment.get("PATH", "")):
            return Path(found)
    for place in ELSEWHERE:
        if Path(place).is_file():
            return Path(place)
    home = Path(environment.get("HOME", "/nowhere"))
    kept = [path for cache in CACHES for path in sorted((home / cache).glob("chromium-*/chrome-*/chrome"))]
    return kept[-1] if kept else None


def install() -> None:
    """Debian's Chromium, where there is none yet, by root, and only as far as it works."""
    if find() is not None or shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        try:
            subprocess.run(["apt-get", *command], check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError):
            return


if __name__ == "__main__":
    install()
