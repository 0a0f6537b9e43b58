"""Slack with a bot token: one message per incident and group, edited in place, at a strict stand-in of the Web API."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, previewed
from relay.core.events.event import Event
from relay.core.jobs.job import JOB_EVENTS, Problem
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.slack.answers import read_answer
from subscribers.slack.dialogue import DIALOGUE
from subscribers.slack.words import message_key
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.job_events import NOW, group_made, incident_made, job_event
from tests.support.kind_checks import check
from tests.support.scale import scaled
from tests.support.slack_check import check_message
from tests.vendors.slack_web import POST, TOKEN, UPDATE, Fault, Post, SlackWeb

SINK = "https://slack.com/api/chat.postMessage"
CONTEXT = RenderContext(public_url="https://relay.example")
BOT = DIALOGUE
SLACK = registry.kind_named("slack")


def bot(sink: str = SINK, channel: Any = "#campaigns", token: str = TOKEN, **fields: Any) -> Subscription:
    credential = SinkCredential(
        id="crd_1", origin=origin_text(sink), fields={"credentialtype": "ACCESSTOKEN", "accesstoken": token}
    )
    values: dict[str, Any] = {"kind": "slack", "credential": credential, "options": {"channel": channel}}
    return Subscription(id="sub_1", sink=sink, **{**values, **fields})


def job(
    kind: str, nth: int, group: str | None = "spring", at: float = NOW, code: str = "proxy", result: str | None = None
) -> Event:
    failed = kind == "failed"
    return job_event(
        kind,
        id=f"evt_01jvpq00000000000000{nth:06}",
        job_id=f"job-{nth}",
        group=group,
        action=None,
        problem=Problem(code=code, message="", retryable=False) if failed else None,
        result_status=result,
        at=at,
    )


def finished(nth: int = 900, *, at: float = NOW + 100, round: int = 1) -> Event:
    data = {"counts": {"succeeded": 3, "failed": 2}, "skipped": 0, "failures": {"proxy": 2}}
    return group_made(f"evt_01jvpq00000000000000{nth:06}", at, group="spring", round=round, **data)


def incident(kind: str, nth: int, failed: int) -> Event:
    data = {"connect_account_name": "Ada", "code": "proxy", "hint": None, "likely": None, "first_failure_at": NOW}
    if kind == "closed":
        data["closed_because"] = "succeeded"
    id = f"evt_01jvpq00000000000000{nth:06}"
    return incident_made(kind, id, NOW + nth, incident="inc_01jvpq", failed=failed, **data)


class Channel:
    """A subscription to the stand-in, which remembers as the store does."""

    def __init__(self, **fields: Any) -> None:
        self.slack = SlackWeb()
        self.subscription = bot(**fields)
        self.memories: dict[str, Memory] = {}
        self.requests: list[OutboundRequest] = []

    def deliver(self, event: Event, *, dies_before: int | None = None) -> Outcome:
        """One attempt. `dies_before`: the process is killed before this request, from 0; nothing more is remembered."""
        key = BOT.key(event, self.subscription)
        memory = self.memories.get(key or "", {})
        steps = BOT.steps(event, self.subscription, CONTEXT, memory, NOW)
        sent = 0
        try:
            step = next(steps)
            while True:
                if step.remember is not None and key is not None:
                    self.memories[key] = self._stored(step.remember)
                if sent == dies_before:
                    return Outcome(verdict="retry", reason="killed")
                sent += 1
                self.requests.append(step.request)
                headers = (*step.request.headers, ("Authorization", f"Bearer {TOKEN}"))
                step = steps.send(self.slack.take(replace(step.request, headers=headers)))
        except StopIteration as end:
            ended = end.value
        assert isinstance(ended, Ended)
        if sent == dies_before:
            return Outcome(verdict="retry", reason="killed")
        if ended.remember is not None:
            assert key is not None
            self.memories[key] = self._stored(ended.remember)
        return ended.outcome

    def _stored(self, memory: Memory) -> Memory:
        body = orjson.dumps(memory)
        assert len(body) <= 16_384
        stored: Memory = orjson.loads(body)
        return stored

    def posts(self) -> list[Post]:
        return self.slack.channel()

    def calls(self) -> list[str]:
        return [
            method if "thread_ts" not in arguments else f"{method} in thread" for method, arguments in self.slack.calls
        ]


def delivered(channel: Channel, *events: Event) -> None:
    for event in events:
        assert channel.deliver(event) == Outcome(verdict="delivered", reason="ok")


# --- incidents


def test_incident_is_one_message_that_shows_its_present_state() -> None:
    channel = Channel()
    delivered(channel, incident("opened", 1, 3))
    (head,) = channel.posts()
    assert head.text.startswith("3 LinkedIn jobs of Ada failed")
    assert [reply.text for reply in head.replies] == ["The first failures"]
    delivered(channel, incident("grew", 2, 10), incident("closed", 3, 12))
    (head,) = channel.posts()
    assert head.text.startswith("LinkedIn jobs of Ada work again: 12 failed")
    assert [text[:22] for text in head.edits] == ["3 LinkedIn jobs of Ada", "10 LinkedIn jobs of Ad"]
    assert [reply.text[:15] for reply in head.replies] == ["The first failu", "10 LinkedIn job", "LinkedIn jobs o"]
    assert channel.calls() == [POST, f"{POST} in thread", UPDATE, f"{POST} in thread", UPDATE, f"{POST} in thread"]


def test_event_that_comes_late_does_not_turn_the_message_back() -> None:
    channel = Channel()
    delivered(channel, incident("opened", 1, 3), incident("closed", 3, 12), incident("grew", 2, 10))
    (head,) = channel.posts()
    assert head.text.startswith("LinkedIn jobs of Ada work again")
    assert [reply.text[:2] for reply in head.replies] == ["Th", "Li", "10"]


# --- groups


def test_group_is_one_message_with_counts_and_failures_in_its_thread() -> None:
    channel = Channel()
    delivered(
        channel,
        job("running", 1),
        job("succeeded", 2, result="accepted"),
        job("succeeded", 3, result="skipped"),
        job("failed", 4),
        job("failed", 5, code="invalid_phone"),
        job("failed", 6),
        job("overdue", 7),
    )
    (head,) = channel.posts()
    assert head.text == "Campaign spring so far: 1 accepted, 1 skipped, 3 failed, 1 overdue, 1 started"
    assert head.edits[0] == "Campaign spring so far: 1 started"
    assert "2 because of “proxy”, 1 because of “invalid phone”" in orjson.dumps(head.blocks).decode()
    assert [reply.text for reply in head.replies] == [
        "LinkedIn job (job job-4) failed",
        "LinkedIn job (job job-5) failed",
        "LinkedIn job (job job-6) failed",
        "LinkedIn job (job job-7) has not ended by its deadline. The relay goes on checking, less often",
    ]
    delivered(channel, finished())
    (head,) = channel.posts()
    assert head.text == "Campaign spring has finished: 3 of 5 jobs were accepted. 2 failed because of “proxy”"
    assert head.replies[-1].text == head.text
    assert not any(arguments.get("reply_broadcast") for _, arguments in channel.slack.calls)


def test_event_of_a_finished_round_goes_into_its_thread_and_the_next_round_is_a_new_message() -> None:
    channel = Channel()
    delivered(channel, job("failed", 1), finished(), job("failed", 2, at=NOW + 50), job("succeeded", 3, at=NOW + 60))
    (first,) = channel.posts()
    assert first.text.startswith("Campaign spring has finished")
    assert len(first.replies) == 4
    delivered(channel, job("failed", 4, at=NOW + 200), finished(901, at=NOW + 300, round=2))
    _, second = channel.posts()
    assert second.edits == ["Campaign spring so far: 1 failed"]
    assert second.text.startswith("Campaign spring has finished round 2")
    delivered(channel, finished(902, at=NOW + 400, round=3))
    assert len(channel.posts()) == 3


def test_event_that_is_sent_again_counts_once() -> None:
    channel = Channel()
    delivered(channel, job("failed", 1), job("failed", 1), job("succeeded", 2), job("succeeded", 2))
    (head,) = channel.posts()
    assert head.text == "Campaign spring so far: 1 accepted, 1 failed"
    assert len(head.replies) == 2, "whoever replays wants to see it again"


def test_nothing_of_a_job_is_remembered() -> None:
    channel = Channel()
    delivered(channel, job("failed", 1), incident("opened", 2, 3))
    said = orjson.dumps(channel.memories).decode()
    assert "job-1" not in said
    assert "Ada" not in said


# --- other events


@pytest.mark.parametrize("kind", JOB_EVENTS)
def test_event_without_a_story_is_a_plain_message(kind: str) -> None:
    channel = Channel()
    delivered(channel, job(kind, 1, group=None))
    assert channel.calls() == [POST]
    assert channel.memories == {}


def test_no_hostile_text_breaks_a_message_or_changes_its_address() -> None:
    keyed = 0
    for turn, text in enumerate(TEXTS):
        for event in events_with(text, part=turn, parts=scaled(28, 1)):
            event = replace(event, owner="revor/default")
            keyed += message_key(event) is not None
            for step in previewed(BOT.steps(event, bot(), CONTEXT, {}, NOW)):
                payload = orjson.loads(step.request.body)
                assert payload["channel"] in ("#campaigns", "{channel}")
                shown = {"text": payload["text"], "blocks": payload["blocks"]}
                check_message(orjson.dumps({**shown, "unfurl_links": False, "unfurl_media": False}))
    assert keyed > 100


# --- failures between the requests


def test_message_that_somebody_deleted_is_posted_anew() -> None:
    channel = Channel()
    delivered(channel, job("failed", 1))
    channel.slack.delete(channel.posts()[0])
    delivered(channel, job("failed", 2))
    (head,) = channel.posts()
    assert (head.text, len(head.replies)) == ("Campaign spring so far: 2 failed", 1)
    channel.slack.delete(head)
    delivered(channel, job("failed", 2))
    assert [len(post.replies) for post in channel.posts()] == [1]
    channel.slack.delete(channel.posts()[0])
    delivered(channel, finished())
    assert channel.posts()[0].text.startswith("Campaign spring has finished")


@pytest.mark.parametrize(
    "error", ["cant_update_message", "channel_not_found", "edit_window_closed", "message_not_found"]
)
def test_message_that_cannot_be_edited_gets_a_successor(error: str) -> None:
    channel = Channel()
    delivered(channel, incident("opened", 1, 3))
    channel.slack.fail(UPDATE, Fault(error=error))
    delivered(channel, incident("grew", 2, 10), incident("closed", 3, 12))
    old, new = channel.posts()
    assert old.text.startswith("3 LinkedIn")
    assert new.text.startswith("LinkedIn jobs of Ada work again")


def test_message_that_can_never_be_answered_is_retried_and_bounded() -> None:
    channel = Channel()
    channel.slack.fail(POST, *(Fault(error=None, works=True), Fault(error="thread_not_found")) * 3)
    assert channel.deliver(job("failed", 1)) == Outcome(verdict="retry", reason="thread_not_found")
    assert len(channel.requests) == 4


STORY: tuple[Callable[[], Event], ...] = (
    lambda: job("failed", 1),
    lambda: job("failed", 2),
    lambda: job("succeeded", 3),
    lambda: finished(),
)


@pytest.mark.parametrize("request_number", [0, 1])
@pytest.mark.parametrize("nth", range(len(STORY)))
def test_kill_between_any_two_requests_doubles_at_most_one_message(nth: int, request_number: int) -> None:
    channel = Channel()
    for place, event in enumerate(STORY):
        if place == nth:
            channel.deliver(event(), dies_before=request_number)
        delivered(channel, event())
    last = channel.posts()[-1]
    assert last.text.startswith("Campaign spring has finished"), "edits follow the message that is remembered"
    replies = [reply.text for post in channel.posts() for reply in post.replies]
    assert len(channel.posts()) == 1, "the message is remembered before its first detail is sent"
    assert len(replies) == 3


def test_kill_before_the_new_message_is_remembered_doubles_it_once() -> None:
    channel = Channel()
    steps = BOT.steps(job("failed", 1), channel.subscription, CONTEXT, {}, NOW)
    request = next(steps).request
    channel.slack.take(replace(request, headers=(*request.headers, ("Authorization", f"Bearer {TOKEN}"))))
    for event in STORY:
        delivered(channel, event())
    orphan, head = channel.posts()
    assert (orphan.text, orphan.edits, orphan.replies) == ("Campaign spring so far: 1 failed", [], [])
    assert head.text.startswith("Campaign spring has finished")


# --- answers


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=raw, headers=given)


def no(error: Any, **more: Any) -> dict[str, Any]:
    return {"ok": False, "error": error, **more}


@pytest.mark.parametrize(
    ("error", "verdict", "says"),
    [
        *((code, "disable", "bot token") for code in ("invalid_auth", "not_authed", "token_revoked")),
        *((code, "disable", "bot token") for code in ("account_inactive", "token_expired")),
        ("not_in_channel", "disable", "invite the app"),
        ("channel_not_found", "disable", "config.channel"),
        ("is_archived", "disable", "unarchive"),
        ("is_inactive", "disable", "unarchive"),
        ("restricted_action", "disable", "administrator"),
        *((code, "dead", code) for code in ("msg_too_long", "invalid_blocks", "invalid_arguments", "no_text")),
        *((code, "retry", code) for code in ("fatal_error", "internal_error", "service_unavailable")),
        *((code, "retry", code) for code in ("request_timeout", "team_added_to_org", "never_heard_of")),
        *((code, "retry", code) for code in ("message_not_found", "cant_update_message", "edit_window_closed")),
    ],
)
def test_error_says_what_happens_and_what_to_do(error: str, verdict: str, says: str) -> None:
    for status in (200, 400, 403, 404, 410):
        outcome = read_answer(answer(no(error), status), NOW).outcome
        assert (outcome.verdict, outcome.retry_after_seconds) == (verdict, None)
        assert outcome.reason.startswith(error)
        assert says in outcome.reason
        assert len(outcome.reason) <= 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"ok", b"<html>", b"\xff\xfe", b"[]", b"null", b'{"ok":true}', b'{"ok":"true","channel":"C1","ts":"1"}'),
        *(b'{"ok":true,"channel":7,"ts":[]}', b'{"ok":true,"channel":"C1","ts":"\\ud800"}', b'{"ok":1}'),
        *(b'{"ok":true,"channel":"C1","ts":""}', b'{"ok":true,"channel":"C1","ts":"1 2"}'),
        *(b'{"ok":false}', b'{"ok":false,"error":7}', b'{"ok":false,"error":"\\u0000"}', b'{"ok":false,"error":{}}'),
        *(b"[" * 60_000, b'{"ok":true,"ts":"' + b"1" * 60_000 + b'"}', b'{"error":"invalid auth"}'),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_answer_that_is_not_slacks_is_retried(body: bytes) -> None:
    for status in (200, 201, 204):
        found = read_answer(answer(body, status), NOW)
        assert (found.outcome.verdict, found.gone, found.place) == ("retry", False, None)
        assert found.outcome.reason


SEEN = ("seen", "at", "event", "finished_at", "begun_at", "failed")


@given(
    memory=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*("asked", "channel", "ts", "message", "counts", "codes"), *SEEN]),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict))
)
def test_any_memory_can_be_continued(memory: Mapping[str, Any]) -> None:
    memory = {"asked": "#campaigns", "channel": "C0CAMPAIGNS", "ts": "1780000000.000001", **memory}
    for event in (job("failed", 1), finished(), incident("grew", 2, 10)):
        assert previewed(BOT.steps(event, bot(), CONTEXT, memory, NOW))


# --- the subscription


def problems(subscription: Subscription) -> list[tuple[str, str]]:
    try:
        check(SLACK, subscription)
    except InvalidRequest as error:
        return [(one.pointer, one.code) for one in error.errors]
    return []


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        *((one, "invalid") for one in ("#", "C0123 4567", "General", "a b", "a.b", "x" * 81, "<!channel>", "a\n")),
        *(("", "too_short"), (7, "wrong_type"), (["C0123456789"], "wrong_type")),
    ],
)
def test_channel_of_another_form_is_refused(channel: Any, code: str) -> None:
    assert problems(bot(channel=channel)) == [("/config/channel", code)]
