"""Fuzzing of upstream answers: an observation that becomes events, or a known error."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from relay.clock import MAX_EPOCH_SECONDS, from_rfc3339, to_rfc3339
from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS, parse_retry_after
from relay.core.events.event import MAX_EVENT_BYTES, Origin, account_event, from_transition
from relay.core.jobs.connect_accounts import Known, compare
from relay.core.jobs.job import KNOWN_STATUSES, Job, Observation, Progress, detect
from relay.core.jsontext import dumps
from relay.core.planner.budget import MAX_WINDOW_SECONDS, read_limits
from relay.core.planner.config import RateLimitHeaders
from relay.core.relay_events import account_data
from relay.sources.client import PollResult, UpstreamClient, _Answer
from relay.sources.definition import load_definition
from relay.sources.mapping import MAX_UNITS, Malformed, Registered, observe, read_error, read_listing, registered
from tests.support.fuzz_kit import JSON_VALUES, TEXTS, VALUES, fuzzed, mutated_text, raw_json, value_or_refusal

NOW = 1_779_271_300.0
REVOR = load_definition("revor")
ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="http://x/schemas/a.json")

ITEM: dict[str, Any] = {
    "id": "a",
    "status": "failed",
    "action": "outreach.dispatch",
    "channel": "email",
    "attempt_count": 2,
    "scheduled_at": "2026-05-20T10:00:00.000Z",
    "started_at": "2026-05-20T10:00:01.000Z",
    "finished_at": "2026-05-20T10:00:08.000Z",
    "next_attempt_at": None,
    "error": {"code": "insufficient_credits", "message": "m", "retryable": True},
    "result": {"provider_status": "sent"},
}
BODY: dict[str, Any] = {"ok": True, "request_id": "req_1", "item": ITEM}
ERROR_BODY = {"ok": False, "error": {"code": "api_key_invalid", "message": "m", "request_id": "req_2"}}
NAMES = sorted(
    {
        *ITEM,
        *(place[0] for place in REVOR.resource.read_fields),
        "ok",
        "item",
        "available_credits",
        "error",
        "request_id",
        "code",
        "message",
        "retryable",
    }
)
STATUSES = st.sampled_from([*KNOWN_STATUSES, "paused", "", "x" * 500, " failed", "\x00", "\u202e"])
FIELDS = st.one_of(VALUES, STATUSES, mutated_text(["2026-05-20T10:00:00.000Z", "1970-01-01t00:00:00+23:59"], ["24:"]))
BODIES = st.one_of(
    VALUES,
    st.builds(
        lambda item, around: {**BODY, "item": {**ITEM, **item}, **around},
        st.dictionaries(st.sampled_from(NAMES), FIELDS, max_size=5),
        st.dictionaries(st.sampled_from(NAMES), FIELDS, max_size=2),
    ),
    st.builds(
        lambda error, around: {**ERROR_BODY, "error": {**ERROR_BODY["error"], **error}, **around},  # type: ignore[dict-item]
        st.dictionaries(st.sampled_from(NAMES), FIELDS, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), FIELDS, max_size=2),
    ),
)
RAW_BODIES = raw_json(BODIES, [BODY, ERROR_BODY])


def check_observation(seen: Observation | Malformed, history: Progress) -> None:
    """The observation becomes events that can be sent."""
    if isinstance(seen, Malformed):
        assert seen.reason in ("not_json", "refused", "no_item", "no_status", "other_job")
        return
    job = Job(uid="job_1", external_id="a", source="revor", account="default")
    transitions, progress = detect(history, seen)
    assert isinstance(progress, Progress)
    for transition in transitions:
        hint = REVOR.hint_for(seen.problem, transition.kind, channel=seen.channel)
        event = from_transition("evt_1", job, transition, ORIGIN, seen=seen, hint=hint)
        assert len(event.body) <= MAX_EVENT_BYTES
        assert event.document()["data"]["job"] is not None


@fuzzed(raw=RAW_BODIES, before=RAW_BODIES, request_id=TEXTS, external_id=st.none() | st.just("a") | TEXTS)
def test_a_body_of_the_upstream(raw: bytes, before: bytes, request_id: str, external_id: str | None) -> None:
    first = observe(REVOR, before, now=NOW)
    history = Progress() if isinstance(first, Malformed) else detect(Progress(), first)[1]
    check_observation(observe(REVOR, raw, now=NOW + 1, request_id_header=request_id, external_id=external_id), history)
    error = read_error(REVOR, raw)
    assert (type(error.code), type(error.message)) == (str, str)


@fuzzed(
    body=BODIES.filter(lambda body: isinstance(body, Mapping)) | st.dictionaries(st.sampled_from(NAMES), JSON_VALUES)
)
def test_the_answer_to_a_create(body: Mapping[str, Any]) -> None:
    found = registered(REVOR, body, now=NOW)
    if found is None:
        return
    assert isinstance(found, Registered)
    assert 1 <= len(found.external_id) <= 200
    if found.observation is not None:
        check_observation(found.observation, Progress())


ACCOUNT_ITEM: dict[str, Any] = {
    "account_id": "a", "channel": "email", "name": "Ada", "status": "ok", "can_send": True,
}  # fmt: skip
LISTING: dict[str, Any] = {"ok": True, "items": [ACCOUNT_ITEM, {**ACCOUNT_ITEM, "account_id": 7}]}
ITEMS = st.builds(
    lambda fields: {**ACCOUNT_ITEM, **fields},
    st.dictionaries(st.sampled_from(sorted(ACCOUNT_ITEM)), VALUES | st.sampled_from(["credentials", "error"])),
)
LISTINGS = raw_json(st.builds(lambda items: {"ok": True, "items": items}, st.lists(ITEMS | VALUES) | VALUES), [LISTING])


@fuzzed(raw=LISTINGS, after=LISTINGS)
def test_a_listing_of_connect_accounts(raw: bytes, after: bytes) -> None:
    """Whatever two listings say, what is known of the accounts can be stored, and each event can be sent."""
    known = Known(source="revor", account="default", accounts={})
    for number, body in enumerate((raw, after, after)):
        found = read_listing(REVOR, body)
        if isinstance(found, Malformed):
            assert found.reason in ("not_json", "refused", "no_items")
            continue
        now = NOW + 60 * number
        compared = compare(known, found, now, confirm_seconds=30)
        known = replace(known, listed_at=now, accounts=compared.accounts)
        for one in compared.accounts.values():
            assert "\0" not in repr(one)
            dumps([one.id, one.channel, one.name, one.status, one.state, *one.changes]).decode()
        for one, kind in compared.news:
            data = account_data(one, open_jobs=0)
            event = account_event("evt_1", kind, now, data, ORIGIN, dataschema="http://x/schemas/a.json")
            assert len(event.body) <= MAX_EVENT_BYTES


class Upstream(UpstreamClient):
    """A client with a prepared upstream answer."""

    answer: _Answer

    async def _fetch(self, url: str, api_key: str, *_: object) -> _Answer:
        return self.answer


CLIENT = Upstream(REVOR, "https://revor.ai", clock=lambda: NOW, user_agent="test")


@fuzzed(
    raw=RAW_BODIES,
    status=st.integers(100, 999) | st.sampled_from([200, 204, 302, 401, 403, 404, 408, 410, 429, 500, 503, 508]),
    headers=st.dictionaries(TEXTS, TEXTS, max_size=3),
    complete=st.booleans(),
    api_key=st.sampled_from(["sk-revor-12345678", "a", '{"', "null", "status\x7f", "", "é"]),
)
def test_any_poll_gives_a_known_result(
    raw: bytes, status: int, headers: dict[str, str], complete: bool, api_key: str
) -> None:
    seen = MappingProxyType(headers)
    CLIENT.answer = _Answer(status_code=status, headers=seen, body=raw, complete=complete, secrets=(api_key,))
    for ask in (CLIENT.poll("a", api_key), CLIENT.probe(api_key), CLIENT.list_accounts(api_key)):
        poll = asyncio.run(ask)
        assert isinstance(poll, PollResult)
        assert (poll.detail == "") == (poll.kind == "observed")
    credits = asyncio.run(CLIENT.read_credits(api_key))
    assert (credits.document is not None) == (credits.kind == "observed")
    assert 0 <= (credits.document or 0) <= MAX_UNITS


HEADER_NAMES = [getattr(RateLimitHeaders(), name) for name in RateLimitHeaders.__slots__]
HTTP_DATES = ["Wed, 20 May 2026 10:00:08 GMT", "Wednesday, 20-May-26 10:00:08 GMT", "Wed May 20 10:00:08 2026"]
HEADER_VALUES = mutated_text(
    [*HTTP_DATES, "120", "0.5", "-1", "60000"],
    [*("+9999", "-9999", "GMT", "EST", "Feb", "31", "99999", ":", ",", "-", "e9", "inf", "nan", "_", "١", "(a)", "\t")],
)


@fuzzed(
    headers=st.dictionaries(st.sampled_from(HEADER_NAMES) | TEXTS, HEADER_VALUES | VALUES, max_size=6) | VALUES,
    clock=st.floats(0, 2e11),
)
def test_headers_about_the_rate_limit(headers: Any, clock: float) -> None:
    reading = read_limits(headers, RateLimitHeaders().meanings, clock)
    assert all(number is None or (math.isfinite(number) and number >= 0) for number in reading)
    assert (reading.retry_after_seconds or 0) <= MAX_RETRY_AFTER_SECONDS
    assert (reading.window_seconds or 0) <= MAX_WINDOW_SECONDS


@fuzzed(value=HEADER_VALUES, date=st.none() | HEADER_VALUES, now=st.floats(0, 2e11))
def test_retry_after(value: str, date: str | None, now: float) -> None:
    pause = parse_retry_after(value, now=now, received_date=date)
    assert pause is None or 0 <= pause <= MAX_RETRY_AFTER_SECONDS


@fuzzed(text=mutated_text(["2026-05-20T10:00:08Z", "2026-05-20T10:00:08.123456+02:00", "2026-W20-3"], ["24", "+", "."]))
def test_times(text: str) -> None:
    seconds = value_or_refusal(lambda: from_rfc3339(text), ValueError)
    if seconds is not None:
        assert 0 <= seconds <= MAX_EPOCH_SECONDS
        assert from_rfc3339(to_rfc3339(seconds)) == round(seconds, 3)
