"""What the pages of campaigns say: parts of the bar, causes of failures, the worst trouble."""

from dataclasses import replace
from typing import Any

import pytest

from relay.clock import to_rfc3339
from relay.core.turns import ADMINISTRATOR, OWNER
from relay.web import campaigns
from relay.web.campaigns import Cause, Latest, Part, Worst
from relay.web.concerns import Concern, Reach
from relay.web.texts import english

NOW = 1_800_000_000.0
OLDER, ENDED_AT = "2026-05-20T06:00:00.000Z", "2026-05-20T07:00:00.000Z"
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


AGAIN = "Reconnect it, then send them again"


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
                    AGAIN,
                    (("/ui/incidents/inc_1", "Incident of the LinkedIn account Ada"),),
                )
            ],
        ),
        (
            {"failures": [failure(who="Revor", fix="Wait")]},
            [incident(connect_account_id=None)],
            [
                Cause(
                    "It needs reconnecting",
                    3,
                    None,
                    "They were not sent: send them again in Revor if they are still wanted",
                    (("/ui/incidents/inc_1", "See the incident"),),
                    passed=True,
                )
            ],
        ),
        ({"failures": [failure()]}, [], [Cause("It needs reconnecting", 3, OWNER, AGAIN)]),
        (
            {"failures": [failure(repeat="may_send_twice")]},
            [],
            [Cause("It needs reconnecting", 3, OWNER, "Reconnect it")],
        ),
        (
            {"failures": [failure(fix="Add credits", who="administrator")], "connect_accounts": [sender()]},
            [],
            [Cause("It needs reconnecting", 3, ADMINISTRATOR, "Add credits, then send them again")],
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


def concern(**changes: Any) -> Concern:
    known: dict[str, Any] = {"level": "bad", "key": "down", "values": {"title": "Revor"}, "turn": "Revor"}
    return Concern(**{**known, "command": "relay status", "reach": EVERYTHING, "state": "down", **changes})


EVERYTHING = Reach(accounts=frozenset({("revor", "default")}))
DOWN = concern()
OF_ANOTHER = concern(reach=Reach(accounts=frozenset({("revor", "emea")})))
SIGNED_OUT = concern(state="account", reach=replace(EVERYTHING, sender="acc_1", code="reconnect"))
WORDLESS = concern(state=None, reach=replace(EVERYTHING, code="reconnect"))
SEND = concern(state=None, reach=replace(EVERYTHING, groups=frozenset({"Q4"})))
SINK = concern(state=None, reach=Reach(), every=True, since="2026-05-20T09:00:00.000Z")
PAST = failure(code="busy", count=5, meaning="Revor had no worker", fix="Wait", who="Revor")


@pytest.mark.parametrize(
    ("concerns", "changes", "touched", "held"),
    [
        ([], {}, False, None),
        ([DOWN], {}, True, "no answer"),
        ([DOWN], {"state": "finished"}, False, None),
        ([OF_ANOTHER], {}, False, None),
        ([SIGNED_OUT], {"connect_accounts": [sender()]}, True, "account needs reconnecting"),
        ([SIGNED_OUT], {"connect_accounts": [sender(id="acc_2")], "failures": [failure()]}, False, None),
        ([SIGNED_OUT], {"connect_accounts": [sender(waiting=0)]}, False, None),
        ([SIGNED_OUT], {"connect_accounts": [sender(waiting=0)], "failures": [failure()]}, True, None),
        ([WORDLESS], {"failures": [failure()]}, True, None),
        ([WORDLESS], {"failures": [PAST]}, False, None),
        ([SEND], {}, True, None),
        ([SEND], {"name": "Q5"}, False, None),
        ([SEND, DOWN], {}, True, "no answer"),
        ([SINK], {}, True, None),
        ([SINK], {"last_at": "2026-05-20T08:00:00.000Z"}, False, None),
    ],
)
def test_what_touches_a_campaign_and_holds_it_up(
    concerns: list[Concern], changes: dict[str, Any], touched: bool, held: str | None
) -> None:
    one = group(**changes)
    assert campaigns.troubles(one, concerns) == (concerns if touched else [])
    assert campaigns.held_by(one, concerns) == held


def test_a_campaign_of_a_list_has_no_sending_accounts() -> None:
    listed = group(failures=[failure()])
    del listed["connect_accounts"]
    assert campaigns.troubles(listed, [SIGNED_OUT]) == [SIGNED_OUT]
    assert campaigns.held_by(listed, [SIGNED_OUT]) is None


@pytest.mark.parametrize(
    ("concerns", "changes", "worst"),
    [
        ([], {}, None),
        ([DOWN], {"failures": [failure()]}, Worst("Revor does not answer", "bad", "Revor")),
        ([SINK], {}, Worst("Revor does not answer", "bad", "Revor")),
        ([], {"failures": [failure()]}, Worst(BROKEN, "bad", OWNER)),
        ([], {"failures": [failure()], "state": "finished"}, Worst(BROKEN, "warn", OWNER)),
        ([], {"failures": [failure()], "counts": {"not_found": 9}}, Worst(LOST, "bad", ADMINISTRATOR)),
        ([], {"failures": [PAST, failure()]}, Worst(BROKEN, "bad", OWNER)),
        ([], {"failures": [PAST]}, Worst("5 failed: Revor had no worker", "quiet", None, ENDED_AT)),
    ],
)
def test_worst_trouble_in_words(concerns: list[Concern], changes: dict[str, Any], worst: Worst | None) -> None:
    lately = {"busy": Latest(ENDED_AT, is_safe=True)}
    assert campaigns.worst(group(**changes), "Revor", concerns, lately) == worst


def test_failures_that_pass_by_themselves_say_the_honest_next_step() -> None:
    def job(code: str, repeat: str, at: str | None) -> dict[str, Any]:
        return {"problem": {"code": code, "repeat": repeat}, "closed_at": at}

    jobs = [job("busy", "safe", OLDER), job("busy", "useless", ENDED_AT), job("odd", "may_send_twice", None)]
    lately = campaigns.lately_in([*jobs, {"problem": None, "closed_at": None}])
    assert lately == {"busy": Latest(ENDED_AT, is_safe=True), "odd": Latest(None, is_safe=False)}
    one = group(failures=[PAST, failure(code="odd", who="Revor", meaning="Odd")])
    busy, odd = campaigns.causes(one, (), "Revor", lately)
    assert (busy.turn, busy.passed, busy.latest) == (None, True, ENDED_AT)
    assert busy.step == "They were not sent: send them again in Revor if they are still wanted"
    assert odd.step == "Check in Revor whether they were sent, before you send them again"
    assert campaigns.has_only_passed(one)
    assert not campaigns.has_only_passed(group(failures=[PAST, failure()]))
    assert not campaigns.has_only_passed(group())


def finish(first: float, middle: float, last: float) -> dict[str, Any]:
    return {name: to_rfc3339(NOW + at) for name, at in (("p10", first), ("p50", middle), ("p90", last))}


@pytest.mark.parametrize(
    ("times", "words", "between"),
    [
        ((-2.0, 4.0, 60.0), "Within 2 minutes", ""),
        ((11.0, 90.0, 380.0), "In a few minutes", "Probably 11 sec. to 6 min. from now."),
        ((4.0, 205.0, 380.0), "In about 3 min.", "Probably 4 sec. to 6 min. from now."),
        ((-9.0, 1_400.0, 3_700.0), "In about 25 min.", "Probably within 1 hr. from now."),
        ((86_000.0, 90_000.0, 95_000.0), "In about 1 day", "Probably 24 hr. to 1 day from now."),
        ((3_700.0, 3_800.0, 3_900.0), "In about 1 hr.", "Probably within 1 hr. from now."),
        ((200_000.0, 300_000.0, 400_000.0), "In about 3 days", "Probably 2 days to 5 days from now."),
    ],
)
def test_expected_finish_is_rounded_so_that_pages_agree(
    times: tuple[float, float, float], words: str, between: str
) -> None:
    one = group(expected_finish=finish(*times), expected_finish_note=None)
    assert campaigns.finish_of(one, (), NOW) == words
    assert campaigns.finish_note(one, (), NOW) == between


def test_expected_finish_of_a_campaign_that_is_held_up_says_by_what() -> None:
    one = group(expected_finish=finish(1.0, 2.0, 400.0), expected_finish_note="More may come.")
    assert campaigns.finish_note(one, [DOWN], NOW) == ""
    assert campaigns.finish_note(one, (), NOW) == "Probably 1 sec. to 7 min. from now. More may come."
    assert campaigns.finish_of(one, [DOWN], NOW) == "Held up: no answer"
    assert campaigns.finish_of(group(connect_accounts=[sender()]), (), NOW) == "Held up"
    assert campaigns.finish_of(group(), (), NOW) == "Not known yet"
    unknown = group(expected_finish=None, expected_finish_note="4 jobs wait.")
    assert campaigns.finish_note(unknown, [DOWN], NOW) == "4 jobs wait."


def test_last_activity_is_the_latest_time_that_is_known() -> None:
    assert campaigns.last_activity(group()) == "2026-05-20T10:00:00.000Z"
    assert campaigns.last_activity(group(last_ended_at="2026-05-20T11:00:00.000Z")) == "2026-05-20T11:00:00.000Z"
    finished = group(last_ended_at="2026-05-20T11:00:00.000Z", finished_at="2026-05-20T11:15:00.000Z")
    assert campaigns.last_activity(finished) == "2026-05-20T11:15:00.000Z"


@pytest.mark.parametrize(
    ("rate", "p90_seconds", "concerns", "pace"),
    [
        (None, 600.0, [], None),
        (1.0, 60.0, [], None),  # two are left: at this pace they take two hours
        (1.0, 7_200.0, [], 1.0),
        (60.0, 7_200.0, [DOWN], None),
        (60.0, None, [], 60.0),
    ],
)
def test_pace_is_shown_where_it_does_not_contradict_the_finish(
    rate: float | None, p90_seconds: float | None, concerns: list[Concern], pace: float | None
) -> None:
    expected = None if p90_seconds is None else finish(1.0, 2.0, p90_seconds)
    counts = {"succeeded": 3, "running": 2}
    one = group(counts=counts, rate_per_hour=rate, expected_finish=expected, first_at=to_rfc3339(NOW - 600))
    assert campaigns.pace_of(one, concerns, NOW) == pace
    assert campaigns.pace_of({**one, "first_at": to_rfc3339(NOW - 599)}, concerns, NOW) is None
