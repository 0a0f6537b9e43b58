"""Subscriptions in the dashboard: the list, one of them, its form with a preview, and its actions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.clock import from_rfc3339
from relay.core.deliveries.credentials import SECRET_FIELDS
from relay.core.figures import Row
from relay.core.turns import ADMINISTRATOR, RECEIVER
from relay.web.subscription_words import concerns_of
from subscribers.registry import kinds
from tests.support.api_world import HOOK, SLACK, World
from tests.support.store_kit import claim, result_of, subscription
from tests.support.web_world import Answer, Browser

Fields = dict[str, str | Sequence[str]]
EVERY_TYPE = ["ai.revor.job.failed", "ai.revor.job.overdue", "relay.group.finished", "com.acme.invoice.paid"]


async def api(world: World, browser: Browser, method: str, path: str, **given: Any) -> Any:
    """A call of the API by the same browser, on loopback."""
    answer = await browser.client.request(method, path, headers={"accept": "application/json"}, **given)
    assert answer.status_code < 400, answer.text
    return answer.json()


async def subscribed(world: World, browser: Browser, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = await api(world, browser, "POST", "/v1/subscriptions", json={"sink": HOOK, **body})
    return made


async def shown(world: World, browser: Browser, id: str) -> dict[str, Any]:
    found: dict[str, Any] = await api(world, browser, "GET", f"/v1/subscriptions/{id}")
    return found


def filled(page: Answer, **changes: str | Sequence[str]) -> Fields:
    """The form of a page as the browser would send it, with some fields filled in."""
    (form,) = [one for one in page.soup.forms() if "sink" in one.fields]
    types = [one.get("value") for one in page.soup.all("//input[@name='types'][@checked]")]
    return {**form.fields, "types": types, **changes}


def errors_of(page: Answer) -> dict[str, str]:
    """The errors at their fields."""
    found = {}
    for one in page.soup.all("//*[contains(@class, 'field-error')]"):
        name = one.get("id").removesuffix("-error")
        found[name] = " ".join(one.text_content().split())
        described = page.soup.one(f"//*[@id='{name}']")
        assert f"{name}-error" in described.get("aria-describedby").split()
    return found


# --- the list


async def test_list_shows_how_each_stands(browser: Browser, world: World) -> None:
    well = await subscribed(world, browser, description="The CRM")
    paused = await subscribed(world, browser, sink="https://other.example/hooks")
    await api(world, browser, "POST", f"/v1/subscriptions/{paused['id']}/pause")
    for _ in range(2):
        await world.poll(await world.job("job_1"), "queued")
    day = world.now - world.now % 86_400
    stored = [
        Row("attempt_seconds", well["id"], "day", day, 10, 8, 2.0),
        Row("attempts", well["id"], "day", day, 0, 8, 0.0),
        Row("attempts_failed", well["id"], "day", day, 0, 2, 0.0),
    ]
    await world.store.figures.add(stored)

    page = await browser.get("/ui/subscriptions")
    rows = {row["Subscription"]: row for row in page.soup.rows()}

    assert rows["The CRM"]["State"] == "Works"
    assert rows["The CRM"]["Where to"] == "Webhook"
    assert rows["The CRM"]["Success"] == "75.0 %"
    assert rows["The CRM"]["Waiting"] == "1"
    assert rows["The CRM"]["Last delivery"] == "none yet"
    assert rows["The CRM"]["Whose turn"] == ""
    other = next(row for name, row in rows.items() if name != "The CRM")
    assert other["State"] == "Paused"
    assert other["Success"] == "—"
    assert other["Whose turn"] == "an administrator"
    assert list(rows)[-1] == "The CRM", "those that need someone come first"
    one = await browser.get(f"/ui/subscriptions/{well['id']}")
    assert one.soup.texts("//article[@aria-label='Response time']/p[@class='value']")[0].endswith("ms")


SUBSCRIPTION: Mapping[str, Any] = {
    "id": "sub_1",
    "sink": HOOK,
    "description": "The CRM",
    "config": {"kind": "webhook"},
    "state": "enabled",
    "state_since": "2026-05-20T10:00:00.000Z",
    "state_reason": None,
    "disabled_reason": None,
    "failing_since": None,
    "failing_reason": None,
}
FAILING = {"failing_since": "2026-05-20T10:00:00.000Z", "failing_reason": "http_503"}
OFF = {"state": "disabled", "disabled_reason": "http_410"}
NOW = from_rfc3339("2026-05-20T11:00:00.000Z")
WRONG_WITH_IT: tuple[tuple[str, Mapping[str, Any], dict[str, int], list[tuple[str, str, list[str]]]], ...] = (
    ("well", {}, {}, []),
    ("fails", FAILING, {"dead": 58}, [("failing", RECEIVER, ["pause", "test", "send_again"])]),
    (
        "credential",
        {**FAILING, "failing_reason": "http_401"},
        {},
        [("failing", ADMINISTRATOR, ["correct", "pause", "test"])],
    ),
    ("off", OFF, {"pending": 4}, [("switched_off", RECEIVER, ["test", "resume"])]),
    ("given up", {}, {"dead": 1}, [("send_again", ADMINISTRATOR, ["send_again", "deliveries", "test"])]),
    ("paused", {"state": "paused"}, {"pending": 61}, [("paused", ADMINISTRATOR, ["resume", "who_paused"])]),
    ("consent", {"state": "pending"}, {}, [("consent", RECEIVER, ["ask_again"])]),
    ("in doubt", {}, {"uncertain": 2}, [("uncertain", ADMINISTRATOR, ["settle"])]),
    ("pulled", {"config": {"kind": "pull"}, "sink": None}, {"pending": 9}, []),
)


@pytest.mark.parametrize(("changes", "counts", "expected"), [case[1:] for case in WRONG_WITH_IT])
def test_what_is_wrong_has_a_turn_and_its_actions(
    changes: Mapping[str, Any], counts: dict[str, int], expected: list[tuple[str, str, list[str]]]
) -> None:
    group = {"subscription_id": "sub_1", "sink": HOOK, "least": False, "oldest_at": "2026-05-20T10:00:00.000Z"}
    groups = {
        state: [{**group, "newest_at": group["oldest_at"], "count": counts[state]}] if state in counts else []
        for state in ("dead", "uncertain", "pending")
    }
    found = concerns_of({**SUBSCRIPTION, **changes}, groups["dead"], groups["uncertain"], groups["pending"], NOW)
    assert [(one.key, one.turn, [act.key for act in one.acts]) for one in found] == expected
    assert all(
        "{" not in one.sentence and (not counts or one.held or one.key in ("send_again", "uncertain")) for one in found
    )


async def test_page_begins_with_what_is_wrong_and_the_button(
    browser: Browser, world: World, open_as: Callable[..., Any]
) -> None:
    id = (await subscribed(world, browser, description="The CRM"))["id"]
    path = f"/ui/subscriptions/{id}"
    assert (await browser.get(path)).soup.headings[:2] == ["The CRM", "Nothing was sent to it yet"]
    await browser.post(f"{path}/pause")
    for _ in range(2):
        await world.poll(await world.job("job_1"), "queued")
    page = (await browser.get(path)).soup
    assert page.headings[:2] == ["The CRM", "The CRM is paused"]
    (card,) = page.all("//section[contains(@class, 'card warn')]")
    assert " ".join(card.xpath("string(p[@class='turn'])").split()) == "Whose turn: an administrator"
    assert "1 event waits" in card.xpath("string(p[@class='holds'])")
    assert card.xpath(".//form/@action") == [f"{path}/resume"]
    assert page.form(f"{path}/resume").buttons == ["Resume the subscription"], "once on the page"
    reader = await open_as(token="rl_read")
    assert (await reader.get(path)).soup.all("//section[contains(@class, 'card')]//button") == []


async def test_a_subscription_with_records_in_doubt_is_not_shown_as_failing(browser: Browser, world: World) -> None:
    id = (await subscribed(world, browser, description="The CRM"))["id"]
    await world.poll(await world.job("job_1"), "queued")
    (claimed,) = await claim(world.store, id, now=world.now)
    await world.store.deliveries.record(result_of(claimed, "uncertain", now=world.now, reason="not_found"))
    (row,) = (await browser.get("/ui/subscriptions")).soup.rows()
    assert row["State"] == "In doubt"


# --- actions


async def audited(world: World, browser: Browser, action: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api(world, browser, "GET", f"/v1/audit?action={action}"))["items"]
    return found


async def test_pause_and_resume_are_done_and_audited(browser: Browser, world: World) -> None:
    id = (await subscribed(world, browser))["id"]
    done = await browser.post(f"/ui/subscriptions/{id}/pause")
    assert done.said == "The subscription is paused. Its events are recorded and wait."
    assert (await shown(world, browser, id))["state"] == "paused"
    assert [one["target"] for one in await audited(world, browser, "subscriptions.pause")] == [id]
    (who,) = done.soup.attributes("//a[text()='Who paused it']", "href")
    assert who == "/ui/audit?action=subscriptions.pause"
    done = await browser.post(f"/ui/subscriptions/{id}/resume")
    assert done.said == "The subscription is enabled. Waiting events are sent."
    assert (await shown(world, browser, id))["state"] == "enabled"


async def test_events_are_named_with_their_group(browser: Browser, world: World) -> None:
    types = ["relay.incident.opened", "ai.revor.job.failed", "relay.incident.closed"]
    made = await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "types": types})
    page = await browser.get(f"/ui/subscriptions/{made.json()['id']}")
    assert "Jobs that need someone: FailedIncidents: Opened, Closed" in page.soup.text


async def test_a_test_shows_the_answer_of_the_sink(browser: Browser, world: World) -> None:
    id = (await subscribed(world, browser))["id"]
    page = await browser.post(
        f"/ui/subscriptions/{id}/test", {"type": "ai.revor.job.failed", "metadata": '{"deal": 42}'}
    )
    assert page.status == 200
    assert "The receiver accepted it 200 OK" in page.soup.text
    assert "ok" in page.soup.texts("//pre")
    ((_, event),) = world.dispatcher.tested
    assert event.type == "ai.revor.job.failed"
    assert event.document()["data"]["metadata"]["deal"] == 42
    refused = await browser.post(f"/ui/subscriptions/{id}/test", {"metadata": "{"})
    assert refused.status == 422
    assert len(world.dispatcher.tested) == 1


async def test_a_new_secret_is_shown_once(browser: Browser, world: World) -> None:
    made = await subscribed(world, browser)
    page = await browser.post(f"/ui/subscriptions/{made['id']}/rotate-secret", {"overlap": "3600"})
    (secret,) = [one for one in page.soup.texts("//pre") if one.startswith("whsec_")]
    assert secret != made["config"]["secret"]
    assert secret not in (await browser.get(f"/ui/subscriptions/{made['id']}")).html


async def test_delete_asks_and_then_removes(browser: Browser, world: World) -> None:
    id = (await subscribed(world, browser))["id"]
    page = await browser.get(f"/ui/subscriptions/{id}")
    assert page.soup.form(f"/ui/subscriptions/{id}/delete").buttons == ["Delete"]
    assert page.soup.all("//details[contains(@class, 'confirm')]//form[contains(@action, '/delete')]")
    done = await browser.post(f"/ui/subscriptions/{id}/delete")
    assert done.path.startswith("/ui/subscriptions?")
    assert done.said.startswith("The subscription is deleted")
    assert (await browser.get(f"/ui/subscriptions/{id}")).status == 404


async def test_a_reader_sees_no_actions_and_cannot_act(
    open_as: Callable[..., Any], browser: Browser, world: World
) -> None:
    made = await subscribed(world, browser)
    reader = await open_as(token="rl_read")
    page = await reader.get(f"/ui/subscriptions/{made['id']}")
    assert page.status == 200
    assert page.soup.forms() == []
    assert HOOK not in page.html
    assert "New subscription" not in (await reader.get("/ui/subscriptions")).soup.links()
    for path in ("new", f"{made['id']}/edit"):
        assert (await reader.get(f"/ui/subscriptions/{path}")).status == 403
    for action in ("pause", "resume", "test", "rotate-secret", "delete", "edit"):
        assert (await reader.post(f"/ui/subscriptions/{made['id']}/{action}")).status == 403
    assert (await reader.post("/ui/subscriptions/new", {"sink": HOOK})).status == 403
    assert (await reader.post("/ui/subscriptions/preview", {"sink": HOOK})).status == 403
    assert (await shown(world, browser, made["id"]))["state"] == "enabled"


async def test_a_bound_token_sees_its_own(open_as: Callable[..., Any], browser: Browser, world: World) -> None:
    other = await subscribed(world, browser, description="of all")
    bound = await open_as(scopes=["read", "subscriptions:write"], account=("revor", "emea"))
    page = await bound.get("/ui/subscriptions/new", kind="webhook")
    assert (await bound.post("/ui/subscriptions/new", filled(page, sink=HOOK, description="mine"))).status == 200
    assert [row["Subscription"] for row in (await bound.get("/ui/subscriptions")).soup.rows()] == ["mine"]
    assert (await bound.get(f"/ui/subscriptions/{other['id']}")).status == 404
    assert (await bound.post("/ui/subscriptions/preview", {"id": other["id"], "sink": HOOK})).status == 404


# --- create


async def test_a_form_that_is_sent_twice_makes_one_subscription(browser: Browser, world: World) -> None:
    given = filled(await browser.get("/ui/subscriptions/new", kind="webhook"), sink=HOOK)
    first, second = [await browser.post("/ui/subscriptions/new", given) for _ in range(2)]
    assert (first.status, second.status) == (200, 200)
    assert len((await world.store.subscriptions.page(limit=10)).items) == 1
    await browser.post("/ui/subscriptions/new", {**given, "description": "another one"})
    assert len((await world.store.subscriptions.page(limit=10)).items) == 2


async def test_create_makes_what_the_fields_say(browser: Browser, world: World) -> None:
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    given = filled(
        page,
        sink=HOOK,
        description="The CRM",
        types=["ai.revor.job.failed"],
        other_types="com.acme.invoice.paid",
        filters='{"exact": {"/data/metadata/deal": 42}}',
        **{
            "config.template": '{"deal": "{{ metadata.deal }}"}',
            "protocolsettings.headers": "X-Team: sales",
            "config.retry_schedule": "5s, 5m",
            "config.ordering": "none",
            "sinkcredential.credentialtype": "PLAIN",
            "sinkcredential.identifier": "relay",
            "sinkcredential.secret": "hunter2hunter2",
        },
    )
    made = await browser.post("/ui/subscriptions/new", given)
    assert made.status == 200, made.soup.text
    (secret,) = [one for one in made.soup.texts("//pre") if one.startswith("whsec_")]
    assert "shown this once" in made.soup.text
    assert "hunter2hunter2" not in made.html
    (one,) = (await api(world, browser, "GET", "/v1/subscriptions"))["items"]
    assert one["description"] == "The CRM"
    assert one["types"] == ["ai.revor.job.failed", "com.acme.invoice.paid"]
    assert one["filters"] == [{"exact": {"/data/metadata/deal": 42}}]
    assert one["config"]["template"] == {"deal": "{{ metadata.deal }}"}
    assert one["config"]["retry_schedule"] == [5, 300]
    assert one["protocolsettings"]["headers"] == {"X-Team": "sales"}
    assert one["sinkcredential"] == {"credentialtype": "PLAIN", "identifier": "relay"}
    assert secret not in (await browser.get(f"/ui/subscriptions/{one['id']}")).html
    assert len(await audited(world, browser, "subscriptions.create")) == 1


CREDENTIAL = "sinkcredential."
WRONG: tuple[tuple[Fields, str, str], ...] = (
    ({"sink": ""}, "sink", "a sink is needed"),
    ({"sink": "https://127.0.0.1/hook"}, "sink", ""),
    ({"filters": "data.metadata.deal =="}, "filters", "line 1, column "),
    ({"filters": '[{"exact": {"chanel": "email"}}]'}, "filters", "filters[0].exact.chanel: "),
    ({"filters": '[{"exact":'}, "filters", "line 1, column "),
    ({"config.template": '{"a": \n "{{ metadata."}'}, "config.template", "a: "),
    ({"config.template": '{"a": \n nope}'}, "config.template", "line 2, column "),
    ({"config.retry_schedule": "often"}, "config.retry_schedule", "0: "),
    ({"config.retry_schedule": ", "}, "config.retry_schedule", "is empty: write it like 5s,5m,2h"),
    ({"config.concurrency": "1e9"}, "config.concurrency", ""),
    ({"config.concurrency": "many"}, "config.concurrency", ""),
    ({"config.batch": "1,2,3"}, "config.batch", "takes up to 2 numbers: max_events and max_seconds"),
    ({"config.dry_run": "perhaps"}, "config.dry_run", ""),
    ({"config.channel": "C0123456789"}, "config.channel", "kind webhook has no channel"),
    ({"protocolsettings.headers": "a b: c"}, "protocolsettings.headers", ""),
    ({"protocolsettings.headers": "X-Team"}, "protocolsettings.headers", "has no colon: write it like X-Team: sales"),
    ({"config.kind": "salesfroce"}, "config.kind", ""),
    ({"types": ["ai.revor.job.failed"], "other_types": "ai.revor.job.faild"}, "types", "1: "),
    ({"types": []}, "types", "choose at least one event"),
    ({"config.secret": "whsec_short"}, "config.secret", ""),
    (
        {f"{CREDENTIAL}credentialtype": "PLAIN", f"{CREDENTIAL}identifier": "a:b", f"{CREDENTIAL}secret": "hunter2x"},
        "sinkcredential.identifier",
        "",
    ),
    ({f"{CREDENTIAL}credentialtype": "OTHER"}, "sinkcredential.credentialtype", "choose a type"),
)


async def test_errors_stand_at_their_fields(browser: Browser, world: World) -> None:
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    for changes, field, text in WRONG:
        given = filled(page, **{"sink": HOOK, "description": "kept", **changes})
        refused = await browser.post("/ui/subscriptions/new", given)
        assert refused.status == 422, changes
        found = errors_of(refused)
        assert text in found[field], (changes, found)
        (summary,) = refused.soup.all("//div[@class='refused'][@role='alert']")
        assert summary.xpath(f".//a[@href='#{field}']"), "the summary leads to the field"
        assert "/config/" not in summary.text_content()
        again = filled(refused)
        assert again["description"] == "kept"
        for name in ("filters", "config.template", "other_types"):
            assert again[name] == given[name]
        assert again.get("config.secret") == given.get("config.secret")
    assert (await api(world, browser, "GET", "/v1/subscriptions"))["items"] == []
    previewed = await browser.post("/ui/subscriptions/preview", filled(page, sink=HOOK, filters="data.deal =="))
    assert "line 1, column " in errors_of(previewed)["filters"]


async def test_what_was_typed_stays_with_its_secrets(browser: Browser, world: World) -> None:
    """Each secret comes back in its own field, in the answer to the POST that carried it, which no cache keeps. It is
    nowhere else: not in the page, a log, the audit or a URL."""
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    typed = {
        "sink": SLACK,
        "description": "typed",
        "config.concurrency": "0",
        "config.secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "protocolsettings.headers": "X-Api-Key: very-secret-key\nX-Team: sales\nvery-secret-line",
        "filters": '{"exact":',
        "sinkcredential.credentialtype": "REFRESHTOKEN",
        "sinkcredential.refreshtoken": "very-secret-token",
        "sinkcredential.client_secret": "very-secret-client",
        "sinkcredential.refreshtokenendpoint": "https://login.example/token",
    }
    for path in ("/ui/subscriptions/new", "/ui/subscriptions/preview"):
        with capture_logs() as logs:
            again = await browser.post(path, filled(page, **typed), follow=False)
        fields = filled(again)
        assert {name: fields[name] for name in typed} == typed
        assert again.headers["cache-control"] == "no-store"
        assert "location" not in again.headers
        for secret in ("secretsecret", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "very-secret"):
            held = [str(value) for name, value in typed.items() if secret in str(value)]
            assert again.html.count(secret) == sum(value.count(secret) for value in held)
            assert secret not in str(logs)
    audit = await api(world, browser, "GET", "/v1/audit")
    assert "secret" not in str(audit)
    only_preview = await browser.client.post(
        "/ui/subscriptions/preview",
        data={**filled(page, **typed), "filters": "", "_csrf": await browser.csrf()},
        headers={"hx-request": "true"},
    )
    assert "very-secret" not in only_preview.text


async def test_every_input_of_a_secret_hides_it_and_is_saved_nowhere(browser: Browser) -> None:
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    found = {one.get("name") for one in page.soup.all("//input[@type='password'][@value='']")}
    assert found == {"config.secret", *(f"sinkcredential.{name}" for name in SECRET_FIELDS)}
    for one in page.soup.all("//input[@type='password']"):
        assert one.get("autocomplete") == "new-password"
    assert page.soup.one("//form[@id='subscription-form']").get("autocomplete") == "off"


# --- the kinds and what they usually get


async def test_each_kind_has_a_tile_with_a_sentence_and_its_form(browser: Browser) -> None:
    page = await browser.get("/ui/subscriptions/new")
    tiles = page.soup.all("//a[contains(@class, 'tile')]")
    assert [one.get("href") for one in tiles] == [f"/ui/subscriptions/new?kind={kind}" for kind in kinds()]
    assert {"Webhook", "Slack", "Teams", "Zapier, Make or n8n"} <= set(page.soup.texts("//a[@class='tile']/strong"))
    for one in tiles:
        assert one.xpath("string(span)").endswith(".")
        form = (await browser.get(one.get("href"))).soup
        assert form.headings[0] == f"New subscription: {one.xpath('string(strong)')}"
        open_fields = form.all(
            "//form[@id='subscription-form']//label[not(ancestor::details)][not(ancestor::fieldset)]"
        )
        assert 1 <= len(open_fields) <= 3, "where to and the name, and what the kind needs"


USUAL = (
    ("webhook", HOOK, False),
    ("slack", SLACK, True),
    ("flat", "https://hooks.zapier.com/hooks/catch/1/x", False),
)
"""Whether a kind usually gets only what needs someone; else it gets every event of jobs."""


@pytest.mark.parametrize(("kind", "sink", "only_trouble"), USUAL)
async def test_usual_types_are_chosen_and_stay_the_default(
    browser: Browser, world: World, kind: str, sink: str, only_trouble: bool
) -> None:
    page = await browser.get("/ui/subscriptions/new", kind=kind)
    types = filled(page)["types"]
    jobs = [one for one in types if one.startswith("ai.revor.job.")]
    assert ("ai.revor.job.queued" in jobs) is not only_trouble
    assert ("relay.incident.opened" in types) is only_trouble
    assert "ai.revor.job.failed" in jobs
    assert (await browser.post("/ui/subscriptions/new", filled(page, sink=sink))).status == 200
    ((stored,),) = [await world.store.subscriptions.all()]
    assert stored.kind == kind
    default = kinds()[kind].default_types(tuple(world.dependencies().settings.origins.values()))
    assert stored.types == default


async def test_address_of_another_kind_brings_that_kinds_usual_types(browser: Browser, world: World) -> None:
    """Slack's address in the form of a webhook: messages, and only those that need someone."""
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    shown_page = await browser.post("/ui/subscriptions/preview", filled(page, sink=SLACK))
    again = filled(shown_page)
    assert shown_page.soup.headings[0] == "New subscription: Slack"
    assert "relay.incident.opened" in again["types"]
    assert "ai.revor.job.queued" not in again["types"]
    assert (await browser.post("/ui/subscriptions/new", filled(page, sink=SLACK))).status == 200
    ((stored,),) = [await world.store.subscriptions.all()]
    assert stored.kind == "slack"
    assert "ai.revor.job.queued" not in (stored.types or ())


