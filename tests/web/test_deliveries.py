"""Deliveries: counted by sink, reason and day, listed, one as a story, sent again and settled."""

import re

import pytest

from relay.core.deliveries.delivery import Timings
from relay.web import live
from tests.support.api_world import HOOK
from tests.support.store_kit import attempt, claim, result_of

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202egnp.exe\x07'
HTTP_500 = {"status_code": 500, "timings": Timings(dns_ms=2.0, connect_ms=18.0, tls_ms=21.0, first_byte_ms=42.0)}


async def subscribe(browser, **body):
    """The id of a subscription."""
    answer = await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "CRM sync", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def ended(world, id, state, reason, jobs=1, **fields):
    """Deliveries that ended so. Returns their ids."""
    for number in range(jobs):
        await world.poll(await world.job(f"{id[-4:]} {reason} {number}"), "queued")
    world.now += 1
    found = []
    for one in await claim(world.store, id, now=world.now):
        tried = attempt(1, **{"started_at": world.now, "duration_ms": 95.0, "decision": reason, **fields})
        due = {"due_at": world.now + 60} if state == "pending" else {}
        result = result_of(one, state, now=world.now, reason=reason, attempt=tried, **due)
        await world.store.deliveries.record(result)
        found.append(one.id)
    return found


async def state_of(world, id):
    return (await world.store.deliveries.get(id)).state


def facts(soup):
    """What the page says, by its terms."""
    return dict(zip(soup.texts("//dl[@class='facts']/dt"), soup.texts("//dl[@class='facts']/dd"), strict=True))


# --- groups


async def test_what_needs_a_person_is_counted_by_sink_reason_and_day(world, browser):
    id = await subscribe(browser)
    await ended(world, id, "dead", "http_503", jobs=2, status_code=503)
    await ended(world, id, "uncertain", "not_found_in_time")
    await ended(world, id, "pending", "timeout", status_code=None, error="timeout")
    await ended(world, id, "cancelled", "unmatched")
    page = await browser.get("/ui/deliveries")
    assert page.soup.texts("//h2/span[1]") == ["Not delivered", "In doubt"]
    (dead,) = page.soup.rows(0)
    assert (dead["To"], dead["Events"], dead["Day"]) == ("CRM sync", "2", "2027-01-15")
    assert dead["Why"] == "The receiver had an error of its own (503)"
    assert dead["Whose turn"] == "whoever runs the receiver"
    assert "Fix the receiver, then send them again" in page.soup.text
    (uncertain,) = page.soup.rows(1)
    assert "then say what you found" in page.soup.text
    assert (uncertain["Why"].partition(",")[0], uncertain["Whose turn"]) == ("No clear answer", "an administrator")
    assert "relay deliveries list --group-by sink,reason,day" in page.html
    other = await browser.get("/ui/deliveries", state="cancelled")
    assert "Add or correct the contact in the CRM" in other.soup.text
    one = await browser.get("/ui/deliveries", state="dead", by="reason")
    assert list(one.soup.rows(0)[0]) == ["Why", "Events", "Oldest", "Whose turn", "What to do"]


@pytest.mark.parametrize("path", ["/ui", "/ui/incidents"])
async def test_a_card_says_whom_a_record_in_doubt_is_about(world, open_as, path):
    browser = await open_as(search_keys=("deal",))
    await ended(world, await subscribe(browser), "uncertain", "not_found_in_time")
    (why,) = (await browser.get(path)).soup.texts("//section[contains(@class, 'card bad')]/p[@class='why']")
    assert why.endswith("It is about deal 42.")
    assert (
        "It is about deal 42."
        in (await browser.get("/ui/groups")).soup.one("//p[contains(@class, 'worst')]").text_content()
    )


# --- the list


# --- one delivery


async def test_a_delivery_is_told_with_its_attempts(world, browser):
    (id,) = await ended(
        world,
        await subscribe(browser),
        "dead",
        "http_500",
        **HTTP_500,
        request_headers=(("webhook-id", "evt_1"),),
        response_headers=(("server", "nginx"),),
        response_excerpt="it broke",
        remote_ip="192.0.2.7",
    )
    page = await browser.get(f"/ui/deliveries/{id}")
    told = facts(page.soup)
    assert "Given up after one attempt." in page.soup.texts("//p[@class='lead']")[0]
    assert told["Likely cause"] == "the receiver fails. Fix it: its log says what is wrong."
    assert told["What next"].startswith("Nothing, unless you send it again.")
    (row,) = page.soup.rows()
    assert (row["DNS"], row["Connect"], row["TLS"], row["Wait"], row["Rest"], row["Total"]) == (
        "2 ms",
        "18 ms",
        "21 ms",
        "42 ms",
        "12 ms",
        "95 ms",
    )
    widths = [float(one) for one in page.soup.attributes("//*[@class='attempt']/*[name()='rect']", "width")]
    assert [round(width / 300 * 95) for width in widths] == [2, 18, 21, 42, 12], "the bar is to scale"
    assert page.soup.attributes("//*[@class='attempt']", "aria-label") == [
        "DNS 2 ms, Connect 18 ms, TLS 21 ms, Wait 42 ms, Rest 12 ms"
    ]
    assert "it broke" in page.html
    assert '"specversion": "1.0"' in page.soup.texts("//pre[@class='bytes']")[0]
    assert f"relay deliveries show {id}" in page.html


