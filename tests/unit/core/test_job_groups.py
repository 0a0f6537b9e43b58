"""Groups: what a job counts as, rounds, and when one has finished."""

from typing import Any

import pytest

from relay.core.jobs.groups import (
    MAX_CODES,
    OTHER,
    SPANS,
    STATES,
    Closing,
    Folded,
    JobChange,
    JobGroup,
    Place,
    fold,
    place_of,
    place_of_job,
    spans_until,
)
from relay.core.jobs.job import Job, Progress

NOW = 1_800_000_000.0
SETTLE = 900.0


def group(**fields: Any) -> JobGroup:
    values = {"id": "grp_1", "source": "revor", "account": "default", "name": "q4", "first_at": NOW, "last_at": NOW}
    return JobGroup(**{**values, **fields})


def joins(uid: str = "job_1", state: str = "queued", at: float = NOW) -> JobChange:
    return JobChange(uid, at, None, Place(state))


def moves(before: str, after: str | None, round: int = 1, uid: str = "job_1", at: float = NOW) -> JobChange:
    return JobChange(uid, at, Place(before), None if after is None else Place(after), round)


def folded(start: JobGroup, *notes: JobChange | Closing, now: float | None = None) -> Folded:
    changes = [note for note in notes if isinstance(note, JobChange)]
    closings = [note for note in notes if isinstance(note, Closing)]
    at = max((note.at for note in notes), default=NOW) if now is None else now
    return fold(start, changes, closings, now=at, settle_seconds=SETTLE)


@pytest.mark.parametrize(
    ("outcome", "phase", "result_status", "code", "expected"),
    [
        (None, None, None, None, Place("queued")),
        (None, "queued", None, None, Place("queued")),
        (None, "scheduled", None, None, Place("scheduled")),
        (None, "running", None, None, Place("running")),
        (None, "retrying", None, None, Place("retrying")),
        (None, "status_unknown", None, None, Place("queued")),
        (None, "not_found", None, None, Place("queued")),
        ("succeeded", "succeeded", "accepted", None, Place("succeeded")),
        ("succeeded", "succeeded", "skipped", None, Place("succeeded", skipped=True)),
        ("failed", "failed", None, "no_reply", Place("failed", code="no_reply")),
        ("failed", "failed", "skipped", None, Place("failed")),
        ("untracked", "running", None, "no_reply", Place("untracked")),
        ("not_found", "not_found", None, None, Place("not_found")),
    ],
)
def test_job_counts_in_one_state(
    outcome: str | None, phase: str | None, result_status: str | None, code: str | None, expected: Place
) -> None:
    assert place_of(outcome, phase, result_status, code) == expected
    job = Job(
        uid="job_1", external_id="a", source="revor", account="default", progress=Progress(phase=phase),
        outcome=outcome, result_status=result_status, error_code=code,
    )  # fmt: skip
    assert place_of_job(job) == expected
    assert expected.state in STATES


def test_job_moves_between_states() -> None:
    found = folded(group(), joins(), moves("queued", "running")).group
    assert (found.counts, found.arrived, found.open_jobs) == ({"running": 1}, 1, 1)
    assert found.all_counts == {**dict.fromkeys(STATES, 0), "running": 1}


@pytest.mark.parametrize(
    ("before", "after", "arrives"),
    [
        (None, "queued", True),
        (None, "succeeded", True),
        ("untracked", "queued", True),
        ("queued", "running", False),
        ("running", "failed", False),
        ("queued", None, False),
    ],
)
def test_job_arrives_when_it_joins_or_is_tracked_again(before: str | None, after: str | None, arrives: bool) -> None:
    places = [None if state is None else Place(state) for state in (before, after)]
    assert JobChange("job_1", NOW, places[0], places[1]).arrives is arrives


