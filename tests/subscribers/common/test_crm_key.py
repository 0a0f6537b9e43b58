"""The key by which a record in a CRM is found again."""

from itertools import permutations

from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from tests.support.job_events import SAMPLE_ID, sample

IDS = ("crm", "crm2", "won-pipedrive", "lost-pipedrive", "a.b", "a-b", "sub_01jvpq0000000000000000000e", "a@revor:eu/ü")


def test_no_key_of_a_subscription_is_part_of_the_key_of_another() -> None:
    event = sample("ai.revor.job.failed")
    keys = [crm.key_of(event, Subscription(id=id, sink="https://crm.example")) for id in IDS]
    assert all(one not in other for one, other in permutations(keys, 2))
    assert all(key.startswith(f"{SAMPLE_ID}-") and key.rpartition("-")[2].isalnum() for key in keys), (
        "it fits into a path and into HTML"
    )
