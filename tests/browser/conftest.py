"""A real Chromium, driven by Playwright; without one these tests are skipped at a desk and fail in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LIMIT_MS = 60_000  # of a loaded machine


def find_chromium() -> str:
    """Return the browser's path; skip or fail where there is none."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        message = "no Chromium on this machine: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return str(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser with an empty profile of its own, gone with the module: its event loop must not outlive it."""
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what it did that a report should not do."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


Open = Callable[..., AbstractContextManager[Watched]]


@pytest.fixture
def opened(browser: Browser) -> Open:
    """Opens a file in a fresh context; at the end, no message on the console, no dialog, no request but for files."""

    @contextmanager
    def open_file(path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Watched]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_default_timeout(LIMIT_MS)
        watched = Watched(context.new_page())
        page = watched.page
        page.on("console", lambda message: watched.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: watched.console.append(f"error: {error}"))
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("dialog", lambda dialog: watched.dialogs.append(dialog.message))  # unanswered: playwright closes it
        page.goto(path.as_uri())
        yield watched
        context.close()
        assert watched.console == []
        assert watched.dialogs == []
        assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []

    return open_file
