"""Groups, incidents, creates with an unknown fate, and the accounts: what their pages say and do."""

from dataclasses import replace

import pytest

from relay.core.events.event import SUBSCRIPTION_DISABLED
from relay.web.pages.overview import GROUPS
from tests.support.api_world import HOOK, NOW
from tests.support.store_kit import claim, intent, list_accounts, poll, relay_event, result_of, track

EVIL = "<img src=x onerror=alert(1)>\"'{{7*7}}"


async def add(world, *ids, group="Q4 campaign", outcome=None):
    for id in ids:
        await track(world.store, id, group=group)
        (job,) = await world.store.jobs.find(id)
        if outcome:
            await world.store.jobs.record(poll(job.uid, job.progress.sequence, outcome, outcome=outcome, now=world.now))


async def unknown(world, **fields):
    one = intent(NOW, channel="email", **fields)
    await world.store.intents.begin(one)
    await world.store.intents.unknown(one.id, "no_answer")
    return one


# --- groups


async def test_the_list_says_what_a_group_is_before_there_is_one(browser):
    page = await browser.get("/ui/groups")
    assert "No job has a group yet" in page.html
    assert "relay jobs add JOB_ID --group spring" in page.html
    assert "No group matches" in (await browser.get("/ui/groups?state=open")).html


async def test_a_group_shows_its_progress_and_its_failures(browser, world):
    await add(world, "a", "b")
    await add(world, "c", outcome="failed")
    (row,) = (await browser.get("/ui/groups")).soup.rows()
    assert row["Failed"] == "1"
    page = await browser.get("/ui/groups/Q4%20campaign")
    assert page.soup.texts("//p[@class='lead']")[0].startswith("1 of 3 jobs have ended, 1 of them failed.")
    assert "/ui/jobs?group=Q4+campaign" in page.html
    assert "relay groups show 'Q4 campaign'" in page.soup.texts("//code")[0]


async def test_jobs_that_were_not_found_are_not_hidden_among_those_that_have_ended(browser, world):
    await add(world, "a")
    await add(world, "b", "c", outcome="not_found")
    (row,) = (await browser.get("/ui/groups")).soup.rows()
    assert row["Failed"] == "0 2 not found"
    page = await browser.get("/ui/groups/Q4%20campaign")
    said = "2 of 3 jobs have ended, 0 of them failed. 2 were not found in Revor."
    assert page.soup.texts("//p[@class='lead']")[0].startswith(said)
    assert 'aria-label="2 of 3 jobs have ended, 0 failed, 2 not found"' in page.html
    assert "2 of 3, 0 failed, 2 not found" in (await browser.get("/ui")).soup.text


async def test_failures_of_a_group_lead_to_its_failed_jobs_and_to_the_incident(browser, world):
    await add(world, "a", "b")
    await world.fail("a")
    links = (await browser.get("/ui/groups/Q4%20campaign")).soup.links()
    assert links["reconnect"] == "/ui/jobs?group=Q4+campaign&status=failed&source=revor&account=default"
    assert links["See the incident"].startswith("/ui/incidents/inc_")


async def test_the_rate_of_a_young_group_is_not_shown(browser, world):
    await add(world, "a")
    await add(world, "b", outcome="failed")
    world.now += 60
    assert "jobs end per hour" not in (await browser.get("/ui/groups/Q4%20campaign")).html
    world.now += 600
    assert "jobs end per hour" in (await browser.get("/ui/groups/Q4%20campaign")).html


async def test_a_name_with_a_slash_leads_to_its_jobs(browser, world):
    await add(world, "a", group="2026/q4")
    for path in ("/ui/groups", "/ui"):
        assert "/ui/jobs?group=2026%2Fq4&amp;source=revor&amp;account=default" in (await browser.get(path)).html


async def test_a_group_is_closed_with_the_number_of_its_jobs(browser, world):
    await add(world, "a")
    done = await browser.post("/ui/groups/Q4%20campaign/close?source=revor&account=default", {"expected": "7"})
    assert done.said == "The group finishes with its last job."
    (group,) = await world.store.groups.find("Q4 campaign", None, None)
    assert (group.closed_at is not None, group.expected) == (True, 7)
    assert "7 jobs are expected in all." in done.html