async def test_who_may_only_read_sees_an_attempt_without_what_was_sent_and_answered(world, browser, open_as):
    (id,) = await ended(
        world,
        await subscribe(browser),
        "dead",
        "http_500",
        **HTTP_500,
        request_headers=(("x-sent", "planted-1"),),
        response_headers=(("x-echo", "planted-2"),),
        response_excerpt="planted-3",
    )
    page = await (await open_as(token="rl_read")).get(f"/ui/deliveries/{id}")
    assert "planted" not in page.html
    assert "Headers and answers are shown to those who may change the subscription." in page.html
    assert "Likely cause" in facts(page.soup)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"response_excerpt": HOSTILE}, r"&lt;script&gt;alert\(1\)&lt;/script&gt;.*\\u202egnp\.exe\\u0007"),
        ({"response_excerpt": "00ff" * 10, "excerpt_is_hex": True}, "as hexadecimal bytes"),
        ({"response_excerpt": "A" * 65_536}, "61,536 more characters"),
        ({"error": HOSTILE, "status_code": None}, r"\\u202egnp\.exe"),
        ({"response_headers": ((HOSTILE, HOSTILE),)}, r"&lt;img src=x onerror=alert\(2\)&gt;"),
        ({"decision": HOSTILE}, r"\\u202egnp\.exe"),
    ],
)
async def test_what_a_sink_answers_is_inert(world, browser, body, shown):
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500", **body)
    page = await browser.get(f"/ui/deliveries/{id}")
    assert re.search(shown, page.html, re.DOTALL)
    assert "\u202e" not in page.html
    assert "\x07" not in page.html
    assert page.soup.all("//script[not(@src)]|//img[@onerror]") == []
    assert len(page.html) < 60_000


async def test_a_delivery_is_sent_again(world, browser):
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500")
    woken = world.signals.woken
    done = await browser.post(f"/ui/deliveries/{id}/retry")
    path = done.path.partition("&seal=")[0]
    assert (path, await state_of(world, id), world.signals.woken) == (
        f"/ui/deliveries/{id}?done=delivery_retried",
        "pending",
        woken + 1,
    )
    entries = (await browser.client.get("/v1/audit", params={"action": "deliveries.retry"})).json()["items"]
    assert id in str(entries)


@pytest.mark.parametrize(("fate", "state"), [("sent", "delivered"), ("not_sent", "pending")])
async def test_a_delivery_in_doubt_is_settled_by_a_person(world, browser, fate, state):
    (id,) = await ended(world, await subscribe(browser), "uncertain", "not_found_in_time")
    page = await browser.get(f"/ui/deliveries/{id}")
    assert page.soup.attributes("//input[@name='fate']", "value") == ["sent", "not_sent"]
    assert "If the record is there after all, it is there twice." in page.html
    done = await browser.post(f"/ui/deliveries/{id}/settle", {"fate": fate})
    assert done.said.startswith("Recorded: it")
    assert await state_of(world, id) == state
    assert (await browser.post(f"/ui/deliveries/{id}/settle", {"fate": "sent"})).status == 409


async def test_the_signed_request_is_for_admins(world, browser, open_as):
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500")
    assert f"/ui/deliveries/{id}/request" in (await browser.get(f"/ui/deliveries/{id}")).html
    request = await browser.get(f"/ui/deliveries/{id}/request")
    assert "webhook-signature" in request.html
    reader = await open_as(token="rl_read")
    assert "/request" not in (await reader.get(f"/ui/deliveries/{id}")).html
    assert (await reader.get(f"/ui/deliveries/{id}/request")).status == 403


async def test_a_token_that_may_only_read_sees_no_buttons_and_no_path_of_a_sink(world, browser, open_as):
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500")
    reader = await open_as(token="rl_read")
    for path in (f"/ui/deliveries/{id}", "/ui/deliveries", "/ui/deliveries?view=list"):
        page = await reader.get(path)
        assert page.status == 200
        assert "/hooks" not in page.html
        assert page.soup.all("//main//form[@method='post']") == []
        assert "Send again" not in page.html
    assert (await reader.post(f"/ui/deliveries/{id}/retry")).status == 403
    assert (await reader.get("/ui/deliveries/retry?state=dead")).status == 403
    assert await state_of(world, id) == "dead"


