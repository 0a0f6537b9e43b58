"""The requests of one delivery: one time-out, the last one decides, and what is remembered is never lost."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import MAX_STEPS, Ended, Memory, Step, Steps
from relay.delivery.credentials import Sent
from relay.delivery.dialogues import FAILED, converse
from relay.errors import FieldError, NotRenderable, StoreError
from relay.testing import FakeClock

OK = Outcome(verdict="delivered", reason="ok")


def step(name: str, remember: Memory | None = None, *, share: Memory | None = None, private: bool = False) -> Step:
    request = OutboundRequest(url=f"https://x.example/{name}", headers=(("X-Step", name),))
    return Step(request=request, name=name, remember=remember, share=share, private=private)


class Sink:
    """Answers each step with the next status, and stores what it is given to remember."""

    def __init__(self, *answers: int | str, seconds: float = 0.0) -> None:
        self.clock = FakeClock()
        self.answers = list(answers)
        self.sent: list[tuple[str, float]] = []
        self.saved: list[Memory] = []
        self.saves: bool | StoreError = True
        self.order: list[str] = []
        self.outcome: Outcome | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.excerpt = b""

    async def send(self, step: Step, seconds: float) -> Sent:
        self.sent.append((step.name, seconds))
        self.order.append(step.name)
        answer = self.answers.pop(0)
        error = answer if isinstance(answer, str) else None
        response = Response(
            started_at=self.clock(),
            duration_ms=10.0,
            status_code=None if error else int(answer),
            error=error,
            detail="no route" if error else None,
            headers=self.headers,
            excerpt=self.excerpt,
        )
        return Sent(
            headers=step.request.headers, response=response, outcome=self.outcome, secrets=(f"secret of {step.name}",)
        )

    async def save(self, remember: Memory | None, share: Memory | None) -> bool:
        self.order.append("save")
        if isinstance(self.saves, StoreError):
            raise self.saves
        self.saved += [memory for memory in (remember, share) if memory is not None]
        return self.saves

    async def converse(
        self,
        begin: Callable[[], Steps],
        timeout_seconds: float = 15.0,
        memory: Memory = ledger.CLEARED,
        *,
        known: Sequence[Memory] = (),
        private: bool = False,
    ) -> Sent:
        named = {"memory": memory, "known": known, "private": private}
        return await converse(begin, self.send, self.save, timeout_seconds, self.clock, "evt_1", **named)  # type: ignore[arg-type]


def two(**ended: Any) -> Callable[[], Steps]:
    def steps() -> Steps:
        first = yield step("first")
        second = yield step("second", remember={"first": first.status_code})
        outcome = OK if second.status_code == 200 else Outcome(verdict="retry", reason="no")
        return Ended(outcome=outcome, **ended)

    return steps


async def test_last_request_decides_and_the_others_are_named() -> None:
    sink = Sink(201, 200)
    sent = await sink.converse(two(remember={"done": True}))
    assert sent.outcome == OK
    assert sent.headers == (("X-Step", "second"),)
    assert (sent.response.status_code, sent.response.duration_ms) == (200, 20.0)
    assert sent.response.detail == "request 2, after first: HTTP 201"
    assert sent.secrets == ("secret of first", "secret of second")
    assert sent.remember == {"done": True}
    assert sink.order == ["first", "save", "second"], "what is remembered is stored before the next request"
    assert sink.saved == [{"first": 201}]


async def test_all_requests_share_one_time_out() -> None:
    sink = Sink(201, 200)
    await sink.converse(two(), timeout_seconds=7.0)
    assert [seconds for _, seconds in sink.sent] == [7.0, 7.0]
    late = await sink.converse(two(), timeout_seconds=0.0)
    assert len(sink.sent) == 2, "no time is left"
    assert (late.response.error, late.response.late) == ("unsent", True)
    assert late.outcome == Outcome(verdict="retry", reason="no")


async def test_request_is_not_sent_unless_what_it_needs_is_stored() -> None:
    for saves in (False, StoreError("the disk is full")):
        sink = Sink(201)
        sink.saves = saves
        sent = await sink.converse(two())
        assert sent.outcome == Outcome(verdict="retry", reason="not_stored")
        assert [name for name, _ in sink.sent] == ["first"]
        assert sent.remember == {"first": 201}


async def test_exception_of_a_kind_is_a_failure_that_forgets_nothing() -> None:
    def broken_at_once() -> Steps:
        raise KeyError("ts")
        yield

    def broken_later() -> Steps:
        yield step("first", remember={"ledger": 1})
        raise KeyError("ts")

    def broken_before() -> Steps:
        raise KeyError("ts")

    for begin in (broken_at_once, broken_before):
        sent = await Sink().converse(begin)
        assert (sent.outcome, sent.response.error) == (Outcome(verdict="retry", reason="render"), "render")
        assert "KeyError" in (sent.response.detail or "")
    sent = await Sink(200).converse(broken_later)
    assert sent.outcome == Outcome(verdict="retry", reason="render"), "200 alone proves nothing"
    assert sent.response.status_code == 200
    assert sent.remember == {"ledger": 1}


async def test_requests_of_one_delivery_are_limited() -> None:
    def endless() -> Steps:
        while True:
            yield step("again")

    sink = Sink(*([200] * (MAX_STEPS + 1)))
    sent = await sink.converse(endless)
    assert len(sink.sent) == MAX_STEPS
    assert sent.outcome == Outcome(verdict="retry", reason="render")


INTENDED: Memory = {"state": "intended", "record": "note", "target": {"deal_id": 7}, "portal": "acme", "at": 1.0}
DONE: Memory = {**INTENDED, "state": "done"}
SECOND: Memory = {**INTENDED, "record": "task", "made": {"notes": "5"}}
WAIT = Outcome(verdict="retry", reason="credential", retry_after_seconds=5.0)


def writing(remember: Memory = INTENDED) -> Steps:
    """Looks something up, then writes."""
    yield step("look up")
    yield step("write", remember)
    raise AssertionError("nothing more is asked")


async def test_write_without_time_left_is_not_sent_although_it_was_stored() -> None:
    """Storing took the rest of the time."""
    sink = Sink(200)
    loop = asyncio.get_running_loop()
    late = loop.time() + 99.0

    async def slow(remember: Memory | None, share: Memory | None) -> bool:
        sink.order.append("save")
        moved.setattr(loop, "time", lambda: late)
        return True

    def steps() -> Steps:
        yield step("look up")
        response = yield step("write", INTENDED)
        assert ledger.never_sent(response)
        return Ended(outcome=FAILED, remember=ledger.CLEARED)

    with pytest.MonkeyPatch.context() as moved:
        sink.save = slow  # type: ignore[method-assign]
        sent = await sink.converse(steps)
    assert sink.order == ["look up", "save"]
    assert (sent.response.error, sent.remember) == ("unsent", ledger.CLEARED)


@pytest.mark.parametrize(
    ("memory", "remember", "outcome", "kept"),
    [
        ({}, INTENDED, WAIT, {}),
        (DONE, INTENDED, WAIT, DONE),
        (INTENDED, INTENDED, replace(WAIT, in_doubt=True), INTENDED),
        ({}, {"ts": "1"}, WAIT, {"ts": "1"}),
        ({"made": {"notes": "5"}}, SECOND, WAIT, {"made": {"notes": "5"}}),
    ],
)
async def test_write_that_cannot_be_sent_is_not_in_doubt_unless_it_was_before(
    memory: Memory, remember: Memory, outcome: Outcome, kept: Memory
) -> None:
    sink = Sink("credential")
    sink.outcome = WAIT

    def steps() -> Steps:
        yield step("write", remember)
        raise AssertionError

    sent = await sink.converse(steps, memory=memory)
    assert (sent.outcome, sent.remember) == (outcome, kept)


@pytest.mark.parametrize(
    ("known", "kept"),
    [((), {}), ((DONE, {}), {}), (({}, INTENDED), SECOND)],
    ids=["nothing known", "another one done", "in doubt before"],
)
@pytest.mark.parametrize("why", ["no credential", "not stored"])
async def test_what_is_shared_is_in_doubt_only_once_the_request_may_have_been_sent(
    known: Sequence[Memory], kept: Memory, why: str
) -> None:
    sink = Sink("credential")
    sink.outcome = WAIT
    sink.saves = why == "no credential"

    def steps() -> Steps:
        yield step("create", share=SECOND)
        raise AssertionError

    sent = await sink.converse(steps, known=known)
    assert (sent.share, sent.remember) == (kept, None)
    assert sent.outcome is not None
    assert not sent.outcome.in_doubt, "no record is in doubt"


async def test_what_is_shared_stays_intended_if_the_answer_is_lost() -> None:
    def steps() -> Steps:
        yield step("create", share=INTENDED)
        return Ended(outcome=WAIT)

    assert (await Sink("timeout").converse(steps)).share == INTENDED


async def test_question_without_a_credential_keeps_the_write_in_doubt() -> None:
    sink = Sink("credential")
    sink.outcome = WAIT
    sent = await sink.converse(writing, memory=INTENDED)
    assert (sent.outcome, sent.remember) == (replace(WAIT, in_doubt=True), None)


@pytest.mark.parametrize("saves", [False, StoreError("the disk is full")])
async def test_write_whose_intent_is_not_stored_is_not_in_doubt(saves: bool | StoreError) -> None:
    sink = Sink(200)
    sink.saves = saves
    sent = await sink.converse(writing)
    assert [name for name, _ in sink.sent] == ["look up"]
    assert sent.outcome == Outcome(verdict="retry", reason="not_stored")
    assert sent.remember == {}, "so that the next attempt need not ask"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyError("ts"), Outcome(verdict="retry", reason="render", in_doubt=True)),
        (
            NotRenderable([FieldError(pointer="/config/template", code="missing", detail="no metadata.deal")]),
            Outcome(verdict="uncertain", reason="/config/template: no metadata.deal", in_doubt=True),
        ),
    ],
)
@pytest.mark.parametrize("memory", [INTENDED, SECOND])
async def test_kind_that_fails_leaves_a_write_in_doubt(error: Exception, outcome: Outcome, memory: Memory) -> None:
    def steps() -> Steps:
        raise error
        yield

    assert (await Sink().converse(steps, memory=memory)).outcome == outcome


async def test_kind_that_fails_after_its_write_leaves_it_in_doubt() -> None:
    def steps() -> Steps:
        yield step("write", INTENDED)
        raise KeyError("id")

    sent = await Sink(201).converse(steps)
    assert sent.outcome == Outcome(verdict="retry", reason="render", in_doubt=True)
    assert sent.remember == INTENDED


async def test_endless_questions_leave_a_write_in_doubt() -> None:
    def endless() -> Steps:
        while True:
            yield step("again")

    sent = await Sink(*[200] * MAX_STEPS).converse(endless, memory=INTENDED)
    assert sent.outcome == Outcome(verdict="retry", reason="render", in_doubt=True)


@pytest.mark.parametrize("private", [False, True])
async def test_text_of_a_kinds_exception_is_not_logged_where_it_may_name_a_person(
    private: bool,
) -> None:
    def steps() -> Steps:
        int("alex@example.com")
        yield

    with capture_logs() as lines:
        await Sink().converse(steps, private=private)
    (line,) = lines
    assert line["event"] == "render_failed"
    assert ("exc_info" in line) is not private
    assert line.get("error") == ("ValueError" if private else None)
    assert ("alex" in repr(line)) is not private
