"""What other programs have published, at every kind of sink: told in few words, and nothing of a person by default."""

import pytest

from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers.base import RenderContext
from subscribers.common import chat, crm
from subscribers.registry import kinds
from subscribers.slack.words import message_key
from subscribers.wording import Link, published_words, sentence

CONTEXT = RenderContext()
NOW = 1779271208.0


def published(type: str = "com.acme.order.paid", **changes: object) -> Event:
    document = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": type, **changes}
    return Event(
        id="evt_01jvpq0000000000000000000d",
        source="/shop",
        type=type,
        subject=document.get("subject"),  # type: ignore[arg-type]
        time=NOW,
        recorded_at=NOW,
        body=dumps(document),
        published=True,
    )


@pytest.mark.parametrize("type", ["com.acme.job.failed", "com.acme.account.removed"])
def test_type_that_ends_like_one_of_a_source_is_still_the_programs(type):
    hint = {"fix": "Send everybody away", "who": "kim"}
    event = published(type, subject="7", group="spring", data={"hint": hint, "name": "Kim", "job": {"error": {}}})
    assert sentence(event, CONTEXT) == f"{published_words(type)}: 7"
    said = chat.message(event, Subscription(id="sub_1", sink="https://x.example/", kind="slack"), CONTEXT)
    assert "Send everybody away" not in repr(said)
    assert message_key(event) is None


def test_message_has_short_texts_of_the_data_and_nothing_of_a_person():
    data = {
        **{"total": 42, "currency": "EUR", "email": "kim@example.com", "first_name": "Kim", "paid": True},
        **{"items": [1], "metadata": {"deal": "D-7", "phone": "+49 30 1234567", "url": "https://shop.example/17"}},
    }
    event = published(data=data)
    of_default = chat.message(event, Subscription(id="sub_1", sink="https://x.example/"), CONTEXT)
    assert of_default.pairs == (("Deal", "D-7"), ("Total", "42"), ("Currency", "EUR"), ("Paid", "yes"))
    assert of_default.link == Link("https://shop.example/17", "Open in shop.example")
    named = Subscription(id="sub_1", sink="https://x.example/", options={"metadata_keys": ["first_name"]})
    assert chat.message(event, named, CONTEXT).pairs == (("First name", "Kim"),)


@pytest.mark.parametrize("changes", [{}, {"data": "hello"}, {"data": [1]}, {"data": None}, {"data_base64": "AAE="}])
@pytest.mark.parametrize(
    "kind", sorted(name for name, kind in kinds().items() if name not in PROTOCOLS and not isinstance(kind, crm.Crm))
)
def test_every_kind_takes_data_of_every_shape(kind, changes):
    event = published(subject="A-17", **changes)
    options = {"channel": "C1"} if kind == "slack_bot" else {}
    subscription = Subscription(id="sub_1", sink="https://x.example/hook", kind=kind, options=options)
    one = kinds()[kind]
    if one.dialogue(subscription) is not None:
        steps = one.dialogue(subscription).steps(event, subscription, CONTEXT, {}, NOW)
        bodies = [next(steps).request.body]
    else:
        bodies = [one.render(event, subscription, CONTEXT).body]
        if one.bundle(subscription) is not None:
            bodies.append(one.render_bundle([event, event], subscription, CONTEXT).body)
    assert all(b"A-17" in body for body in bodies)


def crm_subscription(*types: str) -> Subscription:
    return Subscription(id="sub_1", sink="https://acme.pipedrive.com", kind="pipedrive", types=types)


def test_crm_takes_types_of_other_programs_but_not_those_about_nobody():
    assert crm.common_errors(crm_subscription("com.acme.order.paid"), "Pipedrive", "") == []
    for type in ("relay.source.down", "ai.revor.account.removed"):
        (error,) = crm.common_errors(crm_subscription(type), "Pipedrive", "")
        assert (error.pointer, error.code) == ("/types", "types_unsuitable")
