"""A browser without a screen, for tests that open pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import browsers
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = browsers.find()
    if found is None:
        pytest.fail(f"expected a Chromium or Chrome, found none: {browsers.HOW}", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(found), args=FLAGS)
        yield started
        started.close()
