"""What goes around every page: who may see it, the navigation, forms and their tokens, errors as pages."""

import re

import pytest

from relay.core.access.sign_in import NOTICE_SECONDS
from relay.web.page import NAVIGATION
from relay.web.pages import PAGES
from tests.support.web_world import BASE_URL


async def test_every_page_leads_to_every_other(browser):
    page = await browser.get("/ui/jobs")
    assert page.status == 200
    links = page.soup.all("//header//nav//a[@data-key]")
    assert [(one.get("href"), one.get("data-key")) for one in links] == [(one.path, one.key) for one in NAVIGATION]
    assert page.soup.texts("//a[@data-key][@aria-current='page']") == ["Jobs"]


MAIN = [
    "Overview",
    "Incidents",
    "Campaigns",
    "Sending accounts",
    "Jobs",
    "Deliveries",
    "Subscriptions",
    "Events",
]
OPERATIONS = ["Sources", "Unknown sends"]
FOR_ADMINS = ["Tokens", "Audit", "Settings"]


async def test_navigation_has_the_words_of_campaigns_and_what_the_token_may_see(open_as):
    for token, operations in (("rl_admin", OPERATIONS + FOR_ADMINS), ("rl_read", OPERATIONS)):
        page = await (await open_as(token=token)).get("/ui")
        for menu in ("places", "menu"):
            lists = page.soup.all(f"//header//*[@class='{menu}']//ul")
            assert [one.get("aria-label") for one in lists] == ["Main pages", "Operations"]
            assert [text.text_content() for text in lists[0].xpath(".//a")] == MAIN
            assert [text.text_content() for text in lists[1].xpath(".//a")] == operations


def test_each_place_has_a_key_of_its_own():
    assert len({one.key for one in NAVIGATION}) == len(NAVIGATION)
    assert all(len(one.key) == 1 and one.key not in "g/?" for one in NAVIGATION)


async def test_page_below_another_leads_back_to_it(browser, world):
    job = await world.job("job_1")
    above = {
        "/ui": "",
        "/ui/jobs": "",
        "/ui/login": "",
        f"/ui/jobs/{job.uid}": "Jobs",
        "/ui/tokens/new": "Tokens",
        "/ui/subscriptions/new?kind=slack": "Subscriptions",
    }
    for path, name in above.items():
        page = await browser.get(path)
        assert page.soup.texts("//p[@class='up']/a") == ([name] if name else []), path


async def test_page_that_changes_by_itself_says_without_scripts_that_it_does_not(browser):
    for path, is_live in (("/ui", True), ("/ui/tokens/new", False)):
        page = await browser.get(path)
        assert bool(page.soup.all("//noscript")) == is_live, path


async def test_an_empty_list_is_offered_no_file(browser, world):
    path = "//aside//a[@download]"
    assert (await browser.get("/ui/jobs")).soup.all(path) == []
    await world.job("job_1")
    assert len((await browser.get("/ui/jobs")).soup.all(path)) == 1


async def test_limits_of_a_new_token_are_folded_until_one_is_given(browser):
    page = await browser.get("/ui/tokens/new")
    assert page.soup.all("//details[.//input[@name='prefix']][not(@open)]")
    page = await browser.post("/ui/tokens/new", {"name": "", "prefix": "com.acme."})
    assert page.soup.all("//details[@open][.//input[@name='prefix']]")


async def test_page_that_asks_to_sign_in_says_where_a_token_comes_from(open_as):
    browser = await open_as(dev=False)
    page = await browser.get("/ui/login")
    assert page.soup.texts("//h1") == ["Sign in with a relay token"]
    assert page.soup.texts("//main//p[@class='brand']") == ["revor-relay"]
    assert page.soup.texts("//pre") == ["relay tokens add NAME --scopes read", "relay ui"]


async def test_no_link_can_say_that_something_was_done(open_as, world):
    one, other = await open_as(token="rl_admin"), await open_as(token="rl_admin")
    job = await world.job("job_1")
    done = await one.post(f"/ui/jobs/{job.uid}/refresh")
    path = done.path
    assert (await one.get(path)).said == done.said != ""
    forged = [
        (one, path.partition("&seal=")[0], "no seal"),
        (one, path.replace("job_refreshed", "job_purged"), "a seal of another notice"),
        (one, path + "&n=7", "a seal of another count"),
        (one, path + "&seal=9999999999." + "0" * 32, "a seal of no one"),
        (one, path + "&seal=%C2%B2.x", "a seal that is none"),
        (one, path + "&seal=" + "9" * 5_000 + ".x", "a seal that is too long"),
        (other, path, "a seal of another session"),
    ]
    for browser, link, why in forged:
        page = await browser.get(link)
        assert (page.status, page.said) == (200, ""), why
    world.now += NOTICE_SECONDS + 1
    assert (await one.get(path)).said == "", "a seal is for a short time"


async def test_a_wrong_method_is_told_which_ones_there_are(browser) -> None:
    for method, path, taken in [
        ("DELETE", "/ui", "GET, HEAD"),
        ("OPTIONS", "/ui/jobs", "GET, HEAD"),
        ("PUT", "/ui/jobs/job_1", "GET, HEAD"),
        ("POST", "/ui/events", "GET, HEAD"),
        ("PATCH", "/ui/replays/new", "GET, HEAD, POST"),
        ("GET", "/ui/jobs/job_1/refresh", "POST"),
        ("HEAD", "/ui/jobs/bulk/refresh", "POST"),
    ]:
        answer = await browser.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, taken)
        assert method == "HEAD" or "Method not allowed" in answer.text


@pytest.mark.parametrize("path", ["/ui/jobs/batch", "/ui/jobs/bulk", "/ui/subscriptions/preview"])
async def test_name_that_the_api_takes_another_method_for_is_no_failure(browser, path: str) -> None:
    answer = await browser.client.get(path)
    assert answer.status_code == 405
    assert "could not be made" not in answer.text


@pytest.mark.parametrize("path", sorted(page.path for page in PAGES if page.method == "GET" and "{" not in page.path))
async def test_every_page_has_its_command_and_call(browser, path):
    page = await browser.get(path)
    for name in ("div", "p", "section", "form", "details", "table", "nav"):
        assert len(re.findall(rf"<{name}[ >]", page.html)) == page.html.count(f"</{name}>"), f"{name} is not closed"
    command, call = page.soup.texts("//details[@class='equivalent']//code")
    assert command.startswith("relay ")
    assert f"'{BASE_URL}/" in call


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YWRhOng="}], ids=["alone", "through a proxy"])
async def test_a_browser_that_opens_the_relay_is_led_to_the_dashboard(open_as, headers):
    browser = await open_as(token="rl_read")
    for path in ("/ui/", "/"):
        answer = await browser.client.get(path, headers={"accept": BROWSER, **headers})
        assert (answer.status_code, answer.headers["location"], answer.content) == (303, "/ui", b"")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]


async def test_a_client_of_the_api_finds_nothing_at_the_first_path(open_as) -> None:
    for method, headers in [
        ("GET", {}),
        ("GET", {"accept": "application/json"}),
        ("GET", {"accept": BROWSER, "authorization": "Bearer rl_read"}),
        ("HEAD", {"accept": BROWSER}),
        ("POST", {"accept": BROWSER}),
    ]:
        browser = await open_as(token="rl_read")
        answer = await browser.client.request(method, "/", headers=headers)
        assert answer.status_code == (404 if "authorization" in headers else 401)
        assert method == "HEAD" or answer.json()["status"] == answer.status_code
