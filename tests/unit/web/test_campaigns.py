"""What the pages of campaigns say: parts of the bar, causes of failures, the worst trouble."""

from typing import Any

import pytest

from relay.core.turns import ADMINISTRATOR, OWNER
from relay.web import campaigns
from relay.web.campaigns import Cause, Part, Worst
from relay.web.texts import english

JOBS = "/ui/jobs?group=Q4&source=revor&account=default"
OF_ADA = ("/ui/incidents/inc_1", "Incident of the LinkedIn account Ada")
BROKEN, LOST = "3 failed: It needs reconnecting", "9 failed: Not found in Revor"
STATES = (*campaigns.ENDED, *campaigns.OPEN)


def group(*, counts: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    known = {
        **{"name": "Q4", "source": "revor", "account": "default", "state": "open", "expected": None, "missing": 0},
        **{"failures": [], "connect_accounts": [], "finished_at": None, "last_at": "2026-05-20T10:00:00.000Z"},
    }
    return {**known, **changes, "counts": dict.fromkeys(STATES, 0) | (counts or {})}


def failure(**changes: Any) -> dict[str, Any]:
    known = {"code": "reconnect", "count": 3, "meaning": "It needs reconnecting", "fix": "Reconnect it"}
    return {**known, "who": "account owner", "repeat": "safe", **changes}


def sender(**changes: Any) -> dict[str, Any]:
    known = {"id": "acc_1", "channel": "linkedin", "name": "Ada", "state": "needs_reconnect", "since": None}
    return {**known, "trouble": None, "waiting": 32, "is_least": False, **changes}


def incident(**changes: Any) -> dict[str, Any]:
    known = {"id": "inc_1", "kind": "jobs", "code": "reconnect", "channel": "linkedin", "trouble": None}
    return {**known, "connect_account_id": "acc_1", "connect_account_name": "Ada", **changes}


def test_parts_of_the_bar_have_links_where_the_jobs_list_has_a_filter() -> None:
    counts = {"succeeded": 5, "failed": 2, "not_found": 1, "untracked": 1, "running": 1, "retrying": 1, "queued": 4}
    found = group(counts=counts, expected=20)
    assert campaigns.parts(found) == [
        Part("succeeded", 5, f"{JOBS}&status=succeeded"),
        Part("failed", 3, f"{JOBS}&status=failed"),
        Part("cancelled", 1, f"{JOBS}&status=cancelled"),
        Part("running", 2, f"{JOBS}&status=running"),
        Part("waiting", 4, f"{JOBS}&open=true"),
        Part("missing", 5, None),
    ]
    assert campaigns.bar(found)[0] == ("succeeded", 5)
    assert campaigns.failed(found) == 3
    assert campaigns.progress(found) == {"ended": 9, "open": 6, "all": 20}


@pytest.mark.parametrize(
    ("changes", "incidents", "causes"),
    [
        ({}, [], []),
        (
            {"failures": [failure()]},
            [incident(), incident(id="inc_2", code="another"), incident(id="inc_3", kind="creates")],
            [
                Cause(
                    "It needs reconnecting",
                    3,
                    OWNER,
                    "Reconnect it",
                    (("/ui/incidents/inc_1", "Incident of the LinkedIn account Ada"),),
                )
            ],
        ),
        (
            {"failures": [failure(who="Revor", fix="Wait")]},
            [incident(connect_account_id=None)],
            [Cause("It needs reconnecting", 3, "Revor", "Wait", (("/ui/incidents/inc_1", "See the incident"),))],
        ),
        ({"failures": [failure()]}, [], [Cause("It needs reconnecting", 3, OWNER, "Reconnect it")]),
        (
            {"failures": [failure(fix="Add credits", who="administrator")], "connect_accounts": [sender()]},
            [],
            [Cause("It needs reconnecting", 3, ADMINISTRATOR, "Add credits")],
        ),
        ({"failures": [failure(code="other", meaning=None, fix=None, who=None)]}, [], [Cause("Other causes", 3)]),
        (
            {"counts": {"not_found": 2}, "missing": 4},
            [],
            [
                Cause("Not found in Revor", 2, ADMINISTRATOR, english()("groups.step_not_found")),
                Cause("Expected, but never created", 4, ADMINISTRATOR, "Find out why they were not created"),
            ],
        ),
    ],
)
def test_causes_name_whose_turn_it_is_and_the_next_step(
    changes: dict[str, Any], incidents: list[dict[str, Any]], causes: list[Cause]
) -> None:
    assert campaigns.causes(group(**changes), incidents, "Revor") == causes


@pytest.mark.parametrize(
    ("changes", "worst"),
    [
        ({}, None),
        (
            {"failures": [failure()], "connect_accounts": [sender()]},
            Worst("32 jobs wait for the LinkedIn account Ada", "bad", OWNER),
        ),
        (
            {"connect_accounts": [sender(is_least=True)]},
            Worst("At least 32 jobs wait for the LinkedIn account Ada", "bad", OWNER),
        ),
        ({"connect_accounts": [sender(waiting=0), sender(state="ok")]}, None),
        ({"failures": [failure()]}, Worst(BROKEN, "bad", OWNER)),
        (
            {"failures": [failure()], "state": "finished"},
            Worst(BROKEN, "warn", OWNER),
        ),
        (
            {"failures": [failure()], "counts": {"not_found": 9}},
            Worst(LOST, "bad", ADMINISTRATOR),
        ),
    ],
)
def test_worst_trouble_in_words(changes: dict[str, Any], worst: Worst | None) -> None:
    assert campaigns.worst(group(**changes), "Revor") == worst


def test_a_campaign_of_a_list_has_no_sending_accounts() -> None:
    listed = group(failures=[failure()])
    del listed["connect_accounts"]
    assert campaigns.worst(listed, "Revor") == Worst(BROKEN, "bad", OWNER)


def test_last_activity_is_the_latest_time_that_is_known() -> None:
    assert campaigns.last_activity(group()) == "2026-05-20T10:00:00.000Z"
    assert campaigns.last_activity(group(last_ended_at="2026-05-20T11:00:00.000Z")) == "2026-05-20T11:00:00.000Z"
    finished = group(last_ended_at="2026-05-20T11:00:00.000Z", finished_at="2026-05-20T11:15:00.000Z")
    assert campaigns.last_activity(finished) == "2026-05-20T11:15:00.000Z"


@pytest.mark.parametrize(
    ("state", "worst"),
    [
        ("unauthorized", Worst("Revor refuses the API key of its jobs", "bad", ADMINISTRATOR)),
        ("no_key", Worst("The API key of Revor is missing", "bad", ADMINISTRATOR)),
        ("down", Worst("Revor does not answer", "bad", "Revor")),
        ("ok", None),
        ("elsewhere", None),
    ],
)
def test_a_silent_source_is_the_worst_trouble(state: str, worst: Worst | None) -> None:
    source = {"state": state, "title": "Revor", "credits": None}
    assert campaigns.worst(group(), "Revor", source) == worst
    assert campaigns.silent(group(state="finished"), source) is None
