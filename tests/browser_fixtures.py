"""A real browser for tests of HTML pages: Chromium without a window.

Tests that need it are skipped where Selenium, Chromium or its driver is missing; with SYNBENCH_BROWSER=1 that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

WANTED = os.environ.get("SYNBENCH_BROWSER") == "1"


def absent(what: str) -> None:
    if WANTED:
        pytest.fail(f"{what} is missing and SYNBENCH_BROWSER=1")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        absent("the package selenium")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None:
        absent("chromium")
    if driver is None:
        absent("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1300"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield session
    finally:
        session.quit()