# --- edit


COMMON: Mapping[str, Any] = {
    "description": "everything",
    "types": EVERY_TYPE[:3],
    "source": "https://revor.ai/api/v1/outreach/jobs",
    "filters": [{"not": {"prefix": {"subject": "x-"}}}, {"exists": {"/data": True}}],
}
TUNED: Mapping[str, Any] = {
    "ordering": "none",
    "timeout_seconds": 7.5,
    "retry_schedule": [1.5, 60],
    "rate_per_second": 2.5,
    "concurrency": 3,
    "dry_run": True,
    "start": "earliest",
}
BEARER = {"credentialtype": "ACCESSTOKEN", "accesstoken": "very-secret-token"}
LOGIN = {"credentialtype": "PLAIN", "identifier": "relay", "secret": "very-secret-token"}
KINDS_FULL: Mapping[str, dict[str, Any]] = {
    "webhook": {
        "sink": HOOK + "?key=very-secret",
        "types": EVERY_TYPE,
        "protocolsettings": {"headers": {"X-Api-Key": "very-secret-key", "X-Team": "sales"}, "method": "PUT"},
        "sinkcredential": {"credentialtype": "HEADER", "name": "X-Other", "value": "very-secret-token"},
        "config": {
            "signature": "both",
            "content_mode": "batch",
            "batch": {"max_events": 7, "max_seconds": 2.5},
            "handshake": "required",
        },
    },
    "flat": {
        "sink": "https://hooks.zapier.com/hooks/catch/1/very-secret",
        "config": {"template": {"deal": "{{ metadata.deal }}", "n": [1, "{{ event.status }}"]}, "strict": True},
    },
    "slack": {
        "sink": SLACK,
        "config": {
            "metadata_keys": ["deal"],
            "time_zone": "Europe/Berlin",
            "digest_seconds": 30,
            "messages_per_minute": 5,
            "incidents": "both",
        },
    },
    "slack_workflow": {"sink": "https://hooks.slack.com/triggers/T/1/very-secret"},
    "teams": {
        "sink": "https://prod-00.westeurope.logic.azure.com/workflows/a/triggers/manual/paths/invoke?sig=very-secret",
        "config": {"time_zone": "Asia/Tokyo"},
    },
    "discord": {"sink": "https://discord.com/api/webhooks/1/very-secret", "config": {"digest_seconds": 60}},
    "hubspot": {
        "sink": "https://api.hubapi.com",
        "sinkcredential": BEARER,
        "config": {"record": ["note", "task"], "unmatched": "fail", "create_properties": True},
    },
    "salesforce": {
        "sink": "https://acme.my.salesforce.com",
        "sinkcredential": {
            "credentialtype": "CLIENTCREDENTIALS",
            "token_url": "https://acme.my.salesforce.com/services/oauth2/token",
            "client_id": "relay",
            "client_secret": "very-secret-token",
        },
        "config": {"object": "Task", "api_version": "62.0", "unmatched": "fail"},
    },
    "pipedrive": {
        "sink": "https://acme.pipedrive.com",
        "sinkcredential": {"credentialtype": "HEADER", "name": "x-api-token", "value": "very-secret-token"},
        "config": {"record": "activity", "attach": "person", "unmatched": "create"},
    },
    "kafka": {
        "sink": "kafkas://one.example:9093,two.example:9093",
        "sinkcredential": LOGIN,
        "protocolsettings": {
            "topicname": "jobs",
            "partitionkeyextractor": "{{ event.subject }}",
            "clientid": "me",
            "ackmode": "all",
            "saslmechanism": "SCRAM-SHA-256",
        },
        "config": {"content_mode": "binary"},
    },
    "nats": {"sink": "tls://nats.example:4222", "sinkcredential": LOGIN, "protocolsettings": {"subject": "jobs.all"}},
    "rabbitmq": {
        "sink": "amqps://rabbit.example/vhost",
        "sinkcredential": LOGIN,
        "protocolsettings": {"address": "/queues/jobs", "linkname": "me", "sendersettlementmode": "unsettled"},
    },
    "pull": {"sink": None, "protocol": "PULL"},
}
NOT_TUNED = {"pull": ("rate_per_second", "concurrency", "timeout_seconds", "retry_schedule", "dry_run")}