async def test_a_bound_token_sees_the_deliveries_of_its_account_only(world, browser, open_as):
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500")
    bound = await open_as(scopes=["read", "subscriptions:write"], account=("revor", "emea"))
    assert "Nothing has failed for good." in (await bound.get("/ui/deliveries", state="dead")).html
    assert (await bound.get("/ui/deliveries?view=list")).soup.all("//tbody/tr") == []
    assert (await bound.get(f"/ui/deliveries/{id}")).status == 404
    assert (await bound.post(f"/ui/deliveries/{id}/retry")).status == 404


# --- many at once


async def test_a_group_is_counted_before_it_is_sent_again(world, browser):
    id = await subscribe(browser)
    await ended(world, id, "dead", "http_503", jobs=2)
    (other,) = await ended(world, id, "dead", "dns", status_code=None, error="dns")
    page = await browser.get("/ui/deliveries")
    (path,) = [one.get("href") for one in page.soup.all("//a[text()='Send again…']") if "http_503" in one.get("href")]
    counted = await browser.get(path)
    assert "2 events would be sent again." in counted.html
    assert "--dry-run" not in counted.html
    (form,) = [one for one in counted.soup.forms() if one.action == "/ui/deliveries/retry"]
    started = await browser.post(form.action, form.fields)
    assert started.said == "Started. 2 events are sent again."
    assert started.path.startswith("/ui/replays/rpl_")
    await world.store.replays.advance(started.path[12:].partition("?")[0], "node", world.now)
    assert await state_of(world, other) == "dead"
    assert len((await browser.get("/ui/deliveries", view="list", state="pending")).soup.rows()) == 2


async def test_where_nothing_needs_a_person_one_sentence_says_so(world, browser):
    assert "Nothing is sent yet." in (await browser.get("/ui/deliveries")).soup.text
    await ended(world, await subscribe(browser), "delivered", "http_200")
    page = await browser.get("/ui/deliveries")
    assert page.soup.all("//table") == []
    assert len(page.soup.texts("//div[@class='empty']/p")) == 1
    assert "Nothing has failed for good." in (await browser.get("/ui/deliveries", state="dead")).soup.text


async def test_nothing_to_send_again_is_a_sentence_without_a_button(world, browser):
    id = await subscribe(browser)
    page = await browser.get("/ui/deliveries/retry", state="dead", subscription=id)
    assert page.soup.texts("//div[@class='empty']/p") == ["There is nothing to send again: no such delivery is left."]
    counted = await browser.post("/ui/replays/new", {"subscription": id, "since": "1d", "only": "undelivered"})
    assert counted.soup.texts("//div[@class='empty']/p") == ["There is nothing to send again in this range."]
    for one in (page, counted):
        assert [form for form in one.soup.forms() if form.method == "post"] == []


async def test_sending_again_to_a_receiver_that_fails_says_so(world, browser):
    id = await subscribe(browser)
    await ended(world, id, "dead", "http_503", status_code=503)
    assert "Repair it first" not in (await browser.get("/ui/deliveries/retry", state="dead", subscription=id)).soup.text
    await world.store.subscriptions.set_sink_health(
        id, failing_since=world.now, failing_reason="http_503", paused_until=None
    )
    assert "Repair it first" in (await browser.get("/ui/deliveries/retry", state="dead", subscription=id)).soup.text


async def test_a_delivery_to_a_chat_names_its_job_and_leads_to_its_request(world, open_as):
    browser = await open_as(search_keys=("deal",))
    id = await subscribe(browser, config={"kind": "slack"}, types=["ai.revor.job.queued"])
    (delivery,) = await ended(world, id, "delivered", "http_200", status_code=200)
    page = await browser.get(f"/ui/deliveries/{delivery}")
    assert page.soup.texts("//h1") == ["“Job queued” to CRM sync"]
    assert facts(page.soup)["Job"].startswith("deal 42")
    assert "It was made from this event:" in page.soup.text
    assert page.soup.attributes("//a[starts-with(text(), 'Show the request')]", "href") == [
        f"/ui/deliveries/{delivery}/request"
    ]


async def test_pages_are_sent_again_while_they_are_open(world, browser, monkeypatch):
    async def pause(_seconds: float) -> bool:
        world.node.stop()  # a page that moves by itself waits for no signal
        return False

    monkeypatch.setattr(live, "_sleep", pause)
    (id,) = await ended(world, await subscribe(browser), "dead", "http_500", **HTTP_500)
    started = await browser.client.post("/v1/deliveries/retry", json={"filter": {}})
    event = (await world.store.deliveries.get(id)).event_id
    replay = started.json()["replay_id"]
    for path in (
        "deliveries",
        "deliveries?view=list",
        f"deliveries/{id}",
        f"replays/{replay}",
        "events",
        f"events/{event}",
    ):
        world.node.stopping = False
        answer = await browser.client.get(f"/ui/{path}", headers={"accept": "text/event-stream"})
        assert answer.status_code == 200
        assert "data: <" in answer.text, path


# --- what the overview says of them
