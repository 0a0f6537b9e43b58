"""The stand-ins of services accept what the relay sends, and the relay obeys their rate."""

import pytest

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.test_conformance import CONTEXT, NOW, TYPES, sample
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.scale import scaled
from tests.vendors.endpoint import Answer, Endpoint, Sent
from tests.vendors.stand_ins import CRMS, VENDORS

KINDS = tuple(VENDORS)


def rendered(kind: str, type: str = "ai.revor.job.failed") -> OutboundRequest:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    return registry.kind_named(kind).render(sample(type), subscription, CONTEXT)


def as_sent(request: OutboundRequest) -> Sent:
    headers = {name.lower(): value for name, value in request.headers}
    return Sent(request.method, request.url.partition("?")[2], headers, request.body)


def response(answer: Answer) -> Response:
    return Response(
        started_at=NOW, duration_ms=1.0, status_code=answer.status, headers=answer.headers, excerpt=answer.body
    )


def test_there_is_a_stand_in_for_every_kind_with_a_format_of_its_own() -> None:
    assert set(VENDORS) | set(CRMS) == set(registry.kinds()) - {"webhook", *PROTOCOLS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_accepted_and_mentions_nobody(kind: str) -> None:
    for type in TYPES:
        endpoint = Endpoint(VENDORS[kind])
        answer = endpoint.answer(as_sent(rendered(kind, type)))
        assert endpoint.refused == [], type
        assert registry.kind_named(kind).classify(response(answer), NOW).verdict == "delivered", type
        [message] = endpoint.messages
        assert message.title, type
        assert endpoint.mentioned == [], type


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_are_accepted_and_mention_nobody(kind: str) -> None:
    endpoint = Endpoint(VENDORS[kind], clock=iter(range(10**9)).__next__)
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    render = registry.kind_named(kind).render
    for turn, text in enumerate(TEXTS[:: scaled(9, 1)]):
        context = RenderContext(account_names={"emea": text, text: text}, public_url="https://relay.example")
        for event in events_with(text, part=turn, parts=scaled(14, 1)):
            endpoint.answer(as_sent(render(event, subscription, context)))
    assert [answer.body for answer in endpoint.refused] == []
    assert endpoint.mentioned == []


@pytest.mark.parametrize("kind", KINDS)
def test_rate_is_limited_and_the_pause_is_obeyed(kind: str) -> None:
    moments = [0.0]
    vendor = VENDORS[kind]
    smaller = vendor.limit._replace(requests=min(vendor.limit.requests, 100))
    endpoint = Endpoint(vendor._replace(limit=smaller), clock=lambda: moments[0])
    request = as_sent(rendered(kind))
    for _ in range(endpoint.vendor.limit.requests):
        assert endpoint.answer(request).status < 300
    outcome = registry.kind_named(kind).classify(response(endpoint.answer(request)), NOW)
    assert outcome.verdict == "retry"
    assert outcome.retry_after_seconds is not None
    assert outcome.retry_after_seconds >= endpoint.vendor.limit.seconds
    moments[0] = outcome.retry_after_seconds
    assert endpoint.answer(request).status < 300


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_read_as_people_see_them(kind: str) -> None:
    endpoint = Endpoint(VENDORS[kind])
    endpoint.answer(as_sent(rendered(kind)))
    [message] = endpoint.messages
    assert message.title.startswith("LinkedIn outreach to Alex failed: the account needs reconnecting")
    assert not any("\\" in text for pair in message.fields for text in (message.title, message.footer, *pair))
    assert any("Reconnect it in Revor" in value for _, value in message.fields)
