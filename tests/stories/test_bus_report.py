"""What the story `bus` says of what it read: it holds, or each thing that does not."""

from dataclasses import replace
from typing import Any

import pytest

from relay.cli.demo.report import Receipts, make_report
from tests.stories.bus_report import Arrival, BusReport, by_subject, published_events


def job_event(sequence: int, status: str) -> Arrival:
    event = {"id": f"evt_{sequence}", "type": f"ai.revor.job.{status}", "subject": "a", "channel": "email"}
    return Arrival(subject=f"jobs.email.{status}", id=f"evt_{sequence}", event={**event, "status": status})


ORDERS = [
    Arrival(subject=f"orders.{event['type'].rpartition('.')[2]}", id=f"evt_{event['id']}", event=event)
    for event in published_events()
]
ARRIVALS = (job_event(1, "queued"), *ORDERS, job_event(2, "succeeded"))
NO_JOBS = make_report((), Receipts(), speed=1.0, upstream_requests=0, elapsed_seconds=1.0)
GOOD = BusReport(
    report=NO_JOBS,
    server="NATS 2.15.1",
    stored=len(ARRIVALS),
    recorded=frozenset(arrival.id for arrival in ARRIVALS),
    accepted=len(ORDERS),
    known=len(ORDERS),
    arrivals=ARRIVALS,
)


def test_good_run_has_no_problems() -> None:
    assert GOOD.problems == ()
    assert GOOD.lines()[-1] == "Everything holds."
    assert "Another program published 12 events, and all of them again: 12 were known" in GOOD.lines()[0]


def test_subjects_are_counted_with_what_they_are_about() -> None:
    again = job_event(3, "queued")
    assert by_subject((*ARRIVALS, again))[0] == ("jobs.email.queued", 2, 1)
    assert [row[0] for row in by_subject(GOOD.arrivals)][-3:] == ["orders.paid", "orders.placed", "orders.shipped"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"recorded": GOOD.recorded | {"evt_x"}}, "1 recorded events missing"),
        ({"recorded": GOOD.recorded - {"evt_1"}}, "1 messages without a recorded event"),
        ({"arrivals": (*ARRIVALS, ARRIVALS[0]), "stored": 15}, "1 messages twice"),
        ({"arrivals": (replace(ARRIVALS[0], subject="jobs._.x"), *ARRIVALS[1:])}, "1 messages under a wrong subject"),
        ({"arrivals": (*ARRIVALS[:1], *reversed(ORDERS), ARRIVALS[-1])}, "4 orders with their steps out of order"),
        ({"stored": 20}, "6 messages more or fewer at the broker than were read"),
        ({"known": 11}, "1 published events counted wrongly"),
        ({"report": replace(NO_JOBS, lost=2)}, "events of jobs: 2 lost"),
        ({"report": replace(NO_JOBS, out_of_order=3)}, "events of jobs: 3 out of order"),
    ],
)
def test_each_thing_that_is_wrong_is_named(change: dict[str, Any], problem: str) -> None:
    report = replace(GOOD, **change)
    assert report.problems == (problem,)
    assert report.lines()[-1] == f"Wrong: {problem}."
