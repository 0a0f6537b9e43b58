"""What other programs have published, at every kind of sink: told in few words, and nothing of a person by default."""

import pytest

from relay.core.events.event import Event
from relay.core.jsontext import dumps, loads
from relay.core.samples import published_sample
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import parse_filters
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers.base import RenderContext
from subscribers.common import chat, crm
from subscribers.common.digest import digest
from subscribers.common.edited_messages import message_key
from subscribers.common.templates import render
from subscribers.flat import fields
from subscribers.pipedrive import Pipedrive
from subscribers.registry import kinds
from subscribers.wording import sentence
from subscribers.wording.published import published_words

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


@pytest.mark.parametrize(
    ("type", "words"),
    [
        ("com.acme.order.paid", "Order paid"),
        ("com.acme.order.paid.v1", "Order paid"),
        ("com.github.pull_request.opened", "Pull request opened"),
        ("com.acme.OrderPaid", "Acme order paid"),
        ("order.1", "Order"),
        ("...", "Event ..."),
    ],
)
def test_type_is_told_by_its_last_words(type, words):
    assert published_words(type) == words


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("A-17", "Order paid: A-17"),
        (None, "Order paid"),
        ("kim@example.com", "Order paid: …"),
        ("x" * 500, f"Order paid: {'x' * 119}…"),
        ("<b>&\u202e*A*", "Order paid: <b>& *A*"),
    ],
)
def test_sentence_has_the_subject_without_addresses(subject, told):
    assert sentence(published(subject=subject), CONTEXT) == told


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
    assert of_default.link == "https://shop.example/17"
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


def test_flat_fields_are_those_of_the_data():
    found = fields(published(subject="A-17", data={"total": 42, "metadata": {"deal": 7}}), CONTEXT)
    assert (found["id"], found["job_id"], found["data_total"], found["metadata_deal"]) == ("a-1", "", 42, 7)
    assert found["sentence"] == "Order paid: A-17"
    assert fields(published(data="hello"), CONTEXT)["data"] == "hello"


def test_digest_counts_them_by_type():
    made = digest([published(), published(), published("com.acme.order.sent")], CONTEXT)
    assert made.heading == "3 events in 1 second: 3 published events"
    assert [one.title for one in made.clusters] == ["2 published events: Order paid", "1 published event: Order sent"]


def test_template_sees_the_data_and_not_its_base64():
    template = {"n": "{{ data.n }}", "id": "{{ event.id }}", "said": "{{ sentence }}"}
    event = published(data={"n": 7}, subject="A")
    assert loads(render(template, event, CONTEXT, strict=True)) == {"n": 7, "id": "a-1", "said": "Order paid: A"}
    assert loads(render({"text": "{{ data }}"}, published(data="hello"), CONTEXT, strict=True)) == {"text": "hello"}
    assert loads(render(["{{ event.data_base64 }}"], published(data_base64="AAE="), CONTEXT, strict=False)) == [""]


@pytest.mark.parametrize(
    ("document", "passes"),
    [
        ({"exact": {"id": "a-1", "comacmeflag": "true"}}, True),
        ({"range": {"/data/total": {"gt": 40}}}, True),
        ({"exact": {"/data": "hello"}}, False),
        ({"prefix": {"source": "/shop"}}, True),
    ],
)
def test_filters_read_them(document, passes):
    event = published(data={"total": 42}, comacmeflag=True)
    assert parse_filters([document]).passes(EventView(event.body)) is passes


@pytest.mark.parametrize("data", ["hello", [1, 2], None, 7])
def test_filters_read_data_that_is_no_object(data):
    passes = parse_filters([{"exact": {"/data": 7}}]).passes
    assert passes(EventView(published(data=data).body)) is (data == 7)


def crm_subscription(*types: str) -> Subscription:
    return Subscription(id="sub_1", sink="https://acme.pipedrive.com", kind="pipedrive", types=types)


def test_crm_takes_types_of_other_programs_but_not_those_about_nobody():
    assert crm.common_errors(crm_subscription("com.acme.order.paid"), "Pipedrive", "", ()) == []
    for type in ("relay.source.down", "ai.revor.account.removed"):
        (error,) = crm.common_errors(crm_subscription(type), "Pipedrive", "", ())
        assert (error.pointer, error.code) == ("/types", "types_unsuitable")


def test_crm_finds_whom_the_metadata_name():
    event = published(data={"metadata": {"email": "kim@example.com", "deal_id": 7}, "email": "not@this.example"})
    found = crm.identity(event, CONTEXT, {})
    assert found.email == "kim@example.com"
    steps = Pipedrive().dialogue(crm_subscription(event.type))
    assert steps is not None
    asked = next(steps.steps(event, crm_subscription(event.type), CONTEXT, {}, NOW))
    assert asked.request.url.startswith("https://acme.pipedrive.com/api/v2/deals/7")  # type: ignore[union-attr]


def test_sample_says_what_it_is_at_a_crm():
    event = published_sample("com.acme.order.paid", "evt_1", NOW, {"deal": 42})
    assert event.document()["data"]["metadata"]["deal"] == 42
    said = crm.message(event, crm_subscription(event.type), CONTEXT)
    assert said.sentence == "This is a sample: Order paid: sample"
