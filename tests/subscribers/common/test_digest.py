"""Digests: several events as one message, in neutral words and as Slack gets it."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.common.digest import Digest, digest
from subscribers.wording import Link
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.scale import scaled
from tests.support.slack_check import check_message
from tests.support.story_events import CODE, CREDITS, OVERDUE, RECONNECT, finished, of_incident, of_job

CONTEXT = RenderContext(account_names={"emea": "EMEA sales"}, public_url="https://relay.example")
SLACK = registry.kind_named("slack")
SUBSCRIPTION = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
URL = "https://crm.example/deals/42"


def failed(number: int, *, clock: str = "10:23:10", **changes: Any) -> list[Event]:
    values: dict[str, Any] = {"hint": RECONNECT, "code": CODE, "sender": "acc_17", "url": URL}
    return [of_job("failed", clock, f"P{index}", **(values | changes)) for index in range(number)]


def overdue(number: int) -> list[Event]:
    return [of_job("overdue", "10:28:10", f"O{index}", hint=OVERDUE) for index in range(number)]


def of(*events: Event, **changes: Any) -> Digest:
    return digest(events, CONTEXT, **changes)


def test_events_are_told_by_account_and_error_the_most_serious_first() -> None:
    elsewhere = {"hint": CREDITS, "code": "insufficient_credits", "account": "emea", "sender": None}
    events = [*overdue(3), *failed(2, **elsewhere), *failed(7), *failed(2, sender="acc_9"), *failed(1, code="other")]
    found = of(*events)
    assert [cluster.title for cluster in found.clusters] == [
        "8 failed on LinkedIn account acc_17: the account needs reconnecting",
        "2 failed for account EMEA sales: the Revor account has too few credits",
        "2 failed on LinkedIn account acc_9: the account needs reconnecting",
        "3 overdue",
    ]
    first = found.clusters[0]
    assert [line.sentence for line in first.lines] == [f"LinkedIn outreach to P{n} failed" for n in range(5)]
    assert {line.link for line in first.lines} == {Link(URL, "Open in crm.example")}
    assert first.more == 3, "another code of the same meaning is the same cause"
    assert first.advice == (
        ("Next step", "Reconnect it in Revor"),
        ("Whose turn", "the owner of the sending account"),
        ("Sending again", "safe once this is fixed, because nothing was done"),
    )
    assert dict(found.clusters[-1].advice)["Sending again"] == "could run them twice, because they are still open"


def test_no_incident_is_swallowed_whatever_their_number() -> None:
    incidents = [of_incident("opened", "10:23:10", 1, 1, id=f"inc_{n}") for n in range(60)]
    found = of(*incidents, *[finished(group=f"group {n}") for n in range(5)])
    assert (len(found.sections), len(found.brief)) == (10, 40)
    assert found.rest == "15 more incidents and campaigns"
    assert "60 incidents opened, 5 campaigns finished" in found.heading


def rendered(events: list[Event], **options: Any) -> Any:
    subscription = replace(SUBSCRIPTION, options=options)
    first = SLACK.render_bundle(events, subscription, CONTEXT)
    assert first == SLACK.render_bundle(events, subscription, CONTEXT)
    assert first.url == subscription.sink
    return check_message(first.body)


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


@pytest.mark.verify
def test_no_hostile_text_breaks_a_digest() -> None:
    for turn, text in enumerate(TEXTS):
        rendered(list(events_with(text, part=turn, parts=scaled(10, 1))))
    mixed = [next(events_with(text, part=turn, parts=30)) for turn, text in enumerate(TEXTS)]
    rendered(mixed)
    rendered(mixed[::-1])
