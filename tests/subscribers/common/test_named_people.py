"""The kinds as the API uses them: which events name somebody whom a CRM can look for."""

from typing import Any

import pytest

from relay.core.deliveries.credentials import SinkCredential
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import NotRenderable
from subscribers.pipedrive import Pipedrive
from subscribers.webhook import Webhook
from tests.support.job_events import sample

TOKEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": "t"}
CREDENTIAL = SinkCredential(id="crd_1", origin="https://a.pipedrive.com:443", fields=TOKEN)


def subscription(**options: Any) -> Subscription:
    return Subscription(
        id="sub_1", kind="x", sink="https://a.pipedrive.com", credential=CREDENTIAL, options=options, types=("x",)
    )


def event(**metadata: Any) -> Event:
    return sample("ai.revor.job.failed", metadata)


@pytest.mark.parametrize("unmatched", ["skip", "create", "fail"])
def test_an_event_names_person_by_its_metadata(unmatched: str) -> None:
    names = Pipedrive().names_person(subscription(unmatched=unmatched))
    assert names is not None
    assert names(event(deal_id=7))
    assert names(event(email="jane@example.com"))
    assert not names(event(name="Jane"))
    assert not names(event(email="nobody"))


def test_a_sink_that_looks_for_nobody_has_no_such_count() -> None:
    assert Webhook().names_person(subscription()) is None


def test_an_event_that_a_template_cannot_render_names_person() -> None:
    class Broken(Pipedrive):
        def dialogue(self, subscription: Subscription) -> Any:
            def steps(*_: Any) -> Any:
                raise NotRenderable([])
                yield

            return type("Steps", (), {"steps": staticmethod(steps)})

    names = Broken().names_person(subscription())
    assert names is not None
    assert names(event())
