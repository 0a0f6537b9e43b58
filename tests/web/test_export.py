"""A list as a file for a spreadsheet: its parts, and what the last row of one says."""

import csv
from urllib.parse import urlsplit

from relay.web import export
from relay.web.api_client import PAGE_LIMIT
from tests.support.web_world import BASE_URL


def rows_of(text):
    return list(csv.reader(text.splitlines()))


async def test_a_file_that_is_not_the_whole_list_says_so_and_where_the_rest_is(browser, world, monkeypatch):
    monkeypatch.setattr(export, "MAX_ROWS", PAGE_LIMIT + 1)
    names = [f"job_{number}" for number in range(2 * PAGE_LIMIT)]
    for name in names:
        await world.job(name, account="emea")
    await world.job("other")
    head, *rows, last = rows_of((await browser.get("/ui/jobs?account=emea&format=csv&done=x")).html)
    said, _, link = last[0].rpartition(" ")
    assert said == "This file is not complete. The next part of the list:"
    assert link.startswith(f"{BASE_URL}/ui/jobs?account=emea&format=csv&cursor=")
    assert (len(rows), {len(row) for row in (*rows, last)}) == (PAGE_LIMIT + 1, {len(head)})
    target = urlsplit(link)
    also_head, *rest = rows_of((await browser.get(f"{target.path}?{target.query}")).html)
    found = [row[head.index("id")] for row in (*rows, *rest)]
    assert (also_head, sorted(found)) == (head, sorted(names))


async def test_a_cursor_that_is_none_is_refused_before_the_file_begins(browser):
    for path in ("/ui/jobs", "/ui/deliveries", "/ui/tokens"):
        answer = await browser.get(f"{path}?format=csv&cursor=x")
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (422, "text/html"), path
