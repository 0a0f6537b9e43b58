"""Labels taken from an upstream are few and harmless, and figures are counted beside the metrics."""

from typing import Any

import pytest

from relay.core.events.event import RELAY_EVENTS, relay_event
from relay.core.figures import rows_of
from relay.core.subscriptions.subscription import Subscription
from relay.metrics import MAX_CLASSES, OTHER, Metrics

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("action", "channel", "label"),
    [
        ("outreach.dispatch", "email", "outreach.dispatch/email"),
        ("research.contacts", None, "research.contacts"),
        ("research.contacts", "", "research.contacts"),
        (None, "email", OTHER),
        (None, None, OTHER),
        ("", "", OTHER),
        ("a b", "email", OTHER),
        ("a", "e\nmail", OTHER),
        ("a/b", "c", OTHER),
        ("é", None, OTHER),
        ("a" * 41, None, OTHER),
        ("a", "b" * 41, OTHER),
    ],
)
def test_the_class_of_a_job(action: str | None, channel: str | None, label: str) -> None:
    assert Metrics().class_of(action, channel) == label


def test_at_most_fifty_classes() -> None:
    metrics = Metrics()
    labels = {metrics.class_of(f"action-{number}", "email") for number in range(1000)}
    assert len(labels) == MAX_CLASSES == 50
    assert OTHER in labels
    assert metrics.class_of("action-0", "email") == "action-0/email"
    assert metrics.class_of("one-more", "email") == OTHER


def counted(metrics: Metrics) -> dict[tuple[str, str], int]:
    """What was counted in the hour, by name and label."""
    return {row[:2]: row.number for row in rows_of(metrics.figures.take(100)) if row.span == "hour"}


def subscription(**fields: Any) -> Subscription:
    return Subscription(id="sub_1", sink="https://a.example", kind="webhook", **fields)


@pytest.mark.parametrize(("owner", "labels"), [("revor/a", ["", "revor/a"]), (None, [""])])
def test_events_are_counted_by_the_account_that_they_are_about(owner: str | None, labels: list[str]) -> None:
    metrics = Metrics()
    metrics.count_event(relay_event("evt_1", "relay.test", NOW, {}, dataschema="x:/y", subject=None, owner=owner))
    assert counted(metrics) == {("events", label): 1 for label in labels}
    metrics.count_published("published", 5, NOW)
    assert counted(metrics) == {("events", ""): 5}
    assert 'relay_events_total{type="published"} 5.0' in metrics.render().decode()


def test_rare_events_are_counted_from_zero() -> None:
    """`increase` of Prometheus, by which an alert asks, sees the first of them then."""
    shown = Metrics().render().decode()
    assert [type for type in RELAY_EVENTS if f'relay_events_total{{type="{type}"}} 0.0' not in shown] == []
