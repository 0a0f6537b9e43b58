"""Labels taken from an upstream are few and harmless."""

import pytest

from relay.metrics import MAX_CLASSES, OTHER, Metrics


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
