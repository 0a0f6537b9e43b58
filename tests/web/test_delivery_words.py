"""What a delivery's state means, what is next, and what a person can do."""

import pytest

from relay.clock import from_rfc3339
from relay.web.delivery_words import actions_of, advice, next_of, state_of
from relay.web.drawings import attempts as drawing
from relay.web.texts import english

NOW = from_rfc3339("2027-01-15T08:00:00Z")
ENABLED = {"state": "enabled", "config": {"kind": "webhook"}, "failing_since": None, "next_probe_at": None}
PAUSED, DISABLED, AWAITS = ({**ENABLED, "state": state} for state in ("paused", "disabled", "pending"))
PULLED = {**ENABLED, "config": {"kind": "pull"}}
PROBED = {**DISABLED, "next_probe_at": "2027-01-15T09:00:00Z"}
FAILING = {**ENABLED, "failing_since": "2027-01-15T07:00:00Z"}
UNASKED = {"status_code": None, "error": None}
TRIED = {"number": 1, "status_code": 500, "next_attempt_at": "2027-01-15T07:59:00Z"}
PLANNED = {**TRIED, "next_attempt_at": "2027-01-15T08:05:00Z"}


def delivery(state, reason=None, **fields):
    return {
        "event_id": "evt_1",
        "state": state,
        "reason": reason,
        "attempt_count": len(fields.get("attempts", ())),
        "next_attempt_at": "2027-01-15T08:05:00Z" if state == "pending" else None,
        "waiting_for": None,
        "created_at": "2027-01-15T07:00:00Z",
        "ended_at": None,
        "attempts": [],
        **fields,
    }


@pytest.mark.parametrize(
    ("given", "subscription", "said", "ahead", "actions"),
    [
        (delivery("delivered", "http_204"), ENABLED, "is_delivered", "next_delivered", ("retry",)),
        (delivery("delivered", "dry_run"), ENABLED, "is_dry_run", "next_dry_run", ("retry",)),
        (delivery("delivered", "settled"), None, "is_settled", "next_settled", ()),
        (delivery("delivered", "already_written"), ENABLED, "is_already_written", "next_already_written", ("retry",)),
        (delivery("uncertain", "target_gone"), ENABLED, "is_uncertain", "next_uncertain", ("settle", "retry")),
        (delivery("uncertain", "unheard_of"), None, "is_uncertain", "next_uncertain", ("settle",)),
        (delivery("dead", "http_500"), ENABLED, "is_dead", "next_dead", ("retry",)),
        (delivery("cancelled", "unmatched"), ENABLED, "is_unmatched", "next_unmatched", ("retry",)),
        (delivery("cancelled", "ambiguous"), ENABLED, "is_ambiguous", "next_ambiguous", ("retry",)),
        (delivery("cancelled", "unmatched", attempts=[UNASKED]), ENABLED, "is_nameless", "next_nameless", ("retry",)),
        (delivery("cancelled", "incident inc_1"), ENABLED, "is_incident", "next_incident", ("retry",)),
        (delivery("cancelled", "subscription_removed"), None, "is_cancelled", "next_cancelled", ()),
        (delivery("pending", waiting_for="dlv_1"), ENABLED, "is_behind", "next_behind", ()),
        (delivery("pending"), PAUSED, "is_held_paused", "next_held", ("resume",)),
        (delivery("pending"), DISABLED, "is_held_disabled", "next_held", ("resume",)),
        (delivery("pending"), PROBED, "is_held_disabled", "next_probed", ("resume",)),
        (delivery("pending"), AWAITS, "is_held_pending", "next_held", ()),
        (delivery("pending"), PULLED, "is_pulled", "next_pulled", ()),
        (delivery("pending", next_attempt_at=None), ENABLED, "is_pending", "next_free", ()),
        (delivery("pending", next_attempt_at="2027-01-15T07:00:00Z"), ENABLED, "is_pending", "next_due", ()),
        (delivery("pending"), ENABLED, "is_pending", "next_running", ()),
        (delivery("pending", attempts=[TRIED]), ENABLED, "is_retrying", "next_running", ("retry_now",)),
        (delivery("pending", attempts=[PLANNED]), ENABLED, "is_retrying", "next_planned", ("retry_now",)),
        (delivery("pending", attempts=[TRIED]), None, "is_retrying", "next_running", ()),
    ],
)
def test_what_became_of_a_delivery(given, subscription, said, ahead, actions):
    told, after = state_of(given, subscription), next_of(given, subscription, NOW)
    assert (told.key, after.key, actions_of(given, subscription)) == (said, ahead, actions)
    for one in (told, after):
        assert english()(f"deliveries.{one.key}", **one.values)


