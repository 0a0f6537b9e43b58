"""What the tests of the dashboard in a browser share: what goes wrong in a tab, and what they ask the relay for."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from tests.support.dashboard_world import Shown

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@dataclass
class Faults:
    """What goes wrong in a page."""

    found: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self, page: Page) -> "Faults":
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._asked)
        return self

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        scheme, _, rest = request.url.partition("://")
        if scheme in ("http", "https"):
            self.hosts.add(rest.partition("/")[0])
            if "/probed" in request.url.partition("?")[0]:
                self.found.append(f"loaded: {request.url}")


def until_live(page: Page) -> None:
    """Waits until the page is live, if it can be."""
    if page.locator("#live").count():
        expect(page.locator("#live-state")).to_have_text("Live", timeout=120_000)


def call(shown: Shown, method: str, path: str, body: Any = None, *, at: str = "") -> Any:
    """A call of the relay's API, or of the sandbox at its URL."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        (at or shown.url) + path, data, {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"null")


def make_intent(shown: Shown) -> None:
    """Another create whose answer is lost."""
    fault = {"kind": "timeout", "method": "POST", "count": 1, "hold_seconds": 0.05}
    call(shown, "POST", "/_sandbox/faults", fault, at=shown.sandbox)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-revor-default"}
    create = urllib.request.Request(f"{shown.url}/api/v1/outreach/dispatches", b'{"channel":"email"}', headers)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(create, timeout=120)