def body_for(kind: str) -> dict[str, Any]:
    own = KINDS_FULL[kind]
    tuned = {name: value for name, value in TUNED.items() if name not in NOT_TUNED.get(kind, ())}
    common = (
        {**COMMON, "types": EVERY_TYPE[:2]} if "record" in own.get("config", {}) or kind == "salesforce" else COMMON
    )
    return {**common, **own, "config": {**tuned, **own.get("config", {})}}


def bare_body(kind: str) -> dict[str, Any]:
    """Only what the kind needs: all else has its default, and keeps following it."""
    needed = {"salesforce": {"object": "Task"}, "hubspot": {"record": "note"}, "pipedrive": {"record": "note"}}
    config = {"config": needed[kind]} if kind in needed else {}
    return {**{name: value for name, value in KINDS_FULL[kind].items() if name not in ("config", "types")}, **config}


@pytest.mark.parametrize("kind", KINDS_FULL)
async def test_an_edit_loses_nothing(browser: Browser, world: World, kind: str) -> None:
    """The form sent back as it is changes nothing, and its preview uses what is stored. Another name changes only the
    name, also where everything else has its default."""
    made = await api(world, browser, "POST", "/v1/subscriptions", json=body_for(kind))
    assert made["config"]["kind"] == kind
    path = f"/ui/subscriptions/{made['id']}/edit"
    before, stored = await shown(world, browser, made["id"]), await world.store.subscriptions.get(made["id"])
    page = await browser.get(path)
    assert "very-secret" not in page.html

    done = await browser.post(path, filled(page))
    assert done.said == "The subscription is changed.", (errors_of(done), done.soup.text)
    assert await shown(world, browser, made["id"]) == before
    after = await world.store.subscriptions.get(made["id"])
    assert stored is not None
    assert after is not None
    assert replace(after, state_since=None) == replace(stored, state_since=None)

    previewed = await browser.post("/ui/subscriptions/preview", filled(page))
    assert previewed.status == 200
    assert "It gets" in previewed.soup.text or kind == "pull", previewed.soup.text
    assert "very-secret" not in previewed.html
    assert previewed.soup.form(path).fields["id"] == made["id"]

    bare = await api(world, browser, "POST", "/v1/subscriptions", json=bare_body(kind))
    path = f"/ui/subscriptions/{bare['id']}/edit"
    before, page = await shown(world, browser, bare["id"]), await browser.get(path)
    assert (await browser.post(path, filled(page, description="renamed"))).said
    assert await shown(world, browser, bare["id"]) == {**before, "description": "renamed"}


