"""What goes around every page: who may see it, the navigation, forms and their tokens, errors as pages."""

from relay.web.navigation import NAVIGATION


async def test_every_page_leads_to_every_other(browser):
    page = await browser.get("/ui/jobs")
    assert page.status == 200
    links = page.soup.all("//header//nav//a[@data-key]")
    assert [(one.get("href"), one.get("data-key")) for one in links] == [(one.path, one.key) for one in NAVIGATION]
    assert page.soup.texts("//a[@data-key][@aria-current='page']") == ["Jobs"]


async def test_an_action_says_what_it_did(browser, world):
    job = await world.job("job_1")
    done = await browser.post(f"/ui/jobs/{job.uid}/refresh")
    assert world.tracking.refreshed == [job.uid]
    assert done.path == f"/ui/jobs/{job.uid}?done=job_refreshed"


async def test_a_form_without_its_token_does_nothing(browser, world):
    job = await world.job("job_1")
    refused = await browser.post(f"/ui/jobs/{job.uid}/refresh", csrf=False)
    assert refused.status == 403
    assert world.tracking.refreshed == []


async def test_a_token_that_may_only_read_does_not_act(open_as, world):
    job = await world.job("job_1")
    browser = await open_as(token="rl_read")
    assert (await browser.get("/ui/jobs")).soup.rows()[0]["Job"].endswith(" job_1")
    refused = await browser.post(f"/ui/jobs/{job.uid}/refresh")
    assert refused.status == 403
    assert world.tracking.refreshed == []


async def test_a_bound_token_sees_its_account_only(open_as, world):
    await world.job("job_1")
    await world.job("job_2", account="second")
    browser = await open_as(scopes=["read"], account=("revor", "second"))
    rows = (await browser.get("/ui/jobs")).soup.rows()
    assert [row["Job"].rpartition(" ")[2] for row in rows] == ["job_2"]
