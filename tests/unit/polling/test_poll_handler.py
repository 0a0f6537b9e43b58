"""Poll handler: a hint belongs to the attempt that the item's error is about. Transitions are logged where they are
shown."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from relay.core.events.event import Hint, Origin
from relay.core.jobs.job import Job, Observation, Problem, Progress, detect
from relay.core.records import Recorded
from relay.metrics import Metrics
from relay.polling import poll_handler as module
from relay.polling.poll_handler import PollHandler
from relay.signals import Signals
from relay.sources.client import PollResult
from relay.sources.definition import load_definition

NOW = 1779271208.0
ORIGIN = Origin(source="https://api.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/job-status.v1.json")
JOBS = load_definition("revor").resource
JOB = Job(uid="job_1", external_id="1", source="revor", account="default")


def hint_for(problem: Problem | None, kind: str, *, channel: str | None = None) -> Hint | None:
    return None if problem is None else Hint(meaning=problem.code, fix="Wait", who="Revor", repeat="may_send_twice")


def poll_handler() -> PollHandler:
    definition, absent = SimpleNamespace(hint_for=hint_for, resource_of=lambda _: JOBS), cast(Any, None)
    settings = SimpleNamespace(origin_of=lambda _: ORIGIN, definition=definition)
    account: Any = SimpleNamespace(settings=settings, metrics=Metrics(), clock=lambda: NOW, tracing=None)
    return PollHandler(account, absent, absent)


def test_inferred_retry_has_no_hint_because_the_error_belongs_to_a_later_attempt() -> None:
    seen = Observation(
        status="failed", observed_at=NOW, attempt_count=3, problem=Problem(code="no_credits", message="")
    )
    transitions, _ = detect(Progress(), seen)

    shown = [
        (event.type.rpartition(".")[2], event.document()["data"].get("hint", {}).get("meaning"))
        for event in poll_handler().events(JOB, transitions, seen)
    ]

    assert shown == [("retrying", None), ("retrying", None), ("failed", "no_credits")]


def test_observed_retry_has_the_hint_of_its_error() -> None:
    seen = Observation(
        status="queued",
        observed_at=NOW,
        attempt_count=1,
        next_attempt_at=NOW + 60,
        problem=Problem(code="no_worker", message=""),
    )
    transitions, _ = detect(Progress(), seen)

    (event,) = poll_handler().events(JOB, transitions, seen)

    assert (event.type, event.document()["data"]["hint"]["meaning"]) == ("ai.revor.job.retrying", "no_worker")


TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


class Jobs:
    async def record(self, _record: object) -> Recorded:
        return Recorded()


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(("status", "tells"), [("running", False), ("failed", True), ("settling", True)])
async def test_transition_that_no_one_has_to_see_is_logged_with_dev_and_at_debug_level_only(
    shown: bool, status: str, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shows_deliveries", lambda: shown)
    handler = poll_handler()
    account: Any = handler._account
    account.dispatcher = SimpleNamespace(reserve=lambda events: None, settle=lambda reservation, recorded: None)
    account.store, account.signals = SimpleNamespace(jobs=Jobs()), Signals()
    seen = Observation(status=status, observed_at=NOW)
    transitions, progress = detect(Progress(), seen)

    with capture_logs() as lines:
        await handler.record(JOB, transitions, progress, seen=seen)
        await handler.record(replace(JOB, trace=TRACE), transitions, progress, seen=seen)

    lines, traced = [line for line in lines if "trace_id" not in line], [line for line in lines if "trace_id" in line]
    assert [line["trace_id"] for line in traced] == (["a" * 32] if shown or tells else [])
    kind = "status_unknown" if status == "settling" else status
    assert [(line["event"], line["kind"]) for line in lines] == ([("transition", kind)] if shown or tells else [])


class Planner:
    def purpose(self, _uid: str) -> str:
        return "expected"

    def observed(self, *_of_poll: object, **_more: object) -> None: ...

    def next_poll_at(self, _uid: str) -> float:
        return NOW + 60

    def step(self, _uid: str) -> int:
        return 1


class Health:
    async def succeeded(self, _now: float) -> None: ...


@pytest.mark.parametrize("shown", [True, False])
async def test_poll_that_succeeded_makes_a_line_only_where_it_may_be_shown(
    shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def note(_note: object) -> None: ...

    monkeypatch.setattr(module, "shows_deliveries", lambda: shown)
    handler = poll_handler()
    account: Any = handler._account
    account.polled, account.store = lambda job, result: None, SimpleNamespace(jobs=SimpleNamespace(note=note))
    unset: Any = handler
    unset._agenda, unset._health = SimpleNamespace(planner=Planner()), Health()
    seen = Observation(status="running", observed_at=NOW)
    _, progress = detect(Progress(), seen)
    job = replace(JOB, progress=progress, upstream={})
    result = PollResult(kind="observed", observation=seen, sent_at=NOW, received_at=NOW, duration_ms=1.0)

    with capture_logs() as lines:
        await handler.handle(job, result)

    assert [line["event"] for line in lines] == (["poll"] if shown else [])
