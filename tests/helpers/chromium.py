"""Debian's Chromium by Playwright. A test module that imports this is skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PATH = shutil.which("chromium") or "/usr/bin/chromium"
pytest.importorskip("playwright", reason="browser tests need Playwright: pip install playwright")
if not Path(_PATH).exists():
    pytest.skip("browser tests need Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import sync_playwright  # noqa: E402


@contextmanager
def started() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PATH, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
