"""A page reads several lists at the same time: what happens when one of these reads fails."""

import asyncio

import pytest

from relay.errors import StoreError
from relay.web import api_client
from relay.web.api_client import READS_AT_ONCE, ApiClient
from relay.web.pages import PAGES

SUBSCRIPTION = "/ui/subscriptions/{id}"
PATHS = [SUBSCRIPTION, *sorted(page.path for page in PAGES if page.method == "GET" and "{" not in page.path)]


class Reads:
    """The reads of a page: all take a while, but for one that fails at once."""

    def __init__(self, monkeypatch):
        self.running = self.most = 0
        self.seen = []
        self.fails = -1
        self.error = StoreError("away")
        call = ApiClient._call

        async def counted(api_client, method, path, *more, **named):
            number = len(self.seen)
            self.seen.append(path)
            if number == self.fails:
                raise self.error
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                for _ in range(20):
                    await asyncio.sleep(0)
                return await call(api_client, method, path, *more, **named)
            finally:
                self.running -= 1

        monkeypatch.setattr(ApiClient, "_call", counted)


@pytest.mark.parametrize("path", PATHS)
async def test_no_read_goes_on_after_its_page(browser, monkeypatch, path):
    if path == SUBSCRIPTION:
        sink = {"sink": "https://crm.example/hook", "protocol": "HTTP"}
        path = "/ui/subscriptions/" + (await browser.client.post("/v1/subscriptions", json=sink)).json()["id"]
    reads = Reads(monkeypatch)
    assert (await browser.get(path)).status == 200
    for number in range(len(reads.seen)):
        reads.seen, reads.fails = [], number
        answer = await browser.get(path)
        assert (answer.status, reads.running) == (503, 0), (number, reads.seen)


async def test_a_page_does_not_wait_for_ever_behind_others(browser, monkeypatch):
    """The database hangs."""
    monkeypatch.setattr(api_client, "WAIT_SECONDS", 0.01)
    reads = browser.web._shared.reads
    for _ in range(READS_AT_ONCE):
        await reads.acquire()
    page = await browser.get("/ui")
    assert (page.status, page.headers["retry-after"]) == (503, "10")
    assert "answers too slowly" in page.html
    for _ in range(READS_AT_ONCE):
        reads.release()
    monkeypatch.undo()  # the page's own reads, more than fit at once, wait for each other
    assert (await browser.get("/ui")).status == 200
