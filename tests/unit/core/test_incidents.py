"""Incidents as a fold: when they open, grow, close and are forgotten, and what is told of it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.events.event import INCIDENT_CLOSED, INCIDENT_GREW, INCIDENT_OPENED, Event, Hint
from relay.core.incidents import (
    QUIET_SECONDS,
    WINDOW_SECONDS,
    Incident,
    Trouble,
    close,
    data_of,
    observe,
    review,
    trouble_of_create,
    trouble_of_job,
    trouble_of_sink,
)
from relay.core.jobs.job import Observation, Problem
from relay.core.records import Intent

NOW = 1_800_000_000.0
HINT = Hint(meaning="The account has too few credits", fix="Add credits", who="administrator", repeat="safe")
RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting",
    fix="Reconnect it",
    who="account owner",
    repeat="safe",
    points_at="connect_account",
)


def trouble(at: float = NOW, **fields: Any) -> Trouble:
    values: dict[str, Any] = {
        **{"kind": "jobs", "source": "revor", "account": "default", "owner": "revor/default"},
        **{"code": "insufficient_credits", "channel": "linkedin", "hint": HINT},
    }
    return Trouble(at=at, **{**values, **fields})


def after(*times: float, incident: Incident | None = None, **fields: Any) -> tuple[Incident | None, list[str]]:
    """The incident after failures at these times, each in a transaction of its own, and what was told."""
    told: list[str] = []
    for at in times:
        incident, event = observe(incident, [trouble(NOW + at, **fields)], NOW + at, new_id="inc_1")
        told += [] if event is None else [event]
    return incident, told


@pytest.mark.parametrize(
    ("times", "opened_at", "failed"),
    [
        ((0,), None, 1),
        ((0, 899), None, 2),
        ((0, 1, 2), 2, 3),
        ((0, 450, 900), 900, 3),
        ((0, 450, 901), None, 2),
        ((0, 800, 1600, 1700), 1700, 3),
        ((0, 1000, 2000, 3000), None, 1),
    ],
)
def test_third_failure_within_15_minutes_opens(times: tuple[float, ...], opened_at: float | None, failed: int) -> None:
    incident, told = after(*times)

    assert incident is not None
    assert incident.failed == failed
    assert incident.opened_at == (None if opened_at is None else NOW + opened_at)
    assert told == ([] if opened_at is None else [INCIDENT_OPENED])
    assert incident.state == ("watching" if opened_at is None else "open")


def test_failures_of_one_transaction_count_as_those_of_several() -> None:
    together, told = observe(None, [trouble(NOW + at) for at in (2, 0, 1)], NOW + 2, new_id="inc_1")
    singly, _ = after(0, 1, 2)

    assert told == INCIDENT_OPENED
    assert together == singly
    assert (together.first_failure_at, together.last_failure_at) == (NOW, NOW + 2)


def test_first_failure_opens_if_its_code_says_that_the_account_needs_reconnecting() -> None:
    incident, told = observe(None, [trouble(hint=RECONNECT, opens=True)], NOW, new_id="inc_1")

    assert (incident.state, incident.failed, told) == ("open", 1, INCIDENT_OPENED)


def test_growth_is_told_at_each_power_of_ten() -> None:
    incident, told = after(0, 1, 2)
    assert incident is not None
    at_which: list[int] = []
    while incident.failed < 1_000:
        incident, event = observe(incident, [trouble(NOW + 3)], NOW + 3, new_id="inc_2")
        at_which += [] if event is None else [incident.failed]
        assert event in (None, INCIDENT_GREW)

    assert told == [INCIDENT_OPENED]
    assert at_which == [10, 100, 1_000]
    assert incident.id == "inc_1"


def test_failure_of_another_node_with_an_earlier_time_counts() -> None:
    opened, _ = after(0, 1, 2)
    late, _ = observe(opened, [trouble(NOW - 5)], NOW + 3, new_id="inc_2")

    assert (late.first_failure_at, late.last_failure_at, late.failed) == (NOW - 5, NOW + 2, 4)


def test_newest_failure_is_shown_with_the_most_careful_advice() -> None:
    careful = replace(HINT, repeat="may_send_twice")
    incident, _ = observe(None, [trouble(hint=careful), trouble(hint=HINT)], NOW, new_id="inc_1")
    incident, _ = observe(incident, [trouble(hint=replace(HINT, fix="Buy credits"))], NOW, new_id="inc_2")

    assert incident.hint == replace(HINT, fix="Buy credits", repeat="may_send_twice")
    unexplained, _ = observe(incident, [trouble(hint=None)], NOW, new_id="inc_2")
    assert unexplained.hint is None


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "other"},
        {"account": "other"},
        {"connect_account_id": "acc_1"},
        {"code": "other"},
        {"kind": "creates"},
        {"kind": "sink", "subscription_id": "sub_1"},
    ],
)
def test_failures_with_another_cause_have_another_digest(fields: dict[str, Any]) -> None:
    assert trouble(**fields).digest != trouble().digest


# Time alone --------------------------------------------------------------------------------------------------------


def opened(last: float = 0.0, **fields: Any) -> Incident:
    incident, _ = observe(None, [trouble(NOW + last, **fields)] * 3, NOW + last, new_id="inc_1")
    return incident


@pytest.mark.parametrize(
    ("seconds", "succeeded", "because"),
    [
        (WINDOW_SECONDS - 1, True, None),
        (WINDOW_SECONDS, True, "succeeded"),
        (WINDOW_SECONDS, False, None),
        (QUIET_SECONDS - 1, False, None),
        (QUIET_SECONDS, False, "quiet"),
        (QUIET_SECONDS, True, "succeeded"),
    ],
)
def test_closes_after_15_minutes_with_a_later_success_or_after_a_quiet_day(
    seconds: float, succeeded: bool, because: str | None
) -> None:
    found = review(opened(), NOW + seconds, succeeded=succeeded)

    assert found is not None
    incident, told = found
    assert incident.closed_because == because
    if because is None:
        assert (incident.state, told) == ("open", None)
        assert incident.due_at is not None
        assert incident.due_at > NOW + seconds
    else:
        assert (incident.state, told, incident.due_at) == ("closed", INCIDENT_CLOSED, None)
        assert incident.closed_at == NOW + seconds


def test_watched_failures_are_forgotten_after_15_minutes() -> None:
    watched, _ = after(0, 10)
    assert watched is not None

    assert review(watched, NOW + 909, succeeded=True) == (watched, None)
    assert review(watched, NOW + 910, succeeded=False) is None


@pytest.mark.parametrize(
    ("fields", "waits"),
    [
        ({"connect_account_id": "acc_1", "hint": RECONNECT}, True),
        ({"connect_account_id": None, "hint": RECONNECT}, False),
        ({"connect_account_id": "acc_1", "hint": HINT}, False),
        ({"connect_account_id": "acc_1", "hint": None}, False),
    ],
)
def test_only_an_incident_about_an_account_ends_with_its_recovery(fields: dict[str, Any], waits: bool) -> None:
    assert opened(**fields).waits_for_account is waits


# Failures as the rest of the relay sees them -------------------------------------------------------------------------


@pytest.mark.parametrize(("hint", "opens"), [(RECONNECT, True), (HINT, False), (None, False)])
def test_trouble_of_a_job(hint: Hint | None, opens: bool) -> None:
    seen = Observation(status="failed", observed_at=NOW, problem=Problem(code="a_code", message=""))

    found = trouble_of_job(
        seen,
        source="revor",
        account="default",
        connect_account_id="acc_1",
        channel="email",
        hint=hint,
        at=NOW,
        event_id="evt_1",
    )

    assert (found.kind, found.owner, found.code, found.opens) == ("jobs", "revor/default", "a_code", opens)


def event(**fields: Any) -> Event:
    values: dict[str, Any] = {"id": "evt_1", "source": "/relay", "type": "t", "subject": None, "body": b"{}"}
    return Event(time=NOW, recorded_at=NOW + 1, **{**values, **fields})


@pytest.mark.parametrize(("reason", "code"), [("no_answer", "no_answer"), (None, "cut_off")])
def test_trouble_of_a_create(reason: str | None, code: str) -> None:
    intent = Intent(
        id="int_1",
        source="revor",
        account="a",
        path="/",
        body_digest="",
        created_at=NOW,
        reason=reason,
        channel="email",
    )

    found = trouble_of_create(intent, event())

    assert (found.kind, found.owner, found.code, found.channel) == ("creates", "revor/a", code, "email")
    assert (found.at, found.event_id, found.opens) == (NOW + 1, "evt_1", False)


@pytest.mark.parametrize("disabled", [True, False])
def test_trouble_of_a_sink(disabled: bool) -> None:
    found = trouble_of_sink("sub_1", event(owner="revor/a"), sink="https://a.example", error="gone", disabled=disabled)

    assert (found.kind, found.owner, found.subscription_id, found.code) == ("sink", "revor/a", "sub_1", "gone")
    assert found.opens is disabled


# Any history -------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0.001, max_value=2_000.0),
        st.sampled_from(["fail", "fail", "fail", "fail many", "review", "review after a success"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_any_history_is_told_consistently(steps: list[tuple[float, str]]) -> None:
    now, incident = NOW, None
    failures: list[float] = []
    told: dict[str, list[tuple[str, int]]] = {}
    ids = iter(range(1_000))
    for pause, step in steps:
        now += pause
        if step.startswith("review"):
            if incident is None:
                continue
            found = review(incident, now, succeeded=step != "review")
            if found is None:
                incident = None
                continue
            incident, event_type = found
        else:
            count = 20 if step == "fail many" else 1
            failures += [now] * count
            incident, event_type = observe(incident, [trouble(now)] * count, now, new_id=f"inc_{next(ids)}")
        if event_type is not None:
            told.setdefault(incident.id, []).append((event_type, incident.failed))
        if incident.state != "watching":
            recounted = sum(incident.first_failure_at <= at <= incident.last_failure_at for at in failures)
            assert incident.failed == recounted
        if incident.state == "closed":
            incident = None
    for events in told.values():
        types = [event_type for event_type, _ in events]
        assert types[0] == INCIDENT_OPENED
        assert types.count(INCIDENT_OPENED) == 1
        assert INCIDENT_CLOSED not in types[:-1]
        assert len(events) <= 3 + max(len(str(count)) for _, count in events)


@pytest.mark.parametrize("because", [None, "succeeded"])
def test_event_has_the_attributes_of_the_incident(because: Any) -> None:
    incident = opened(connect_account_id="acc_1")
    if because is not None:
        incident, _ = close(incident, because, NOW + 60)

    data = data_of(incident, name="Ada Lovelace", likely=12)

    assert (data["incident"], data["state"]) == ("inc_1", "open" if because is None else "closed")
    assert (data["connect_account_name"], data["likely"], data["failed"]) == ("Ada Lovelace", 12, 3)
    assert data["closed_because"] == because
