"""What `explain` says in words: for every reason what is waited for, when the next poll is, and why not earlier."""

from typing import Any, get_args

import pytest

from relay.clock import from_rfc3339
from relay.core.jobs.job import Job, Progress
from relay.core.planner.outlook import PollExplanation, Reason
from relay.core.polling.tracking import OTHERS_NEED_THEM, sentence

NOW = from_rfc3339("2026-05-20T09:59:00Z")
TEN = from_rfc3339("2026-05-20T10:00:00Z")


def said(reason: Reason, job: dict[str, Any] | None = None, **changes: Any) -> str:
    values: dict[str, Any] = {"anchor_at": None, "next_poll_at": TEN, "not_before": TEN, "waiting_for_job_id": None}
    plan = PollExplanation(reason=reason, **{**values, "step": 0, "failures": 0, **changes})
    known = {"uid": "job_2", "external_id": "a", "source": "revor", "account": "default", **(job or {})}
    return sentence(Job(**known), plan, NOW)


def test_before_its_anchor_a_job_is_polled_when_it_has_likely_ended() -> None:
    assert said(
        "before_anchor", anchor_at=TEN, next_poll_at=TEN + 6, not_before=TEN + 6, expected_delay_seconds=1.2
    ) == (
        "Nothing can happen to it before 10:00:00 UTC; the next poll comes in 66 s, at 10:00:06 UTC, when it is likely "
        "to have ended: polling earlier would take requests from jobs that need them more. "
        "Its end is known about 1.2 s after it happens."
    )


@pytest.mark.parametrize(
    ("reason", "job", "changes", "expected"),
    [
        ("in_flight", {}, {"next_poll_at": None, "not_before": None}, "the answer decides when the next poll comes."),
        ("due", {}, {"next_poll_at": NOW, "not_before": NOW}, "Its poll is due and goes out now."),
        ("budget", {}, {"next_poll_at": NOW - 1, "not_before": NOW}, "as soon as those are out that were due before"),
        ("budget", {}, {"next_poll_at": NOW, "not_before": None}, "as soon as those are out that were due before"),
        ("budget", {}, {"next_poll_at": NOW, "not_before": NOW + 3}, "goes out in 3 s, at 09:59:03 UTC, or later."),
        ("paused_until", {}, {"next_poll_at": NOW}, "send nothing for a while: it goes out in 60 s, at 10:00:00 UTC."),
        ("lane_parked", {}, {}, "It cannot start before the job ahead of it in its lane has; the next poll comes in"),
        (
            "lane_parked",
            {"channel": "email"},
            {"waiting_for_job_id": "job_1"},
            "It cannot start before job_1, the job ahead of it in the lane email, has; the next poll comes in 60 s, "
            "at 10:00:00 UTC, in case it was moved or cancelled.",
        ),
        ("before_anchor", {}, {}, "Nothing can happen to it yet; the next poll comes in 60 s, at 10:00:00 UTC."),
        ("before_anchor", {}, {"anchor_at": TEN}, "in 60 s, at 10:00:00 UTC: an earlier one would find nothing."),
        (
            "before_anchor",
            {},
            {"anchor_at": TEN + 86_400},
            "Nothing can happen to it before 2026-05-21 10:00:00 UTC, unless it is moved or cancelled; the next poll "
            "comes in 60 s, at 10:00:00 UTC, in case it was.",
        ),
        ("backing_off", {}, {"failures": 1}, "The last poll of it failed; the next one comes in 60 s, at 10:00:00"),
        ("backing_off", {}, {"failures": 3}, "The last 3 polls of it failed; the next one comes in 60 s"),
        (
            "between_looks",
            {},
            {},
            f"It has not been polled yet; the next poll comes in 60 s, at 10:00:00 UTC: {OTHERS_NEED_THEM}",
        ),
        (
            "between_looks",
            {"progress": Progress(status="running"), "last_polled_at": NOW - 5},
            {},
            f"At 09:58:55 UTC it was running; the next poll comes in 60 s, at 10:00:00 UTC: {OTHERS_NEED_THEM}.",
        ),
        ("between_looks", {"progress": Progress(status="queued")}, {}, "It has not been polled yet; the next poll"),
        ("between_looks", {"last_polled_at": NOW - 5}, {}, "The poll at 09:58:55 UTC failed; the next poll"),
        (
            "between_looks",
            {"progress": Progress(status="running"), "last_polled_at": NOW - 5, "last_error": {"code": "unavailable"}},
            {},
            "The poll at 09:58:55 UTC failed; the next poll",
        ),
        (
            "between_looks",
            {"progress": Progress(status="\x1b odd"), "last_polled_at": NOW},
            {},
            "At 09:59:00 UTC it was in a status that the relay does not know; the next poll",
        ),
    ],
)
def test_every_reason_has_its_sentence(reason: Reason, job: dict[str, Any], changes: Any, expected: str) -> None:
    text = said(reason, job, **changes)
    assert expected in text
    assert text.endswith(".")


@pytest.mark.parametrize("reason", get_args(Reason))
def test_each_reason_has_an_explanation(reason: Reason) -> None:
    assert said(reason).endswith(".")
    assert "Its end is known about 2 s after it happens." in said(reason, expected_delay_seconds=2.0)
    assert "known about" not in said(reason, expected_delay_seconds=float("inf"))


def test_delay_of_a_planned_poll_is_explained() -> None:
    held = said("between_looks", not_before=TEN + 60)
    assert held.endswith(
        "Nothing is sent before 10:01:00 UTC, though: the budget is spent, or the upstream wants a pause."
    )
    assert "Nothing is sent" not in said("between_looks", not_before=TEN + 0.5)
    assert "Nothing is sent" not in said("between_looks", not_before=None)
