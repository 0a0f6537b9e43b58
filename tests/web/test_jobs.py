"""The pages of jobs: the list with its search, one job with its story, and what can be done."""

import orjson
import pytest

from relay.core.events.event import Hint
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.job import Observation, Problem, detect
from relay.core.polling.tracking import TrackRequest
from relay.core.records import ListingRecord, PollNote, PollRecord
from tests.support.api_world import NOW, ORIGIN, from_transition, new_id

RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting",
    fix="Reconnect it in Revor",
    who="account owner",
    repeat="safe",
    points_at="connect_account",
)
BROKEN = Problem(code="connect_account_reconnect_required", message="Session expired")
EVIL = "<img src=x onerror=alert(1)>"


async def add(world, id, **fields):
    request = TrackRequest(external_id=id, source="revor", account=fields.pop("account", "default"), **fields)
    return (await world.tracking.register([request]))[0].job


async def poll(world, job, status, after=0.0, *, problem=None, hint=None, **fields):
    """A poll so many seconds after NOW, of a LinkedIn message."""
    world.now = NOW + after
    known = await world.store.jobs.get(job.uid)
    item = {"id": job.external_id, "status": status}
    seen = Observation(
        status=status,
        observed_at=world.now,
        upstream=item,
        problem=problem,
        action="linkedin.invite",
        channel="linkedin",
        request_id=f"req_{status}",
        **fields,
    )
    transitions, progress = detect(known.progress, seen)
    events = tuple(
        from_transition(
            new_id("evt", world.now), known, one, ORIGIN, seen=seen, hint=hint if one.kind == status else None
        )
        for one in transitions
    )
    record = PollRecord(
        job_uid=job.uid,
        expected_sequence=known.progress.sequence,
        progress=progress,
        events=events,
        now=world.now,
        seen=seen,
        outcome=status if seen.terminal else None,
        hint=hint,
    )
    await world.store.jobs.record(record)
    if problem is not None:
        world.tracking.problems[job.external_id] = (problem, hint)


async def failed(world, id="job_1", **fields):
    job = await add(world, id, **fields)
    await poll(world, job, "queued", 2)
    await poll(world, job, "running", 60, started_at=NOW + 50)
    await poll(world, job, "failed", 100, finished_at=NOW + 97, problem=BROKEN, hint=RECONNECT)
    return job


async def jobs_shown(browser, path):
    page = await browser.get(path)
    assert page.status == 200, page.soup.text
    return [row["Job"].removesuffix("⧉") for row in page.soup.rows()] if page.soup.all("//table") else []


async def audited(world):
    return {entry.record.action async for entry in world.store.audit.entries()}


# --- the list


async def test_the_list_has_a_line_for_each_job_with_whom_it_is_for_and_what_became_of_it(open_as, world):
    browser = await open_as(search_keys=("deal",))
    await failed(world, group="spring", metadata={"name": "Ada Lovelace"})
    await add(world, "other_job", metadata={"deal": 42})
    await add(world, "of_nothing")
    known = await world.store.connect_accounts.known("revor", "default")
    account = ConnectAccount(
        source="revor", account="default", id="acc_1", state="ok", since=NOW, told_state="ok", name="Sales EMEA"
    )
    await world.store.connect_accounts.record(ListingRecord(known=known, now=NOW, changed=(account,)))
    third = await add(world, "third", metadata={"first_name": "Grace", "last_name": "H"})
    await poll(world, third, "succeeded", 3, connect_account_id="acc_1")
    rows = {row["Job"].removesuffix("⧉"): row for row in (await browser.get("/ui/jobs")).soup.rows()}
    lines = {id: [row[name] for name in ("For", "State", "Outcome", "From", "Campaign")] for id, row in rows.items()}
    assert lines == {
        "job_1": ["Ada Lovelace", "failed", "Account needs reconnecting", "LinkedIn", "springdefault"],
        "other_job": ["deal 42", "not seen yet", "Not looked at yet", "", ""],
        "of_nothing": ["of_nothing", "not seen yet", "Not looked at yet", "", ""],
        "third": ["Grace H", "succeeded", "The channel accepted it", "LinkedIn · Sales EMEA", ""],
    }


