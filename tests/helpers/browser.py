"""A headless Chromium for tests of pages.

`CHROMIUM` names the program; otherwise it is looked for on the path. On Debian,
``apt-get install chromium`` brings it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome, if there is one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start a Chromium for a block, as Playwright's `Browser`; skip the test where none is."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium, or set CHROMIUM to a Chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, and in containers, its sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
