"""Fuzzing of what a Salesforce org answers: whatever it says, a delivery ends in a few requests to that org alone, with
an outcome that says nothing of what the org wrote."""

from typing import Any
from urllib.parse import urlsplit

import orjson
from hypothesis import strategies as st

from relay.core.deliveries.credentials import NoToken, read_token
from relay.core.deliveries.delivery import Response
from relay.core.deliveries.dialogue import MAX_STEPS, Ended, Steps
from relay.core.jobs.job import Recipient
from subscribers.base import RenderContext
from subscribers.salesforce.dialogue import DIALOGUE
from tests.subscribers.salesforce.test_dialogue import CONTEXT, EMAIL, KIND, NOW, ORIGIN, event, subscription
from tests.support.fuzz_kit import JSON_VALUES, TEXTS, fuzzed, raw_json, written

ANSWERS: list[Any] = [
    [{"label": "…", "url": "/services/data/v60.0", "version": "60.0"}],
    {"totalSize": 1, "done": True, "records": [{"Id": "003xx0000000001"}]},
    {"id": "a00xx0000000001", "success": True, "errors": [], "created": True},
    {"success": False, "errors": [{"statusCode": "STRING_TOO_LONG", "message": "x", "fields": ["Status__c"]}]},
    [{"errorCode": "INVALID_CROSS_REFERENCE_KEY", "message": "x", "fields": []}],
    [{"errorCode": "INVALID_FIELD", "message": "No such column 'X__c' on sobject", "fields": ["X__c"]}],
    {"createable": True, "updateable": True, "fields": [{"name": "Event_Id__c", "unique": True, "externalId": True}]},
    {"objectDescribe": {"createable": True, "updateable": True}},
]
BODIES = st.sampled_from([orjson.dumps(one) for one in ANSWERS]) | raw_json(JSON_VALUES, ANSWERS)
STATUSES = st.sampled_from((200, 201, 204, 300, 302, 400, 401, 403, 404, 410, 500, 503))
RESPONSES = st.lists(st.tuples(STATUSES, BODIES, TEXTS), min_size=1, max_size=6)


def ended(steps: Steps, answers: list[tuple[int, bytes, str]]) -> Ended:
    try:
        step = next(steps)
    except StopIteration as end:  # nobody is named
        return end.value  # type: ignore[no-any-return]
    for nth in range(MAX_STEPS):
        parts = urlsplit(step.request.url)
        assert (f"{parts.scheme}://{parts.netloc}", parts.path[:15]) == (ORIGIN, "/services/data/")
        assert step.request.url.isascii()
        assert ".." not in parts.path
        assert step.private
        status, body, limit = answers[nth % len(answers)]
        headers = (("Sforce-Limit-Info", limit), ("Retry-After", limit), ("Location", "https://elsewhere.example/"))
        try:
            step = steps.send(
                Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=headers, excerpt=body)
            )
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
    raise AssertionError("it asks for ever")


@fuzzed(answers=RESPONSES, metadata=JSON_VALUES, email=st.booleans(), create=st.booleans())
def test_answers_to_a_delivery(answers: list[tuple[int, bytes, str]], metadata: Any, email: bool, create: bool) -> None:
    given = {"email": EMAIL} if email else dict.fromkeys(("email", "phone", "contact_id", "deal_id"), metadata)
    options = {"unmatched": "create"} if create else {"api_version": "60.0"}
    steps = DIALOGUE.steps(event(**given), subscription(**options), CONTEXT, {}, NOW)
    outcome = ended(steps, answers).outcome
    assert outcome.verdict in ("delivered", "retry", "dead", "disable", "skip")
    assert outcome.reason.isprintable()
    assert len(outcome.reason) < 300
    assert not outcome.in_doubt


@fuzzed(answers=RESPONSES, object=st.sampled_from(("Job_Event__c", "Task")))
def test_answers_to_a_greeting(answers: list[tuple[int, bytes, str]], object: str) -> None:
    steps = KIND.greeting(subscription(object=object), NOW)
    assert steps is not None
    found = ended(steps, answers)
    assert (found.remember is not None) == (found.outcome.verdict == "delivered")
    assert found.outcome.reason.isprintable()


@fuzzed(address=TEXTS, phone=TEXTS)
def test_captured_recipients(address: str, phone: str) -> None:
    context = RenderContext(recipient=Recipient(address=address, phone=phone))
    steps = DIALOGUE.steps(event(), subscription(api_version="60.0"), context, {}, NOW)
    assert ended(steps, [(200, b'{"records": []}', "")]).outcome.verdict == "skip"


@fuzzed(value=JSON_VALUES, instance=JSON_VALUES, status=STATUSES)
def test_answers_of_a_token_endpoint(value: Any, instance: Any, status: int) -> None:
    body = {"access_token": value, "instance_url": instance, "error": value, "expires_in": instance}
    response = Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=written(body))
    found = read_token(response, NOW, "https://acme.my.salesforce.com:443")
    if isinstance(found, NoToken):
        assert found.detail.isprintable()
        assert len(found.detail) < 300
    else:
        assert found.value.isascii()
        assert instance is None
