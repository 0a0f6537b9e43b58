"""Fuzzing of what Pipedrive answers: whatever it says, a delivery ends in a few requests to that company alone, and a
record that may be there is written again only after a list that shows it is not."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import orjson
from hypothesis import strategies as st

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Response
from relay.core.deliveries.dialogue import MAX_STEPS, Ended, Memory, Steps
from relay.core.jobs.job import Recipient
from subscribers.base import RenderContext
from subscribers.pipedrive.dialogue import DIALOGUE, portal_of
from tests.subscribers.pipedrive.test_dialogue import CONTEXT, EMAIL, KIND, NOW, SINK, event, pipedrive
from tests.support.fuzz_kit import JSON_VALUES, TEXTS, fuzzed, raw_json

NOTE = {"id": 9, "content": "x", "add_time": "2026-05-20 10:00:00"}
OLD = [{"id": id, "content": "x", "add_time": "2025-01-20 10:00:00"} for id in (8, 7)]
ANSWERS: list[Any] = [
    {"success": True, "data": {"id": 7, "company_domain": "acme"}},
    {"success": True, "data": {"items": [{"item": {"id": 7, "emails": [EMAIL]}}]}},
    {"success": True, "data": [NOTE], "additional_data": {"pagination": {"more_items_in_collection": True}}},
    {"success": True, "data": OLD, "additional_data": {"pagination": {"more_items_in_collection": True}}},
    {"success": True, "data": OLD, "additional_data": {"next_cursor": "a"}},
    {"success": True, "data": [{"id": 5, "emails": [{"value": EMAIL}]}], "additional_data": {"next_cursor": "a"}},
    {"success": True, "data": None, "additional_data": {"next_cursor": None}},
    {"success": True, "data": [{"id": "00000000-0000-4000-8000-000000000003"}]},
    {"success": False, "error": "Scope and URL mismatch", "errorCode": 403},
    {"success": False, "error": "no", "code": "feature_capping_deals_limit", "data": None},
]
BODIES = st.sampled_from([orjson.dumps(one) for one in ANSWERS]) | raw_json(JSON_VALUES, ANSWERS)
STATUSES = st.sampled_from((200, 201, 204, 302, 400, 401, 402, 403, 404, 410, 429, 500, 503))
RESPONSES = st.lists(st.tuples(STATUSES, BODIES, TEXTS), min_size=1, max_size=8)
RECORDS = st.sampled_from(("note", "activity"))


def ended(steps: Steps, answers: list[tuple[int, bytes, str]]) -> tuple[Ended, list[tuple[str, bytes]]]:
    """How it ends, and the requests: each its method, and the answer."""
    asked: list[tuple[str, bytes]] = []
    try:
        step = next(steps)
        for nth in range(MAX_STEPS):
            assert step.request.url.startswith(f"{SINK}/")
            assert step.request.url.isascii()
            assert ".." not in urlsplit(step.request.url).path
            assert step.private
            assert (step.remember is not None) == (step.request.method == "POST")
            status, body, limit = answers[nth % len(answers)]
            names = ("x-ratelimit-remaining", "x-ratelimit-reset", "x-daily-requests-left", "Retry-After")
            headers = tuple((name, limit) for name in names)
            asked.append((step.request.method, body if status == 200 else b""))
            step = steps.send(
                Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=headers, excerpt=body)
            )
    except StopIteration as end:
        return end.value, asked
    raise AssertionError("it asks for ever")


def shows_an_end(body: bytes) -> bool:
    """Whether a list says that it has no more, or is as old as it has to be."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return False
    if not isinstance(found, dict) or found.get("success") is not True:
        return False
    rows, more = found.get("data"), found.get("additional_data")
    if rows is not None and not isinstance(rows, list):
        return False
    stated = more if isinstance(more, dict) else {}
    paging = stated.get("pagination")
    has_more = isinstance(paging, dict) and paging.get("more_items_in_collection") is True
    return b"2025-01-20" in body or not (has_more or stated.get("next_cursor") is not None)