async def test_a_credential_is_kept_replaced_and_removed(browser: Browser, world: World) -> None:
    made = await subscribed(world, browser, sinkcredential=BEARER)
    path = f"/ui/subscriptions/{made['id']}/edit"
    page = await browser.get(path)
    assert filled(page)["sinkcredential.credentialtype"] == "keep"
    new = {"credentialtype": "PLAIN", "identifier": "me", "secret": "another", "token_url": "of another type"}
    await browser.post(path, filled(page, **{f"sinkcredential.{name}": value for name, value in new.items()}))
    shown_now = (await shown(world, browser, made["id"]))["sinkcredential"]
    assert shown_now == {"credentialtype": "PLAIN", "identifier": "me"}
    stored = await world.store.subscriptions.get(made["id"])
    assert stored is not None
    assert stored.credential is not None
    assert stored.credential.fields["secret"] == "another"
    await browser.post(path, filled(page, **{"sinkcredential.credentialtype": ""}))
    assert (await shown(world, browser, made["id"]))["sinkcredential"] is None


async def test_a_kept_credential_is_not_sent_elsewhere(browser: Browser, world: World) -> None:
    made = await subscribed(world, browser, sinkcredential=BEARER)
    path = f"/ui/subscriptions/{made['id']}/edit"
    refused = await browser.post(path, filled(await browser.get(path), sink="https://evil.example/hooks"))
    assert refused.status == 422
    assert "send the credential again" in errors_of(refused)["sinkcredential.credentialtype"]
    assert (await shown(world, browser, made["id"]))["sink"] == HOOK


