"""One relay with something of everything, and one Chromium, for the tests of a file."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.support.chromium import FLAGS, chromium
from tests.support.dashboard_tabs import DESK, PHONE
from tests.support.dashboard_world import Shown


@pytest.fixture(scope="module")
def program() -> str:
    return chromium()


@pytest.fixture(scope="module")
def relay(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path_factory.mktemp("relay")
    command = [sys.executable, "-m", "tests.support.dashboard_world", str(folder)]
    errors = folder / "errors"
    with (
        open(errors, "w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
    assert process.returncode == 0, errors.read_text()[-2000:]


@pytest.fixture(scope="module")
def shown(relay: subprocess.Popen[str]) -> Shown:
    assert relay.stdout is not None
    line = relay.stdout.readline()
    assert line, "the relay did not start: its errors follow at the end"
    return Shown(**json.loads(line))


@pytest.fixture(scope="module")
def browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def open_context(browser: Browser, shown: Shown) -> Iterator[Callable[..., BrowserContext]]:
    """Opens windows of their own: `open_context(java_script_enabled=False)`."""
    opened: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        opened.append(browser.new_context(**{"base_url": shown.url, "viewport": DESK, **options}))
        opened[-1].set_default_timeout(120_000)
        return opened[-1]

    yield make
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def windows(browser: Browser, shown: Shown) -> Iterator[dict[str, BrowserContext]]:
    """Windows that many tests use: with all checks, for axe, and a phone without JavaScript."""
    contexts = {
        "checked": browser.new_context(base_url=shown.url, viewport=DESK),
        "axe": browser.new_context(base_url=shown.url, viewport=DESK, bypass_csp=True, reduced_motion="reduce"),
        "plain": browser.new_context(base_url=shown.url, viewport=PHONE, java_script_enabled=False),
    }
    yield contexts
    for context in contexts.values():
        context.close()


@pytest.fixture
def open_tab(windows: dict[str, BrowserContext]) -> Iterator[Callable[[str], Page]]:
    """Opens a tab of one of these windows."""
    opened: list[Page] = []

    def make(window: str) -> Page:
        opened.append(windows[window].new_page())
        return opened[-1]

    yield make
    for page in opened:
        page.close()