@pytest.mark.parametrize(("account", "shown"), [(None, ["Q4default", "Q4emea"]), (("revor", "emea"), ["Q4"])])
async def test_campaigns_of_one_name_are_told_apart_where_several_accounts_are_seen(open_as, world, account, shown):
    for name in ("default", "emea"):
        await add(world, f"of_{name}", account=name, group="Q4")
    page = await (await open_as(scopes=["read"], account=account)).get("/ui/jobs")
    assert sorted(row["Campaign"] for row in page.soup.rows()) == shown
    links = page.soup.attributes("//td[contains(@class, 'campaign')]/a", "href")
    assert max(links) == "/ui/jobs?group=Q4" + ("" if account else "&source=revor&account=emea")


async def test_tabs_filter_by_state_and_have_the_number_of_jobs(browser, world):
    await failed(world, group="spring")
    await add(world, "other")
    page = await browser.get("/ui/jobs", group="spring")
    tabs = page.soup.texts("//nav[@class='tabs']/a")
    assert tabs == ["All 1", "Open 0", "Failed 1", "Cancelled 0", "Succeeded 0"]
    assert page.soup.links()["Failed 1"] == "/ui/jobs?group=spring&status=failed"
    page = await browser.get("/ui/jobs", group="spring", status="failed", cursor="am9iX3g")
    assert page.soup.texts("//nav[@class='tabs']/a[@aria-current='true']") == ["Failed 1"]
    assert page.soup.links()["Open 0"] == "/ui/jobs?group=spring&open=true"


@pytest.mark.parametrize(
    ("text", "ids", "found"),
    [
        ("ada", {"job_1"}, "Found as: deal Ada Lovelace."),
        ("spring", {"job_1", "other"}, "Found as: the campaign Q4 spring."),
        ("job_", {"job_1"}, "Found as: an id, or its beginning, “job_”."),
        (EVIL, set(), "Nothing is found for “<img src=x onerror=alert(1)>”."),
    ],
)
async def test_one_field_finds_jobs_and_says_how(open_as, world, text, ids, found):
    browser = await open_as(search_keys=("deal",))
    await add(world, "job_1", group="Q4 spring", metadata={"deal": "Ada Lovelace"})
    await add(world, "other", group="Q4 spring")
    page = await browser.get("/ui/jobs", search=text)
    rows = page.soup.rows() if page.soup.all("//table") else []
    assert {row["Job"].removesuffix("⧉") for row in rows} == ids
    assert found in page.soup.text
    assert page.soup.form("/ui/jobs").fields["search"] == text


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", {"a", "b", "c"}),
        ("?open=false", {"b"}),
        ("?status=queued", {"a"}),
        ("?group=spring", {"a"}),
        ("?account=emea", {"c"}),
        ("?source=revor&account=default&open=true", {"a"}),
        ("?channel=linkedin&connect_account=acc_1", {"a"}),
        ("?key=deal&value=42", {"a"}),
        ("?metadata=deal:42", {"a"}),
        ("?key=deal&value=43", set()),
        ("?age=1h", {"a", "b", "c"}),
        ("?until=2000-01-01T00:00:00Z", set()),
    ],
)
async def test_filters_are_a_plain_form(open_as, world, query, ids):
    browser = await open_as(search_keys=("deal",))
    await poll(
        world, await add(world, "a", group="spring", metadata={"deal": 42}), "queued", connect_account_id="acc_1"
    )
    await poll(world, await add(world, "b"), "succeeded")
    await add(world, "c", account="emea")
    assert set(await jobs_shown(browser, f"/ui/jobs{query}")) == ids


async def test_an_exact_id_leads_to_its_job(browser, world):
    job = await add(world, "job 1")
    answer = await browser.get("/ui/jobs", search=" job 1 ")
    assert (answer.status, answer.headers["location"]) == (303, f"/ui/jobs/{job.uid}")
    assert (await browser.get("/ui/jobs", search=job.uid)).headers["location"] == f"/ui/jobs/{job.uid}"


async def test_an_id_of_several_accounts_shows_each(browser, world):
    uids = {account: (await add(world, "twin", account=account)).uid for account in ("default", "emea")}
    assert await jobs_shown(browser, "/ui/jobs?search=twin") == ["twin", "twin"]
    one = await browser.get("/ui/jobs", search="twin", account="emea")
    assert one.headers["location"] == f"/ui/jobs/{uids['emea']}"


