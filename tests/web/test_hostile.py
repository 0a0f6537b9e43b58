"""What hostile requests and names do to the dashboard, and what one caller can take of it."""

import asyncio
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from relay.api.http.auth import LOCAL
from relay.errors import TooMany, Unauthorized
from relay.web import export
from relay.web.api_client import PAGE_LIMIT, ApiClient
from relay.web.live import AT_ONCE, MAX_WAITING, Live
from tests.support.api_world import TOKENS
from tests.support.store_kit import track

NAMES = ["a?b", "a#b", "100%", "50%41", "a b&c=d", "ä;b", "{{7*7}}", '"><b>', "..;", "a\\b"]


async def raw(browser, target: str, query: bytes = b"", headers=(), until: bytes | None = None, gone: bool = False):
    """Status, headers and body of a GET with the bytes as they are; `until`: the client leaves after these bytes;
    `gone`: it has left before, and None stands for no answer."""
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": target,
        "raw_path": quote(target).encode(),
        "root_path": "",
        "query_string": query,
        "headers": [(b"host", b"127.0.0.1:8080"), *headers],
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 5000),
    }
    sent, left = [], asyncio.Event()
    if gone:
        left.set()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if until is not None and until in message.get("body", b""):
            left.set()

    await browser.client._transport.app(scope, receive, send)
    if not sent:
        return None
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def cookie_of(browser):
    return b"cookie", "; ".join(f"{one.name}={one.value}" for one in browser.client.cookies.jar).encode()


# --- requests


async def test_a_query_that_is_no_text_is_no_failure_of_the_relay(open_as) -> None:
    for path in ["/ui", "/ui/jobs", "/ui/login", "/ui/static/relay.css", "/ui/nothing"]:
        for browser in (await open_as(dev=False, tokens=TOKENS), await open_as()):
            status, _, _ = await raw(browser, path, b"a=\xff\xfe")
            assert status in (200, 303, 404, 422)


@pytest.mark.parametrize("name", NAMES)
async def test_the_live_part_of_a_page_is_of_that_page(browser, world, name):
    await track(world.store, "job_1", group=name)
    page = await browser.get(f"/ui/groups/{quote(name, safe='')}", source="revor", account="default")
    assert page.soup.texts("//h1") == [f"{name} · default"]
    (path,) = page.soup.attributes("//div[@id='live']", "hx-sse:connect")
    again = await browser.get(path)
    assert again.soup.texts("//h1") == [f"{name} · default"]


async def test_few_pages_of_a_caller_are_made_at_once(open_as, world, monkeypatch):
    """Else each round of the event loop is as long as all of them."""
    browser = await open_as(token="rl_read")
    making, most, get = [], [], ApiClient.get

    async def watched(self, path, *segments, **named):
        making.append(path)
        most.append(len(making))
        for _ in range(100):
            await asyncio.sleep(0)  # the others have their turn
        answer = await get(self, path, *segments, **named)
        making.remove(path)
        return answer

    monkeypatch.setattr(ApiClient, "get", watched)
    live = browser.client.get("/ui/incidents?state=closed", headers={"Accept": "text/event-stream"})
    answers = await asyncio.gather(live, *(browser.client.get("/ui/intents") for _ in range(6)))
    assert {one.status_code for one in answers} == {200}
    assert max(most) == AT_ONCE


async def test_no_page_is_made_for_a_browser_that_has_left(open_as, monkeypatch):
    """Who loads a slow page again and again waits for the last one only."""
    browser = await open_as(token="rl_read")
    made, get = [], ApiClient.get

    async def noted(self, path, *segments, **named):
        made.append(path)
        return await get(self, path, *segments, **named)

    monkeypatch.setattr(ApiClient, "get", noted)
    with capture_logs() as logs:
        assert await raw(browser, "/ui/intents", headers=[cookie_of(browser)], gone=True) is None
    assert made == []
    assert [one for one in logs if one["log_level"] in ("warning", "error")] == []
    status, _, body = await raw(browser, "/ui/intents", headers=[cookie_of(browser)])
    assert (status, len(made)) == (200, 1)
    assert b"<h1>" in body


async def test_only_so_many_pages_of_a_caller_wait():
    renderings = Live().renderings
    async with AsyncExitStack() as held:
        for _ in range(AT_ONCE):
            await held.enter_async_context(renderings.turn("one"))
        waiting = [asyncio.create_task(renderings.turn("one").__aenter__()) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            await renderings.turn("one").__aenter__()
        async with renderings.turn("other"):
            pass
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with renderings.turn("one"):
        pass


# --- downloads


def test_a_cell_is_no_formula_wherever_a_spreadsheet_divides_it() -> None:
    for value, cell in [
        ("=1+1", "'=1+1"),
        ("\xa0=1+1", "'\xa0=1+1"),
        ("\u3000@x", "'\u3000@x"),
        ("a;=1+1", "a;'=1+1"),
        ("a\t +1", "a\t '+1"),
        ("a\n-1;=2", "a\n'-1;'=2"),
        ({"a": ";=1+1"}, '{"a":";\'=1+1"}'),
        ("a; b - c = d", "a; b - c = d"),
    ]:
        assert export.safe(value) == cell


NOTHING = '{"exact": {"type": "nothing"}}'


async def test_a_filter_that_nothing_passes_reads_no_further_than_a_whole_download(browser, world, monkeypatch):
    monkeypatch.setattr(export, "MAX_ROWS", PAGE_LIMIT)
    for number in range(2 * PAGE_LIMIT + 1):
        await world.poll(await world.job(f"job_{number}"), "queued")
    asked, get = [], ApiClient.get

    async def watched(self, path, *segments, **named):
        asked.append(named["query"]["limit"])
        return await get(self, path, *segments, **named)

    monkeypatch.setattr(ApiClient, "get", watched)
    page = await browser.get("/ui/events", filter=NOTHING)
    read_by_page = len(asked)
    answer = await browser.get("/ui/events", filter=NOTHING, format="csv")
    assert (page.status, answer.html.count("\n")) == (200, 2)
    assert "This file is not complete." in answer.html
    assert len(asked) - 2 * read_by_page == 1


async def test_a_token_has_so_many_downloads_at_once(browser, world):
    shared = browser.web._shared.context.dependencies.admission.exports
    for _ in range(shared.limit_of_owner):
        shared.take(LOCAL)
    assert (await browser.get("/ui/jobs", format="csv")).status == 429
    assert (await browser.client.head("/ui/jobs?format=csv")).status_code == 200
    shared.release(LOCAL)
    for _ in range(2):
        assert (await browser.get("/ui/jobs", format="csv")).status == 200
    assert shared.taken == shared.limit_of_owner - 1


async def test_a_download_ends_with_its_token(open_as, world, monkeypatch):
    await world.job("job_1")
    browser = await open_as(scopes=["read"])
    dependencies = browser.web._shared.context.dependencies
    monkeypatch.setattr(type(dependencies.access), "holds", lambda self, identity: False)
    with pytest.raises(Unauthorized):  # so that the server ends the connection, and nobody takes it for the whole
        await raw(browser, "/ui/jobs", b"format=csv", [cookie_of(browser)])
    assert dependencies.admission.exports.taken == 0