@fuzzed(answers=RESPONSES, metadata=JSON_VALUES, email=st.booleans(), create=st.booleans(), record=RECORDS)
def test_answers_to_a_delivery(
    answers: list[tuple[int, bytes, str]], metadata: Any, email: bool, create: bool, record: str
) -> None:
    names = ("email", "phone", "profile_url", "deal_id", "lead_id", "person_id", "contact_id")
    given = {"email": EMAIL} if email else dict.fromkeys(names, metadata)
    options = {"unmatched": "create"} if create else {"attach": "deal"}
    found, _ = ended(DIALOGUE.steps(event(given), pipedrive(record=record, **options), CONTEXT, {}, NOW), answers)
    assert found.outcome.reason.isprintable()
    assert len(found.outcome.reason) < 300
    if found.remember:
        entry = ledger.read_entry(found.remember)
        assert entry is not None
        assert (entry.state == "done") == (found.outcome.verdict == "delivered")


@fuzzed(answers=RESPONSES, record=RECORDS)
def test_answers_to_the_question_whether_a_record_is_there(answers: list[tuple[int, bytes, str]], record: str) -> None:
    subscription = pipedrive(record=record)
    entry = ledger.Entry(record=record, target={"deal_id": 2}, portal=portal_of(subscription), at=NOW - 1000)
    found, asked = ended(DIALOGUE.steps(event({}), subscription, CONTEXT, entry.memory(), NOW), answers)
    methods = [method for method, _ in asked]
    if "POST" in methods:
        assert any(shows_an_end(body) for _, body in asked[: methods.index("POST")])
    elif found.outcome.verdict != "delivered":
        assert found.outcome.in_doubt


@fuzzed(answers=RESPONSES)
def test_answers_to_the_question_whether_a_person_is_there(answers: list[tuple[int, bytes, str]]) -> None:
    subscription = pipedrive(unmatched="create")
    entry = ledger.Entry(record="person", portal=portal_of(subscription), at=NOW - 500)
    nobody = (200, b'{"success": true, "data": {"items": []}}', "")
    steps = DIALOGUE.steps(event({"email": EMAIL}), subscription, replace(CONTEXT, known=[entry.memory()]), {}, NOW)
    found, asked = ended(steps, [nobody, *answers])
    methods = [method for method, _ in asked]
    if "POST" in methods:
        listed = [body for _, body in asked[1 : methods.index("POST")]]
        assert any(shows_an_end(body) or EMAIL.encode() in body for body in listed)
    else:
        assert found.outcome.verdict != "delivered"
        assert not found.outcome.in_doubt, "no record was written"


@fuzzed(memory=JSON_VALUES)
def test_memories_of_any_shape(memory: Any) -> None:
    kept: Memory = memory if isinstance(memory, dict) else {"state": memory}
    found, asked = ended(DIALOGUE.steps(event({"deal_id": 2}), pipedrive(), CONTEXT, kept, NOW), [(500, b"", "")])
    assert not kept or not asked or found.outcome.in_doubt


@fuzzed(answers=RESPONSES)
def test_answers_to_a_greeting(answers: list[tuple[int, bytes, str]]) -> None:
    steps = KIND.greeting(pipedrive(), NOW)
    assert steps is not None
    found, _ = ended(steps, answers)
    assert (found.remember is not None) == (found.outcome.verdict == "delivered")
    assert found.outcome.reason.isprintable()


@fuzzed(address=TEXTS, phone=TEXTS, url=TEXTS)
def test_captured_recipients(address: str, phone: str, url: str) -> None:
    context = RenderContext(recipient=Recipient(address=address, phone=phone, profile_url=url))
    nobody = b'{"success": true, "data": {"items": []}}'
    found, _ = ended(DIALOGUE.steps(event({}), pipedrive(), context, {}, NOW), [(200, nobody, "")])
    assert found.outcome.verdict == "skip"
