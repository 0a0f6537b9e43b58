"""The link of a message: the address in the metadata, else the page of the dashboard about the event."""

from urllib.parse import urlsplit

import pytest
from starlette.routing import Match, Route

from relay.core.events.event import Event
from relay.core.subscriptions.filters import known_types
from relay.web.pages import PAGES
from subscribers.base import RenderContext
from subscribers.wording import Link, link, page_of
from tests.support.job_events import OF_SAMPLES, account_made, group_made, sample

CONTEXT = RenderContext(public_url="https://relay.example/base")
UI = "https://relay.example/base/ui"
WITHOUT = {"metadata": {"url": None}}
WITHIN = "source=revor&account=default"


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (sample("ai.revor.job.failed"), Link("https://crm.example/deals/42", "Open in crm.example")),
        (
            sample("ai.revor.job.failed", {"url": None}),
            Link(f"{UI}/jobs/job_01jvpq0000000000000000000a", "Open the job"),
        ),
        (sample("relay.create.unknown"), Link(f"{UI}/intents", "Open unknown sends")),
        (
            sample("relay.incident.grew"),
            Link(f"{UI}/incidents/inc_01jvpq0000000000000000000f", "Open the incident"),
        ),
        (
            sample("relay.delivery.expired"),
            Link(f"{UI}/deliveries/dlv_01jvpq0000000000000000000c", "Open the delivery"),
        ),
        (
            sample("relay.subscription.disabled"),
            Link(f"{UI}/subscriptions/sub_01jvpq0000000000000000000b", "Open the subscription"),
        ),
        (sample("relay.credits.low"), Link(f"{UI}/sources", "Open sources")),
        (group_made(group="Q4 & more?"), Link(f"{UI}/groups/Q4%20%26%20more%3F?{WITHIN}", "Open the campaign")),
        (group_made(group="emea/q4"), Link(f"{UI}/jobs?group=emea%2Fq4&{WITHIN}", "Open its jobs")),
        (group_made(group=".."), Link(f"{UI}/jobs?group=..&{WITHIN}", "Open its jobs")),
        (
            account_made("needs_reconnect", account_id="acc 1"),
            Link(f"{UI}/accounts#account-acc%201", "Open the sending account"),
        ),
        (
            account_made("needs_reconnect", account_id="ü" * 256),
            Link(f"{UI}/accounts", "Open sending accounts"),
        ),
        (sample("relay.test"), None),
    ],
    ids=lambda value: value.type if isinstance(value, Event) else None,
)
def test_link_of_an_event(event: Event, found: Link | None) -> None:
    assert link(event, CONTEXT) == found


@pytest.mark.parametrize("type", known_types([OF_SAMPLES]))
def test_every_linked_page_is_one_of_the_dashboard(type: str) -> None:
    found = page_of(sample(type))
    if found is None:
        assert type == "relay.test"
        return
    path = urlsplit(f"/ui/{found[0]}").path
    scope = {"type": "http", "method": "GET", "path": path}
    assert any(
        Route(one.path, endpoint=print, methods=["GET"]).matches(scope)[0] is Match.FULL
        for one in PAGES
        if one.method == "GET"
    ), path


@pytest.mark.parametrize("type", known_types([OF_SAMPLES]))
def test_a_relay_without_pages_links_to_none(type: str) -> None:
    found = link(sample(type, {"url": None}), RenderContext())
    assert found is None or found.title == "Open in crm.example"
