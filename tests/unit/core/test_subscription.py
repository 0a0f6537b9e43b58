"""What a subscription says of itself."""

from dataclasses import replace

import pytest

from relay.core.subscriptions.subscription import Incidents, State, Subscription

SUBSCRIPTION = Subscription(id="sub_1", sink="https://sink.example", state_reason="http_410")


@pytest.mark.parametrize(
    ("state", "expected"), [("enabled", None), ("paused", None), ("pending", None), ("disabled", "http_410")]
)
def test_only_a_disabled_subscription_has_a_disabled_reason(state: State, expected: str | None) -> None:
    assert replace(SUBSCRIPTION, state=state).disabled_reason == expected


def test_reached_by_is_url_method_and_headers() -> None:
    changed = [
        replace(SUBSCRIPTION, sink="https://other.example"),
        replace(SUBSCRIPTION, method="PUT"),
        replace(SUBSCRIPTION, headers=(("Authorization", "Bearer new"),)),
    ]
    assert len({one.reached_by for one in (SUBSCRIPTION, *changed)}) == 4
    assert replace(SUBSCRIPTION, types=("a",), description="b").reached_by == SUBSCRIPTION.reached_by


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("webhook", "HTTP"),
        ("slack", "HTTP"),
        ("kafka", "KAFKA"),
        ("nats", "NATS"),
        ("rabbitmq", "AMQP"),
        ("pull", "PULL"),
    ],
)
def test_kind_says_the_protocol(kind: str, protocol: str) -> None:
    assert replace(SUBSCRIPTION, kind=kind).protocol == protocol


OPENED, FAILED = "relay.incident.opened", "ai.revor.job.failed"


@pytest.mark.parametrize(
    ("types", "incidents", "wanted"),
    [
        ((FAILED,), "collapse", True),
        ((FAILED,), "both", True),
        ((FAILED,), "off", False),
        ((FAILED, OPENED), "off", True),
        (("relay.create.unknown",), "collapse", True),
        (("relay.delivery.expired",), "collapse", True),
        (("relay.subscription.disabled",), "collapse", True),
        (("relay.delivery.uncertain",), "collapse", False),
        (("ai.revor.job.succeeded",), "collapse", False),
        (("ai.revor.job.succeeded", OPENED), "collapse", True),
        ((), "collapse", False),
        (None, "off", False),
    ],
)
def test_incidents_reach_those_that_get_the_failures_in_them(
    types: tuple[str, ...] | None, incidents: Incidents, wanted: bool
) -> None:
    one = replace(SUBSCRIPTION, types=types, incidents=incidents)
    assert one.wants(OPENED, job_event=False) is wanted
    assert (OPENED in (one.wanted_types or ())) is wanted
    assert one.wants(FAILED, job_event=True) is (types is None or FAILED in types)
    assert not one.wants("relay.group.finished", job_event=False)


@pytest.mark.parametrize(
    ("state", "state_since", "expected"),
    [("enabled", None, 0.0), ("enabled", 5.0, 5.0), ("paused", 5.0, None), ("disabled", 5.0, None)],
)
def test_subscription_has_the_time_it_was_enabled(
    state: State, state_since: float | None, expected: float | None
) -> None:
    assert replace(SUBSCRIPTION, state=state, state_since=state_since).enabled_since == expected


@pytest.mark.parametrize(("options", "expected"), [({}, False), ({"dry_run": False}, False), ({"dry_run": True}, True)])
def test_dry_run_is_an_option(options: dict[str, object], expected: bool) -> None:
    assert replace(SUBSCRIPTION, options=options).is_dry is expected


@pytest.mark.parametrize(
    ("options", "has_one"),
    [
        ({}, False),
        ({"strict": True}, False),
        ({"template": {}}, True),
        ({"protocolsettings": {"subject": "jobs.all"}}, False),
        ({"protocolsettings": {"clientid": "x", "subject": "jobs.{{ event.channel }}"}}, True),
    ],
)
def test_subscription_has_a_template_where_liquid_makes_what_is_sent(options: dict[str, object], has_one: bool) -> None:
    assert Subscription(id="sub_1", sink="https://x.example/", options=options).has_template is has_one