@pytest.mark.parametrize(
    ("state", "reason", "subscription", "oldest_at", "key"),
    [
        ("dead", "http_500", ENABLED, "2027-01-15T07:00:00Z", "do_dead"),
        ("uncertain", "not_found", ENABLED, "2027-01-15T07:00:00Z", "do_uncertain"),
        ("delivered", "http_204", ENABLED, "2027-01-15T07:00:00Z", "do_delivered"),
        ("pending", None, PAUSED, "2027-01-15T07:00:00Z", "do_paused"),
        ("pending", None, DISABLED, "2027-01-15T07:00:00Z", "do_disabled"),
        ("pending", None, AWAITS, "2027-01-15T07:00:00Z", "do_pending"),
        ("pending", None, PULLED, "2027-01-15T07:00:00Z", "do_pulled"),
        ("pending", "http_500", FAILING, "2027-01-15T07:00:00Z", "do_failing"),
        ("pending", None, ENABLED, "2027-01-15T07:00:00Z", "do_late"),
        ("pending", None, None, "2027-01-15T07:59:30Z", "do_on_the_way"),
        ("cancelled", "unmatched", ENABLED, "2027-01-15T07:00:00Z", "do_unmatched"),
        ("cancelled", "incident inc_1", ENABLED, "2027-01-15T07:00:00Z", "do_incident"),
        ("cancelled", None, ENABLED, "2027-01-15T07:00:00Z", "do_cancelled"),
    ],
)
def test_what_to_do_about_many(state, reason, subscription, oldest_at, key):
    assert advice(state, reason, subscription, oldest_at, NOW) == key
    assert f"deliveries.{key}" in english()


def tried(number, started_at, duration_ms, **timings):
    known = dict.fromkeys(("dns_ms", "connect_ms", "tls_ms", "first_byte_ms"))
    return {"number": number, "started_at": started_at, "duration_ms": duration_ms, "timings": {**known, **timings}}


@pytest.mark.parametrize(
    ("attempt", "parts"),
    [
        (tried(1, "2027-01-15T07:00:00Z", 100.0), [("rest", 100.0)]),
        (tried(1, "2027-01-15T07:00:00Z", 30.0, first_byte_ms=29.99), [("first_byte", 29.99)]),
        (tried(1, "2027-01-15T07:00:00Z", 30.0, dns_ms=1.0, connect_ms=29.0), [("dns", 1.0), ("connect", 29.0)]),
        (tried(1, "2027-01-15T07:00:00Z", 0.0), []),
    ],
)
def test_the_parts_of_an_attempt(attempt, parts):
    assert drawing.phases(attempt) == parts


def test_waits_are_those_between_two_attempts():
    attempts = [
        tried(1, "2027-01-15T07:00:00Z", 500.0),
        tried(2, "2027-01-15T07:00:05.5Z", 15_000.0),
        tried(3, "2027-01-15T07:00:10Z", 1.0),
    ]
    assert drawing.waits(attempts) == [None, 5.0, 0.0]
    attempts[0]["next_attempt_at"] = "2027-01-15T07:00:05Z"
    assert drawing.planned_waits(attempts) == [None, 4.5, None]
    assert drawing.planned_waits([]) == []
    assert drawing.longest(attempts) == 15_000.0
    assert drawing.longest([]) == 1.0


@pytest.mark.parametrize("state", ["pending", "delivered", "dead"])
def test_the_line_holds_every_attempt_within_its_width(state):
    ended = None if state == "pending" else "2027-01-15T07:30:00Z"
    attempts = [{**tried(1, "2027-01-15T06:59:59Z", 500.0), "error": "dns"}, tried(2, "2027-01-15T07:30:00Z", 9e9)]
    svg = str(drawing.line(delivery(state, ended_at=ended, attempts=attempts), NOW, '"label'))
    assert svg.count('class="try') == 2
    assert svg.count('class="planned"') == (state == "pending")
    assert svg.count("try well") == (state == "delivered")
    assert "&#34;label" in svg


def test_a_bar_never_leaves_its_place():
    tiny = tried(1, "2027-01-15T07:00:00Z", 100.0, dns_ms=0.001, connect_ms=0.001, tls_ms=0.001, first_byte_ms=99.9)
    svg = str(drawing.bar(tiny, 100.0, "label"))
    assert svg.count("<rect") == 5
    assert "-" not in svg.partition("aria-label")[2]