@pytest.mark.parametrize("expected", ["-1", "x", "1e9", "99999999999", "١"])
async def test_a_number_of_jobs_that_is_none_closes_nothing(browser, world, expected):
    await add(world, "a")
    refused = await browser.post("/ui/groups/Q4%20campaign/close", {"expected": expected})
    assert refused.status == 422
    (group,) = await world.store.groups.find("Q4 campaign", None, None)
    assert group.closed_at is None


async def test_a_token_that_may_only_read_closes_no_group(open_as, world):
    await add(world, "a")
    browser = await open_as(token="rl_read")
    assert "No more jobs come" not in (await browser.get("/ui/groups/Q4%20campaign")).html
    assert (await browser.post("/ui/groups/Q4%20campaign/close")).status == 403


# --- incidents


async def test_an_incident_says_what_to_do_and_which_jobs_failed(browser, world):
    await world.fail("safe 1", "code 1")
    world.now += 5
    await world.fail("other 1", "code 1")
    (row,) = (await browser.get("/ui/incidents?state=open")).soup.rows()
    assert row["Failures"] == "2"
    path = str((await browser.get("/ui/incidents")).soup.all("//tbody//a")[0].get("href"))
    page = await browser.get(path)
    assert "Reconnect it" in page.html
    assert [one["Job"] for one in page.soup.rows()] == ["other 1", "safe 1"]
    assert [one["Job"] for one in (await browser.get(f"{path}?repeat=safe")).soup.rows()] == ["safe 1"]
    csv = await browser.get(f"{path}?format=csv")
    assert csv.html.splitlines()[1].startswith("other 1,")


async def test_an_incident_of_a_sink_names_its_subscription_and_leads_to_it(browser, world):
    made = await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "Team CRM"})
    id = made.json()["id"]
    await world.poll(await world.job("a"), "queued")
    (one,) = await claim(world.store, id, now=world.now)
    event = relay_event(SUBSCRIPTION_DISABLED, subject=id, now=world.now)
    gone = result_of(one, "dead", now=world.now, reason="http_410", disable="http_410", events=(event,), sink=HOOK)
    await world.store.deliveries.record_attempt(gone)
    found = await browser.get("/ui/incidents")
    path = str(found.soup.all("//tbody//a")[0].get("href"))
    page = await browser.get(path)
    advice = (await browser.client.get(path.replace("/ui", "/v1"))).json()["fix"]
    assert f"(relay deliveries retry --state dead --subscription {id})" in advice
    assert found.soup.texts("//tbody//small") == [advice]
    said = dict(zip(page.soup.texts("//dl/dt"), page.soup.texts("//dl/dd"), strict=True))
    assert said["Subscription"].startswith("Team CRM")
    assert said["What to do"] == advice
    assert said["Failures"] == "1"
    assert said["Sending again"].startswith("No message is sent in Revor by it.")
    assert page.soup.links()["Open the subscription"] == f"/ui/subscriptions/{id}"


async def test_there_is_a_sentence_before_the_first_incident(browser):
    assert "No incident yet" in (await browser.get("/ui/incidents")).html
    assert (await browser.get("/ui/incidents/inc_none")).status == 404


# --- creates with an unknown fate


async def test_a_create_is_resolved_with_the_job_it_made(browser, world):
    one = await unknown(world)
    page = await browser.get("/ui/intents")
    assert "Email message" in page.html
    assert "No answer arrived." in page.html
    done = await browser.post(f"/ui/intents/{one.id}/resolve", {"fate": "sent", "job_id": "made"})
    assert done.said == "Recorded. The message has left the list."
    assert [job.external_id for job in await world.store.jobs.find("made")] == ["made"]


async def test_a_create_is_taken_off_the_list(browser, world):
    one = await unknown(world)
    assert (await browser.post(f"/ui/intents/{one.id}/dismiss")).said == "The message has left the list."
    assert "Nothing is in doubt" in (await browser.get("/ui/intents")).html


