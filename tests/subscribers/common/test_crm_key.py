"""The key by which a record in a CRM is found again."""

from itertools import permutations

from relay.core.events.event import Origin
from relay.core.samples import sample_event
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm

JOBS = Origin(source="https://api.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
IDS = ("crm", "crm2", "won-pipedrive", "lost-pipedrive", "a.b", "a-b", "sub_01jvpq0000000000000000000e", "a@revor:eu/ü")


def test_no_key_of_a_subscription_is_part_of_the_key_of_another() -> None:
    event = sample_event(
        "ai.revor.job.failed", event_id="evt_1", now=1779271208.0, origin=JOBS, dataschema_base="http://x"
    )
    keys = [crm.key_of(event, Subscription(id=id, sink="https://crm.example")) for id in IDS]
    assert all(one not in other for one, other in permutations(keys, 2))
    assert all(key.startswith("evt_1-") and key[6:].isalnum() for key in keys), "it fits into a path and into HTML"
