"""Digests: several events as one message, in neutral words and as Slack gets it."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core import relay_events
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import GROUP_FINISHED, INCIDENT_EVENTS, Event, relay_event
from relay.core.jsontext import dumps
from relay.core.samples import sample_event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import Bundle, RenderContext
from subscribers.common.digest import Digest, Limits, digest
from tests.support.hostile_texts import TEXTS, TYPES, events_with
from tests.support.scale import scaled
from tests.support.slack_check import check_message
from tests.support.story_events import (
    CODE,
    CREDITS,
    ORIGIN,
    OVERDUE,
    RECONNECT,
    account_needs_reconnect,
    at,
    finished,
    of_incident,
    of_job,
)

CONTEXT = RenderContext(account_names={"emea": "EMEA sales"}, public_url="https://relay.example")
SLACK = registry.kind_named("slack")
SUBSCRIPTION = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
URL = "https://crm.example/deals/42"
APART = frozenset((GROUP_FINISHED, *INCIDENT_EVENTS))


def failed(number: int, *, clock: str = "10:23:10", **changes: Any) -> list[Event]:
    values: dict[str, Any] = {"hint": RECONNECT, "code": CODE, "sender": "acc_17", "url": URL}
    return [of_job("failed", clock, f"P{index}", **(values | changes)) for index in range(number)]


def overdue(number: int) -> list[Event]:
    return [of_job("overdue", "10:28:10", f"O{index}", hint=OVERDUE) for index in range(number)]


def of(*events: Event, **changes: Any) -> Digest:
    return digest(events, CONTEXT, **changes)


def test_heading_counts_what_happened_and_how_long_it_took() -> None:
    events = [*failed(8), *overdue(3), account_needs_reconnect("10:25:00", 43)]
    assert of(*events).heading == "12 events in 5 minutes: 8 failed, 3 overdue, 1 account trouble"
    assert of(*failed(1)).heading == "1 event: 1 failed"
    assert of(*failed(1000)).heading == "1,000 events in 1 second: 1,000 failed"


def test_heading_of_every_type_stays_short() -> None:
    events = [
        sample_event(type, event_id=f"evt_{type}", now=at("10:00:00"), origin=ORIGIN, dataschema_base="http://x")
        for type in TYPES
    ]
    assert of(*events).heading == (
        f"{len(TYPES)} events in 1 second: 1 incident opened, 1 incident grew, 1 failed, 1 create of unknown outcome, "
        "1 record of unknown fate, 1 not found, 1 overdue, 21 others"
    )


@pytest.mark.parametrize(
    ("zone", "last", "span"),
    [
        (None, "10:28:10", "2026-05-20 10:23:10 to 10:28:10 UTC"),
        ("Europe/Paris", "10:28:10", "2026-05-20 12:23:10 to 12:28:10 CEST"),
        ("Pacific/Auckland", "12:28:10", "2026-05-20 22:23:10 to 2026-05-21 00:28:10 NZST"),
        ("Nowhere/Else", "10:23:10", "2026-05-20 10:23:10 UTC"),  # known to another node of the relay
    ],
)
def test_span_is_in_the_time_of_the_reader(zone: str | None, last: str, span: str) -> None:
    assert of(*failed(1), *failed(1, clock=last), time_zone=zone).span == span


def test_span_says_that_the_clocks_were_changed() -> None:
    first, last = (
        replace(one, time=at("10:00:00") + days * 86_400) for one, days in zip(failed(2), (0, 200), strict=True)
    )
    assert of(first, last, time_zone="Europe/Paris").span == "2026-05-20 12:00:00 CEST to 2026-12-06 11:00:00 CET"


def test_name_of_the_upstream_keeps_its_capital_where_the_address_does_not_tell_it() -> None:
    (event,) = failed(1, hint=replace(CREDITS, meaning="Revor had no worker free"), sender=None)
    document = {**event.document(), "source": "http://127.0.0.1:8080/jobs"}
    (cluster,) = of(replace(event, body=dumps(document))).clusters
    assert cluster.title == "1 failed: Revor had no worker free"


def test_events_are_told_by_account_and_error_the_most_serious_first() -> None:
    elsewhere = {"hint": CREDITS, "code": "insufficient_credits", "account": "emea", "sender": None}
    events = [*overdue(3), *failed(2, **elsewhere), *failed(7), *failed(2, sender="acc_9"), *failed(1, code="other")]
    found = of(*events)
    assert [cluster.title for cluster in found.clusters] == [
        "7 failed on LinkedIn account acc_17: the account needs reconnecting",
        "2 failed for account EMEA sales: the Revor account has too few credits",
        "2 failed on LinkedIn account acc_9: the account needs reconnecting",
        "1 failed on LinkedIn account acc_17: the account needs reconnecting",
        "3 overdue",
    ]
    first = found.clusters[0]
    assert [line.sentence for line in first.lines] == [f"LinkedIn outreach to P{n} failed" for n in range(5)]
    assert {line.link for line in first.lines} == {URL}
    assert first.more == 2
    assert first.advice == (
        ("How to fix it", "Reconnect it in Revor"),
        ("Who can fix it", "account owner"),
        ("Sending them again", "is safe once this is fixed: nothing was sent"),
        ("Error", CODE),
    )
    assert dict(found.clusters[-1].advice)["Sending them again"] == "could reach people twice: they are still open"


def test_one_event_of_its_kind_has_its_own_advice() -> None:
    ((cluster,), rest) = (of(*failed(1)).clusters, of(*failed(1)).rest)
    assert dict(cluster.advice)["Sending it again"] == "is safe once this is fixed: nothing was sent"
    assert (cluster.more, rest) == (0, "")


def test_advice_that_differs_is_left_out() -> None:
    other = replace(RECONNECT, fix="Ask Ada", repeat="may_send_twice")
    ((cluster,), _) = (of(*failed(1), *failed(1, hint=other)).clusters, None)
    assert dict(cluster.advice) == {"Error": CODE}


def test_account_has_its_name_where_an_event_beside_it_tells_it() -> None:
    found = of(*failed(2), account_needs_reconnect("10:25:00", 43))
    assert found.clusters[0].title == "2 failed on LinkedIn account Ada Lovelace: the account needs reconnecting"


def test_account_of_the_relay_is_told_beside_the_sender() -> None:
    (cluster,) = of(*failed(2, account="emea")).clusters
    assert cluster.title.startswith("2 failed on LinkedIn account acc_17 (EMEA sales): ")


def test_several_creates_of_unknown_outcome_say_where_to_look() -> None:
    creates = [
        relay_event(
            f"evt_{n}",
            "relay.create.unknown",
            at("10:00:00"),
            {"source": "revor", "account": "default", "intent": f"int_{n}", "channel": "linkedin"},
            dataschema="http://x/s.json",
        )
        for n in range(2)
    ]
    (cluster,) = of(*creates).clusters
    assert cluster.title == "2 creates of unknown outcome"
    assert cluster.advice == (
        ("How to fix it", "Check in Revor which of them went out: relay intents list"),
        ("Sending them again", "could reach people twice: check first which of them were sent"),
    )


def test_events_about_a_sink_are_one_cluster() -> None:
    data = relay_events.subscription_data(
        subscription_id="sub_9", sink="https://x.example/", reason="410 Gone", since=0.0
    )
    disabled = relay_event("evt_1", "relay.subscription.disabled", at("10:00:00"), data, dataschema="http://x/s.json")
    (cluster,) = of(disabled, replace(disabled, id="evt_2")).clusters
    assert cluster.title == "2 sink troubles"
    assert cluster.advice == (("How to fix it", "Fix the receiver, then run: relay subscriptions resume sub_9"),)


def test_uncertain_records_are_a_cluster_of_their_own() -> None:
    def uncertain(n: int) -> Event:
        memory = Entry(record="note", target={"deal_id": n}, portal="x", at=0.0).memory()
        data = relay_events.delivery_uncertain_data(
            delivery_id=f"dlv_{n}", event_id=f"evt_{n}", event_type="ai.revor.job.failed", subscription_id="sub_9",
            job_id=str(n), attempts=1, last_error="target_gone", reason="cannot_tell", kind="pipedrive", memory=memory,
        )  # fmt: skip
        return relay_event(f"evt_9{n}", "relay.delivery.uncertain", at("10:00:00"), data, dataschema="http://x/s.json")

    (cluster,) = of(uncertain(1), uncertain(2)).clusters
    assert cluster.title == "2 records of unknown fate"
    fix = "Look which of them are there, and settle each: relay deliveries list --state uncertain"
    assert cluster.advice == (("How to fix it", fix),)
    (cluster, _) = of(uncertain(1), relay_event(
        "evt_1", "relay.subscription.disabled", at("10:00:00"),
        relay_events.subscription_data(subscription_id="sub_9", sink="https://x.example/", reason="410", since=0.0),
        dataschema="http://x/s.json",
    )).clusters  # fmt: skip
    assert cluster.title == "1 record of unknown fate"


def test_incidents_and_groups_have_sections_of_their_own() -> None:
    found = of(
        *failed(3), of_incident("opened", "10:23:10", 1, 43), finished(), of_incident("grew", "10:24:10", 10, 33)
    )
    assert found.heading.startswith("6 events in 45 minutes: 1 incident opened, 1 incident grew, 3 failed, 1 group")
    assert [one.line.sentence for one in found.sections] == [
        "10 LinkedIn jobs of Ada Lovelace failed: the account needs reconnecting. 33 more are likely to fail",
        "Group q4-launch finished: 186 of 200 accepted, 14 failed "
        "(connect_account_reconnect_required 13, insufficient_credits 1)",
    ], "an incident is told once, as it is now"
    assert dict(found.sections[0].advice)["See them"] == "relay incidents show inc_01JVQ4"
    assert len(found.clusters) == 1


def test_no_incident_is_swallowed_whatever_their_number() -> None:
    incidents = [of_incident("opened", "10:23:10", 1, 1, id=f"inc_{n}") for n in range(60)]
    found = of(*incidents, *[finished(group=f"group {n}") for n in range(5)])
    assert (len(found.sections), len(found.brief)) == (10, 40)
    assert found.rest == "15 more incidents and groups: relay incidents list, relay groups list"
    assert "60 incidents opened, 5 groups finished" in found.heading


def test_further_clusters_are_counted() -> None:
    events = [one for n in range(14) for one in failed(2, sender=f"acc_{n}")]
    found = of(*events, *overdue(1), limits=Limits(sections=4))
    assert len(found.clusters) == 4
    assert found.rest == "21 more events: 20 failed, 1 overdue"


def test_event_of_a_type_that_is_not_known_is_counted() -> None:
    other = relay_event("evt_1", "shop.order.paid", at("10:00:00"), {}, dataschema="http://x/s.json", subject="7")
    found = of(other, replace(other, id="evt_2"))
    assert found.heading == "2 events in 1 second: 2 others"
    assert found.clusters[0].lines[0].sentence == "Event shop.order.paid about 7"


def rendered(events: list[Event], **options: Any) -> Any:
    subscription = replace(SUBSCRIPTION, options=options)
    first = SLACK.render_bundle(events, subscription, CONTEXT)
    assert first == SLACK.render_bundle(events, subscription, CONTEXT)
    assert first.url == subscription.sink
    return check_message(first.body)


def test_slack_gets_a_digest_of_a_replay_in_one_message() -> None:
    events = [*failed(75), *overdue(6), of_incident("closed", "10:37:02", 13, 0), finished()]
    payload = rendered(events, time_zone="Europe/Paris")
    types = [block["type"] for block in payload["blocks"]]
    assert types == ["header", "context", "section", "section", "divider", *["section", "context"] * 2]
    assert payload["blocks"][0]["text"]["text"] == payload["text"].split("\n")[0]
    assert payload["text"].split("\n")[1].startswith("LinkedIn jobs of Ada Lovelace work again")
    assert payload["blocks"][1]["elements"][0]["text"] == "2026-05-20 12:23:10 to 13:08:40 CEST"
    told = payload["blocks"][5]["text"]["text"].split("\n")
    assert told[0] == "*75 failed on LinkedIn account Ada Lovelace: the account needs reconnecting*"
    assert told[1] == f"• LinkedIn outreach to P0 failed <{URL}|Open in crm.example>"
    assert told[6:] == ["… and 70 more"]


@pytest.mark.parametrize("number", [1, 2, 5, 6, 49, 50, 51, 83, 300, 1000])
def test_any_number_of_events_fits_in_one_message(number: int) -> None:
    mixed = [
        *(
            of_job("failed", "10:23:10", f"Recipient {n} & Sons", hint=RECONNECT, code=f"error_{n}", url=URL)
            for n in range(number)
        ),
        *(of_incident("opened", "10:23:10", 1, 1, id=f"inc_{n}") for n in range(number)),
        *(finished(group=f"group {n}") for n in range(number)),
    ]
    for events in (mixed[::3][:number], mixed[:number], mixed[-number:], mixed[number : 2 * number]):
        rendered(events)


def test_digest_of_the_longest_texts_fits() -> None:
    names = [f"{n}" + "<&*" * 200 for n in range(300)]
    long = replace(RECONNECT, meaning="&" * 5000, fix="<" * 5000, who="*" * 5000)
    events = [
        of_job("failed", "10:23:10", name, hint=long, code=f"e{n}", sender=f"acc_{n}", url=f"{URL}?{'a' * 290}")
        for n, name in enumerate(names)
    ]
    rendered(events)
    rendered([finished(group=name) for name in names])
    rendered([*events[:150], *[finished(group=name) for name in names[:150]]])


def test_no_hostile_text_breaks_a_digest() -> None:
    for turn, text in enumerate(TEXTS):
        rendered(list(events_with(text, part=turn, parts=scaled(10, 1))))
    mixed = [next(events_with(text, part=turn, parts=30)) for turn, text in enumerate(TEXTS)]
    rendered(mixed)
    rendered(mixed[::-1])


def test_single_event_of_a_bundle_is_a_message_of_its_own() -> None:
    assert (
        SLACK.render(failed(1)[0], SUBSCRIPTION, CONTEXT).body
        != SLACK.render_bundle(failed(1), SUBSCRIPTION, CONTEXT).body
    )


@pytest.mark.parametrize(
    ("options", "bundle"),
    [
        ({}, {"wait_seconds": 60.0, "free_per_minute": 20}),
        ({"messages_per_minute": 5}, {"wait_seconds": 60.0, "free_per_minute": 5}),
        ({"digest_seconds": 300}, {"wait_seconds": 300, "free_per_minute": 20, "free_types": APART}),
        (
            {"digest_seconds": 300, "messages_per_minute": 5},
            {"wait_seconds": 300, "free_per_minute": 5, "free_types": APART},
        ),
    ],
    ids=["default", "cap", "digest", "digest and cap"],
)
def test_settings_say_when_a_digest_is_sent(options: dict[str, Any], bundle: dict[str, Any]) -> None:
    expected = Bundle(max_events=1000, max_bytes=4 * 1024 * 1024, **bundle)
    assert SLACK.bundle(replace(SUBSCRIPTION, options=options)) == expected


def test_times_in_a_message_are_in_the_time_of_the_reader() -> None:
    payload = check_message(
        SLACK.render(failed(1)[0], replace(SUBSCRIPTION, options={"time_zone": "Asia/Kathmandu"}), CONTEXT).body
    )
    assert "Time 2026-05-20 16:08:10 UTC+05:45" in [
        element["text"] for block in payload["blocks"][1:] for element in block["elements"]
    ]
