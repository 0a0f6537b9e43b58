"""Texts of strangers in every field that lists and pages show: nothing of them becomes part of a page.

Each of 200 texts is in each field. The browser suite shows the same for one of them as a real browser reads it.
"""

import re
from urllib.parse import quote

import pytest

from tests.support.api_world import HOOK
from tests.support.html_probes import PROBES
from tests.support.store_kit import intent, list_accounts

LISTS = ("", "/jobs", "/groups", "/subscriptions", "/events", "/incidents", "/intents", "/sources", "/audit")
DETAILS = 3
"""Pages of single things that are opened from each list."""
AT_ONCE = 50
"""Texts in one database: they share its pages, which show 50 items."""
FOREIGN = (
    "//script[not(starts-with(@src, '/ui/static/'))] | //iframe | //img | //base | //object | //style | //plaintext",
    "//*[starts-with(local-name(@*), 'on')] | //@style | //@srcdoc | //main//@autofocus",
    "//link[not(starts-with(@href, '/ui/static/'))] | //meta[@http-equiv] | //math | //set | //template | //video",
    "//a[starts-with(translate(normalize-space(@href), 'JAVSCRIPT', 'javscript'), 'javascript')]",
    "//main//*[@contenteditable or @popovertarget or @formaction[. != '/ui/subscriptions/preview']]",
    "//*[@hx-get] | //form[@action='/probed']",
)
"""What no page has by itself."""
_NOT_IN_NAMES = re.compile(r"[^ -~]|/")
_EVENT = {"specversion": "1.0", "source": "https://shop.example/orders", "type": "com.shop.order"}
_AS_EVENT = {"content-type": "application/cloudevents+json"}


async def posted(browser, path, body, **headers):
    """Whether the API takes it: some fields refuse some characters."""
    answer = await browser.client.post(path, json=body, headers=headers)
    assert answer.status_code < 500, answer.text
    return answer.status_code < 300


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.verify) for first in range(AT_ONCE, len(PROBES), AT_ONCE))]
)
async def test_texts_stay_texts(first, browser, world):
    taken = 0
    for index, probe in enumerate(PROBES[first : first + AT_ONCE], start=first):
        name = _NOT_IN_NAMES.sub("", probe)
        taken += await posted(browser, "/v1/jobs", {"id": f"{index}{name}", "group": name, "metadata": {probe: probe}})
        taken += await posted(
            browser, "/v1/subscriptions", {"sink": f"{HOOK}/{index}", "description": f"{index} {probe}"}
        )
        await browser.client.post(f"/v1/subscriptions/{quote(probe, safe='')}/pause")  # the audit has its target
        taken += await posted(browser, "/v1/events", {**_EVENT, "id": f"{index}", "data": probe}, **_AS_EVENT)
        await world.fail(f"broken_{index}", probe, f"{probe}{index}")
        await list_accounts(world.store, ("revor", "default"), f"acc_{index}", name=probe, channel=probe, now=world.now)
        one = intent(world.now, metadata={"note": probe}, idempotency_key=f"{index}{probe}")
        await world.store.intents.begin(one)
        await world.store.intents.unknown(one.id, "no_answer")
    assert taken > 2 * AT_ONCE
    paths = [f"/ui{path}" for path in LISTS] + [f"/ui/audit?actor={quote(PROBES[first])}"]
    for path in LISTS:
        page = await browser.get(f"/ui{path}")
        paths += [str(one.get("href")) for one in page.soup.all("//a[@rel='next']")]
        links = [str(one.get("href")) for one in page.soup.all("//main//tbody//th//a[starts-with(@href, '/ui/')]")]
        paths += [*links[:DETAILS], *(f"{link}/edit" for link in links[:DETAILS] if path == "/subscriptions")]
    assert len(paths) > 3 * len(LISTS)
    for path in paths:
        page = await browser.get(path)
        assert page.status == 200, path
        for what in FOREIGN:
            assert page.soup.all(what) == [], (path, what)
        assert len(page.soup.all("//main")) == len(page.soup.all("//footer")) == 1
        assert page.soup.all("//*[@id='live']//form[@action='/ui/logout']") == []
    shown = (await browser.get("/ui/subscriptions")).soup.texts("//main//a")
    assert any("probed" in text for text in shown)  # people see them