async def test_the_list_as_a_file_has_the_problem_and_its_fix(browser, world):
    await failed(world, metadata={"note": "=1+1"})
    lines = (await browser.get("/ui/jobs?format=csv&status=failed")).html.splitlines()
    assert lines[0].split(",")[:5] == ["for", "id", "uid", "status", "outcome"]
    assert "Reconnect it in Revor" in lines[1]


# --- bulk actions


async def test_chosen_jobs_are_polled_again(browser, world):
    jobs = [await add(world, id) for id in ("a", "b")]
    done = await browser.post("/ui/jobs/bulk", {"action": "refresh", "id": [job.uid for job in jobs]})
    assert done.said == "2 jobs are polled again now."
    assert sorted(world.tracking.refreshed) == sorted(job.uid for job in jobs)


async def test_chosen_jobs_are_no_longer_tracked(browser, world):
    job = await add(world, "a")
    back = "/ui/jobs?group=spring"
    done = await browser.post("/ui/jobs/bulk", {"action": "untrack", "id": job.uid, "back": back}, follow=False)
    assert done.headers["location"].startswith("/ui/jobs?group=spring&done=jobs_untrack&n=1&seal=")
    assert (await world.store.jobs.get(job.uid)).outcome == "untracked"
    assert await audited(world) == {"jobs.bulk"}


# --- one job


async def test_a_failed_job_says_what_to_do_and_who_can(browser, world):
    job = await failed(world)
    page = await browser.get(f"/ui/jobs/{job.uid}")
    assert page.soup.headings[0] == "LinkedIn invite (job job_1) failed: the account needs reconnecting"
    told = page.soup.texts("//section[@aria-labelledby='to-do']")[0]
    assert told.startswith(
        "Reconnect it in Revor Whose turn: the owner of the sending account The LinkedIn account needs reconnecting."
    )
    assert "Nothing was sent: after the fix it can be sent again safely." in told
    assert "connect_account_reconnect_required" in told
    assert page.soup.links()["Open Revor"].startswith("https://")


async def test_the_story_has_each_event_with_its_durations(browser, world):
    job = await failed(world)
    world.now = NOW + 200
    page = await browser.get(f"/ui/jobs/{job.uid}")
    told = page.soup.texts("//ol[@class='story']/li")
    assert [line.split(" 2027-")[0] for line in told] == ["0 s", "+2 s", "+50 s", "+1 min 37 s"]
    assert told[1].endswith("is queued · for 48 s")
    assert told[2].endswith("is running · seen 10 s later · for 47 s")
    assert told[3].endswith("failed: the account needs reconnecting · seen 3 s later")


async def test_an_open_job_shows_what_comes_and_the_polls_that_found_nothing(browser, world):
    job = await add(world, "job_1")
    await poll(world, job, "scheduled", 1, scheduled_at=NOW + 20)
    for number in range(3):
        note = PollNote(job_uid=job.uid, polled_at=NOW + 4 + number, next_poll_at=NOW + 30)
        await world.store.jobs.note(note)
    world.now = NOW + 10
    page = await browser.get(f"/ui/jobs/{job.uid}")
    assert "2 more polls found nothing new or failed" in page.soup.text
    told = page.soup.texts("//ol[@class='story']/li")
    assert [line for line in told if "Next poll" in line or "It may start" in line or "Poll 4" in line]
    assert page.soup.texts("//*[@class='now']/*[local-name()='text']") == ["now"]
    assert "Its deadline comes in 7 d" in page.soup.text


# --- actions on one job


async def test_registering_again_tracks_the_job_and_sends_nothing(browser, world):
    job = await add(world, "job_1", group="spring", metadata={"deal": 42})
    await world.store.jobs.untrack(job.uid, NOW)
    page = await browser.get(f"/ui/jobs/{job.uid}")
    form = page.soup.form("/ui/jobs/register")
    assert orjson.loads(form.fields["body"]) == {
        "id": "job_1",
        "source": "revor",
        "account": "default",
        "group": "spring",
        "metadata": {"deal": 42},
    }
    done = await browser.post("/ui/jobs/register", form.fields)
    assert done.path.startswith(f"/ui/jobs/{job.uid}?done=job_registered&seal=")
    assert (await world.store.jobs.get(job.uid)).open
    assert world.gateway.passed == []


