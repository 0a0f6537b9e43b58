"""The requests of one delivery: one time-out, the last one decides, and what is remembered is never lost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import MAX_STEPS, Ended, Memory, Step, Steps
from relay.delivery.credentials import Sent
from relay.delivery.dialogues import converse
from relay.errors import FieldError, NotRenderable, StoreError
from relay.testing import FakeClock

OK = Outcome(verdict="delivered", reason="ok")


def step(name: str, remember: Memory | None = None) -> Step:
    request = OutboundRequest(url=f"https://x.example/{name}", headers=(("X-Step", name),))
    return Step(request=request, name=name, remember=remember)


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
        )
        return Sent(
            headers=step.request.headers, response=response, outcome=self.outcome, secrets=(f"secret of {step.name}",)
        )

    async def save(self, memory: Memory) -> bool:
        self.order.append("save")
        if isinstance(self.saves, StoreError):
            raise self.saves
        self.saved.append(memory)
        return self.saves

    async def converse(self, begin: Callable[[], Steps], timeout_seconds: float = 15.0) -> Sent:
        return await converse(begin, self.send, self.save, timeout_seconds, self.clock, "evt_1")


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


async def test_failure_keeps_what_was_remembered_before() -> None:
    sent = await Sink(201, "connect").converse(two())
    assert sent.outcome == Outcome(verdict="retry", reason="no")
    assert sent.response.detail == "no route; request 2, after first: HTTP 201"
    assert sent.remember == {"first": 201}


async def test_all_requests_share_one_time_out() -> None:
    sink = Sink(201, 200)
    await sink.converse(two(), timeout_seconds=7.0)
    assert [seconds for _, seconds in sink.sent] == [7.0, 7.0]
    late = await sink.converse(two(), timeout_seconds=0.0)
    assert len(sink.sent) == 2, "no time is left"
    assert (late.response.error, late.response.late) == ("timeout", True)
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


async def test_delivery_that_can_never_be_rendered_is_dead() -> None:
    def never() -> Steps:
        raise NotRenderable([FieldError(pointer="/config/template/deal", code="missing", detail="no metadata.deal")])
        yield

    sent = await Sink().converse(never)
    assert sent.outcome == Outcome(verdict="dead", reason="/config/template/deal: no metadata.deal")


async def test_without_a_credential_nothing_more_is_sent() -> None:
    sink = Sink("credential")
    sink.outcome = Outcome(verdict="retry", reason="credential", retry_after_seconds=5.0)
    sent = await sink.converse(two())
    assert sent.outcome == sink.outcome
    assert len(sink.sent) == 1


async def test_requests_of_one_delivery_are_limited() -> None:
    def endless() -> Steps:
        while True:
            yield step("again")

    sink = Sink(*([200] * (MAX_STEPS + 1)))
    sent = await sink.converse(endless)
    assert len(sink.sent) == MAX_STEPS
    assert sent.outcome == Outcome(verdict="retry", reason="render")


async def test_private_answer_decides_and_is_not_recorded() -> None:
    sink = Sink(200)

    async def send(step: Step, seconds: float) -> Sent:
        sent = await sink.send(step, seconds)
        shown = replace(sent.response, headers=(("X-Who", "jane@example.com"),), excerpt=b"jane@example.com")
        return replace(sent, response=shown)

    def steps() -> Steps:
        response = yield replace(step("first"), private=True)
        assert (response.excerpt, response.header("x-who")) == (b"jane@example.com", "jane@example.com")
        return Ended(outcome=OK)

    sent = await converse(steps, send, sink.save, 15.0, sink.clock, "evt_1")
    assert sent.outcome == OK
    assert (sent.response.status_code, sent.response.headers, sent.response.excerpt) == (200, (), b"")
