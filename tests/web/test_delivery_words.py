"""What a delivery's state means, what is next, and what a person can do."""

import pytest

from relay.clock import from_rfc3339
from relay.web.delivery_words import actions_of, next_of, state_of
from relay.web.texts import english

NOW = from_rfc3339("2027-01-15T08:00:00Z")
ENABLED = {"state": "enabled", "config": {"kind": "webhook"}, "failing_since": None, "next_probe_at": None}
PAUSED, DISABLED, AWAITS = ({**ENABLED, "state": state} for state in ("paused", "disabled", "pending"))
PULLED = {**ENABLED, "config": {"kind": "pull"}}
PROBED = {**DISABLED, "next_probe_at": "2027-01-15T09:00:00Z"}
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