async def test_a_wrong_registration_is_shown_again_with_its_mistakes(browser) -> None:
    for body, status, said in [
        ("{", 400, "not JSON"),
        ('{"id": ""}', 422, "/id"),
        ('{"id": "a", "source": "other"}', 422, "/source"),
        ("[]", 422, ""),
        (f'"{EVIL}"', 422, ""),
    ]:
        page = await browser.post("/ui/jobs/register", {"body": body})
        assert page.status == status
        assert page.soup.form("/ui/jobs/register").fields["body"] == body
        assert said in page.soup.text
        assert not page.soup.all("//img")


async def test_untracking_and_erasing_ask_first_and_are_audited(browser, world):
    job = await failed(world)
    open_job = await add(world, "job_2")
    page = await browser.get(f"/ui/jobs/{open_job.uid}")
    questions = page.soup.texts("//details[@class='confirm']//p")
    assert len(questions) == 2
    done = await browser.post(f"/ui/jobs/{open_job.uid}/untrack")
    assert done.said == "The job is no longer tracked."
    assert (await world.store.jobs.get(open_job.uid)).outcome == "untracked"
    done = await browser.post(f"/ui/jobs/{job.uid}/purge")
    assert (done.path.partition("?")[0], done.said) == (
        "/ui/jobs",
        "The job, its events and their attempts are erased.",
    )
    assert await world.store.jobs.get(job.uid) is None
    assert await audited(world) == {"jobs.purge"}


async def test_who_may_only_read_sees_no_actions_and_cannot_act(open_as, world):
    job = await failed(world)
    open_job = await add(world, "job_2")
    browser = await open_as(scopes=["read"])
    for path in ("/ui/jobs", f"/ui/jobs/{job.uid}", f"/ui/jobs/{open_job.uid}"):
        assert not [form for form in (await browser.get(path)).soup.forms() if form.method == "post"]
    for action in ("refresh", "untrack", "purge"):
        assert (await browser.post(f"/ui/jobs/{open_job.uid}/{action}")).status == 403
    assert (await browser.post("/ui/jobs/bulk", {"action": "refresh", "id": open_job.uid})).status == 403
    assert (await browser.post("/ui/jobs/register", {"body": '{"id": "x"}'})).status == 403
    assert (await world.store.jobs.get(open_job.uid)).open


async def test_a_bound_token_neither_finds_nor_changes_jobs_of_others(open_as, world):
    job, own = await failed(world), await add(world, "own", account="emea")
    browser = await open_as(scopes=["read", "jobs:write"], account=("revor", "emea"))
    assert await jobs_shown(browser, "/ui/jobs") == ["own"]
    assert await jobs_shown(browser, "/ui/jobs?search=job_1") == []
    assert (await browser.get(f"/ui/jobs/{job.uid}")).status == 404
    page = await browser.post("/ui/jobs/bulk", {"action": "untrack", "id": [job.uid, own.uid]})
    assert "no job" in page.soup.text
    assert (await world.store.jobs.get(own.uid)).outcome == "untracked"
    assert (await world.store.jobs.get(job.uid)).outcome == "failed"


async def test_time_of_registration_is_also_an_age(browser, world):
    await add(world, "a")
    assert len((await browser.get("/ui/jobs", since="1d")).soup.rows()) == 1
    assert "No jobs match" in (await browser.get("/ui/jobs", until="1d")).soup.text


async def test_search_in_a_tab_that_finds_nothing_offers_all_jobs(browser, world):
    await add(world, "alpha")
    page = await browser.get("/ui/jobs", search="none", status="failed")
    assert "Nothing is found for “none” with these filters." in page.soup.text
    assert page.soup.attributes("//a[text()='Search all jobs']", "href") == ["/ui/jobs?search=none"]


async def test_a_job_whose_source_does_not_work_says_so(browser, world):
    job = await add(world, "job_1")
    world.tracking.states["default"] = "unauthorized"
    (row,) = (await browser.get("/ui/jobs")).soup.rows()
    assert row["Outcome"] == "Key refused: not looked at"
    page = await browser.get(f"/ui/jobs/{job.uid}")
    (card,) = page.soup.texts("//section[contains(@class, 'card bad')]/h2")
    assert card.startswith("Revor refuses")
    assert "Poll again now" not in page.html, "it would be refused, too"
