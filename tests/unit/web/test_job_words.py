"""A job as one line: the cause that holds it up comes first."""

from dataclasses import replace
from typing import Any

import pytest

from relay.clock import to_rfc3339
from relay.web.concerns import Concern, Reach
from relay.web.job_words import line_of, troubles

NOW = 1_800_000_000.0
LATER, BEFORE = to_rfc3339(NOW + 3_600), to_rfc3339(NOW - 60)
PLACE = Reach(accounts=frozenset({("revor", "default")}))


def job(**changes: Any) -> dict[str, Any]:
    names = ("problem", "last_error", "scheduled_at", "started_at", "next_attempt_at", "outcome", "action", "group")
    known = dict.fromkeys((*names, "result_status", "deadline_at", "priority", "connect_account_name"))
    known |= {"id": "job_1", "uid": "uid_1", "source": "revor", "account": "default", "open": True, "metadata": {}}
    known |= {"status": "running", "channel": "email", "connect_account_id": "emea", "tracked_at": BEFORE}
    return {**known, "overdue": False, "request": {}, **changes}


def concern(state: str | None, reach: Reach = PLACE) -> Concern:
    values = {"title": "Revor"}
    return Concern(level="bad", key="down", values=values, turn="Revor", command="", reach=reach, state=state)


KEY, DOWN, CREDITS = concern("unauthorized"), concern("down"), concern("credits")
SIGNED_OUT = concern("account", replace(PLACE, sender="emea", code="reconnect"))
WAITS: dict[str, Any] = {"status": "scheduled", "scheduled_at": LATER}


def problem(code: str) -> dict[str, Any]:
    return {"code": code, "meaning": "The Email account is odd.", "message": "", "repeat": "safe"}


@pytest.mark.parametrize(
    ("changes", "concerns", "outcome", "at"),
    [
        ({}, [KEY], "Key refused: may have ended", None),
        (WAITS, [KEY], "Key refused: not looked at", None),
        ({}, [DOWN], "No answer: may have ended", None),
        ({"started_at": BEFORE}, [CREDITS], "Began", BEFORE),
        (WAITS, [CREDITS], "Would fail: no credits", LATER),
        (WAITS, [SIGNED_OUT], "Would fail: account needs reconnecting", LATER),
        ({**WAITS, "scheduled_at": BEFORE}, [SIGNED_OUT], "Would fail: account needs reconnecting", None),
        (WAITS, [KEY, SIGNED_OUT], "Key refused: not looked at", None),
        ({**WAITS, "connect_account_id": "other"}, [SIGNED_OUT], "Starts", LATER),
        ({**WAITS, "account": "emea"}, [KEY], "Starts", LATER),
        (WAITS, [concern(None)], "Starts", LATER),
        ({"open": False, "status": "succeeded", "outcome": "succeeded"}, [KEY], "The channel accepted it", None),
        ({"open": False, "outcome": "failed", "problem": problem("no_credits")}, [], "No credits", None),
        (
            {"open": False, "outcome": "failed", "problem": problem("x_reconnect")},
            [],
            "Account needs reconnecting",
            None,
        ),
        ({"open": False, "outcome": "failed", "problem": problem("odd")}, [], "Account is odd", None),
    ],
)
def test_the_cause_comes_first(changes: dict[str, Any], concerns: list[Concern], outcome: str, at: str | None) -> None:
    line = line_of(job(**changes), NOW, search_keys=(), upstream="Revor", concerns=concerns)
    assert (line.outcome, line.at) == (outcome, at)


def test_what_has_ended_is_held_up_by_nothing() -> None:
    assert troubles(job(), [KEY, SIGNED_OUT]) == [KEY, SIGNED_OUT]
    assert troubles(job(open=False), [KEY]) == []