# --- preview


async def test_preview_shows_the_request_without_script(browser: Browser, world: World) -> None:
    (event,) = await world.poll(await world.job("job_1"), "queued")
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    options = page.soup.all("//select[@name='event']//option")
    assert [one.get("value") for one in options] == ["", *filled(page)["types"], event.id]
    template = {"config.template": '{"the_job": "{{ job.id }}"}'}
    given = filled(page, sink=HOOK, event=event.id, types=[event.type], **template)
    shown_page = await browser.post("/ui/subscriptions/preview", given)
    assert shown_page.status == 200
    assert "It gets this event" in shown_page.soup.text
    assert f"POST {HOOK}" in shown_page.soup.text
    assert "the_job" in " ".join(shown_page.soup.texts("//pre"))
    assert "Of 1 events of the last 7 days it would have got 1." in shown_page.soup.text
    assert filled(shown_page)["config.template"] == given["config.template"]
    chosen = shown_page.soup.one("//select[@name='event'][@form='subscription-form']//option[@selected]")
    assert chosen.get("value") == event.id
    assert world.dispatcher.tested == []
    assert (await api(world, browser, "GET", "/v1/subscriptions"))["items"] == []


async def test_preview_needs_no_address_yet(browser: Browser) -> None:
    page = await browser.get("/ui/subscriptions/new", kind="slack")
    seen = await browser.post("/ui/subscriptions/preview", filled(page))
    assert (seen.status, errors_of(seen)) == (200, {})
    assert "It gets this event" in seen.soup.text
    assert filled(seen)["sink"] == ""


async def test_preview_needs_the_form_token(browser: Browser) -> None:
    assert (await browser.post("/ui/subscriptions/preview", {"sink": HOOK}, csrf=False)).status == 403


async def test_form_of_a_kind_that_this_version_lacks_says_so(browser: Browser, world: World) -> None:
    one = subscription(id="sub_01jvpq0000000000000000000z", kind="telegraph")
    await world.store.subscriptions.create(one)
    page = await browser.get(f"/ui/subscriptions/{one.id}/edit")
    assert page.status == 422
    assert "is not a kind of subscription" in page.html