@pytest.mark.parametrize(
    ("start", "now", "finished", "due_at"),
    [
        (group(counts={"running": 1}, closed_at=NOW), NOW + 9_999, False, None),
        (group(counts={"failed": 1}), NOW + 899, False, NOW + 900),
        (group(counts={"failed": 1}), NOW + 900, True, None),
        (group(counts={"failed": 1}, max_gap_seconds=400.0), NOW + 1_199, False, NOW + 1_200),
        (group(counts={"failed": 1}, max_gap_seconds=400.0), NOW + 1_200, True, None),
        (group(counts={"failed": 1}, closed_at=NOW), NOW, True, None),
        (group(counts={"failed": 2}, closed_at=NOW, expected=2), NOW, True, None),
        (group(counts={"failed": 2}, closed_at=NOW, expected=3), NOW, False, NOW + 900),
        (group(counts={"failed": 2}, closed_at=NOW + 50, expected=3), NOW + 60, False, NOW + 950),
        (group(counts={"failed": 2}, closed_at=NOW, expected=3), NOW + 900, True, None),
        (group(counts={"failed": 1}, finished_at=NOW), NOW + 9_999, False, None),
    ],
)
def test_round_finishes_once_no_more_is_expected(
    start: JobGroup, now: float, finished: bool, due_at: float | None
) -> None:
    found = folded(start, now=now)
    assert (found.finished, found.group.due_at) == (finished, due_at)
    assert (found.group.finished_at == now) == finished


def test_finished_round_is_followed_by_an_empty_one() -> None:
    start = group(
        counts={"failed": 3}, failures={"no_reply": 3}, skipped=1, expected=4, closed_at=NOW, finished_at=NOW + 1,
        max_gap_seconds=7.0,
    )  # fmt: skip
    assert start.missing == 1
    found = folded(start, joins("job_2", at=NOW + 5), moves("failed", None))
    assert found.group == group(round=2, counts={"queued": 1}, first_at=NOW + 5, last_at=NOW + 5)
    assert found.joined == {"job_2": 2}


def test_job_of_an_earlier_round_is_counted_again_only_when_it_is_tracked_again() -> None:
    start = group(round=2, counts={"queued": 1})
    assert folded(start, moves("untracked", None, round=1)).group.counts == {"queued": 1}
    again = folded(start, moves("untracked", "queued", round=1), moves("queued", "running", round=1))
    assert again.group.counts == {"queued": 1, "running": 1}
    assert again.joined == {"job_1": 2}


def test_more_erased_jobs_than_were_expected_leave_none_expected() -> None:
    start = group(counts={"failed": 3}, expected=1, closed_at=NOW, finished_at=NOW)
    erased = [JobChange(f"job_{n}", NOW, Place("failed"), None, 1) for n in range(2)]
    assert folded(start, *erased).group.expected == 0


def test_codes_beyond_the_limit_are_counted_together() -> None:
    codes = [f"code_{n}" for n in range(MAX_CODES + 5)]
    fails = [JobChange(f"job_{code}", NOW, None, Place("failed", code=code)) for code in codes]
    found = folded(group(), *fails).group
    assert (len(found.failures), found.failures[OTHER]) == (MAX_CODES + 1, 5)
    assert found.most_failures[0] == (OTHER, 5)
    gone = [JobChange(one.job_uid, NOW, one.after, None, 1) for one in fails[1:]]
    assert folded(found, *gone).group.most_failures == [("code_0", 1)]


@pytest.mark.parametrize(
    ("closings", "expected", "closed_at"),
    [
        ([Closing(NOW + 1)], None, NOW + 1),
        ([Closing(NOW + 1, 5)], 5, NOW + 1),
        ([Closing(NOW + 1, 5), Closing(NOW + 2)], 5, NOW + 1),
        ([Closing(NOW + 1, 5), Closing(NOW + 2, 7)], 7, NOW + 1),
    ],
)
def test_last_stated_size_holds(closings: list[Closing], expected: int | None, closed_at: float) -> None:
    found = folded(group(counts={"queued": 1}), *closings).group
    assert (found.expected, found.closed_at) == (expected, closed_at)


def test_finished_round_cannot_be_closed() -> None:
    done = group(counts={"failed": 1}, finished_at=NOW)
    assert folded(done, Closing(NOW, 9)) == Folded(done, {}, False)


@pytest.mark.parametrize(
    ("age", "seconds"),
    [(0, 10), (230, 10), (231, 20), (3_600, 180), (86_400, 5_400), (30 * 86_400, 2 * 86_400), (9e8, 30 * 86_400)],
)
def test_spans_of_a_chart_cover_the_round_up_to_its_end(age: float, seconds: float) -> None:
    found = spans_until(NOW, NOW - age)
    assert len(found) == SPANS
    assert [before[1] for before in found[:-1]] == [after[0] for after in found[1:]]
    assert {ended_at - began_at for began_at, ended_at in found} == {seconds}
    assert found[-1][0] <= NOW < found[-1][1]
    assert found[0][0] <= NOW - age or age > 2 * 365 * 86_400
