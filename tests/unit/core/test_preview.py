import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.filters import matches, why_not
from relay.core.subscriptions.subscription import Subscription

FAILED, DOWN, OPENED = "ai.revor.job.failed", "relay.source.down", "relay.incident.opened"
ONE = {"id": "sub_1", "sink": "https://one.example"}


def event(type=FAILED, source="https://revor.ai/jobs", **fields):
    job_uid = "job_1" if ".job." in type else None
    times = {"time": 0.0, "recorded_at": 0.0}
    return Event(id="evt_1", source=source, type=type, subject=None, body=b"{}", job_uid=job_uid, **times, **fields)


@pytest.mark.parametrize(
    ("fields", "sent", "owner", "part"),
    [
        ({}, event(), None, None),
        ({}, event(DOWN), None, "it has no types, so it gets all job events and no others, and the event is relay."),
        ({"types": (DOWN,)}, event(DOWN), None, None),
        ({"types": (DOWN,)}, event(), None, "its types are relay.source.down, and that of the event is ai.revor.job.f"),
        ({"types": tuple("abcdefg")}, event(), None, "its types are a, b, c, d, e and 2 more, and"),
        ({"types": (FAILED,), "incidents": "collapse"}, event(OPENED), None, None),
        ({"source": "/relay"}, event(), None, "its source is /relay, and that of the event is https://revor.ai/jobs"),
        ({"source": "/relay", "types": (DOWN,)}, event(DOWN, "/relay"), None, None),
        ({"owner": "revor/acme"}, event(), "revor/acme", None),
        ({"owner": "revor/acme"}, event(), "revor/other", "limited to the account revor/acme"),
        ({"owner": "revor/acme"}, event(), None, "limited to the account revor/acme"),
        ({"callback": True}, event(), None, "a callback gets only the events of the jobs"),
    ],
)
def test_the_reason_is_named_exactly_when_the_event_does_not_match(fields, sent, owner, part):
    subscription = Subscription(**ONE, **fields)
    why = why_not(subscription, sent, owner)
    assert why is None if part is None else part in why
    job_event = sent.job_uid is not None
    assert matches(subscription, sent.type, sent.source, job_event=job_event, owner=owner) is (why is None)