@pytest.mark.parametrize("fields", [{}, {"fate": "perhaps"}, {"fate": "not_sent", "job_id": "x"}])
async def test_what_is_no_answer_resolves_nothing(browser, world, fields):
    one = await unknown(world)
    assert (await browser.post(f"/ui/intents/{one.id}/resolve", fields)).status == 422
    assert len((await world.store.intents.page(limit=10, now=world.now)).items) == 1


# --- sources


async def test_accounts_that_cannot_send_stand_with_their_jobs(browser, world):
    fields = {"channel": "linkedin", "name": "Ada", "status": "credentials", "can_send": False}
    await list_accounts(world.store, ("revor", "default"), "acc_1", state="needs_reconnect", now=NOW, **fields)
    await list_accounts(world.store, ("revor", "default"), "acc_2", now=NOW)
    page = await browser.get("/ui/sources")
    assert "With today's budget" in page.soup.text
    assert "Ada" in page.html
    only = await browser.get("/ui/sources?state=needs_reconnect")
    assert ("Ada" in only.html, "acc_2" in only.html) == (True, False)


async def test_a_refused_key_says_where_a_new_one_is_set(browser, world, monkeypatch):
    page = await browser.get("/ui/sources")
    assert "Price of a poll" in page.soup.text
    assert "Not enough data yet." in page.soup.text  # with half of the budget
    (report, *_) = world.tracking.reports()
    refused = replace(report, state="unauthorized", since=NOW)
    monkeypatch.setattr(type(world.tracking), "reports", lambda _: [refused])
    page = await browser.get("/ui/sources")
    assert "sources.revor.accounts.default.api_key" in page.soup.text
    assert "kill -HUP" in page.soup.text
    assert "Price of a poll" not in page.soup.text


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (2.0, "to find its end at least 2 s earlier"),
        (0.0004, "Requests are plentiful."),
        (None, "Price of a poll"),
    ],
)
async def test_the_price_of_a_poll_is_told_in_words(browser, world, monkeypatch, price, text):
    (report, *_) = world.tracking.reports()
    monkeypatch.setattr(type(world.tracking), "reports", lambda _: [replace(report, price_seconds=price)])
    page = await browser.get("/ui/sources")
    assert text in page.soup.text
    assert "at least 0 ms" not in page.soup.text


# --- hostile values


async def test_what_comes_from_outside_stays_text(browser, world):
    await add(world, "a", group="<b>bold</b>")
    await unknown(world, metadata={"note": EVIL}, idempotency_key=EVIL)
    await list_accounts(world.store, ("revor", "default"), EVIL, name=EVIL, channel="linkedin", now=NOW)
    await world.fail("b", EVIL, EVIL)
    for path in ("/ui/groups", "/ui/intents", "/ui/sources", "/ui/incidents", "/ui"):
        page = await browser.get(path)
        assert page.status == 200, path
        assert not page.soup.all("//img | //b")


@pytest.mark.parametrize("path", ["/ui/groups", "/ui/incidents", "/ui/intents", "/ui/sources"])
async def test_each_list_is_a_file_for_a_spreadsheet(browser, path):
    answer = await browser.get(f"{path}?format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.html.splitlines()


# --- the overview


async def test_the_overview_says_that_more_groups_are_open(browser, world):
    for number in range(GROUPS):
        await add(world, f"job {number}", group=f"group {number}")
    assert "More groups are open" not in (await browser.get("/ui")).html
    await add(world, "one more", group="one more")
    page = await browser.get("/ui")
    assert page.soup.links()["More groups are open. See all of them"] == "/ui/groups?state=open"


async def test_a_bound_token_sees_the_overview_of_its_account(open_as, world):
    await world.job("job_1")
    browser = await open_as(scopes=["read"], account=("revor", "second"))
    page = await browser.get("/ui")
    assert page.status == 200
    (health,) = page.soup.texts("//p[contains(@class, 'health')]")
    assert health.startswith("All is well.")
