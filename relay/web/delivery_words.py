"""Texts about a delivery: its state, the next step and the actions open to a person. Returns keys of the catalogue.

Pure. The texts are in texts/en/deliveries.yaml.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.clock import from_rfc3339
from relay.core.deliveries.causes import cause_of_reason
from relay.core.deliveries.delivery import SKIPPED_REASONS
from relay.core.deliveries.ledger import DOUBTS
from relay.core.events.sentences import failure
from relay.core.subscriptions.subscription import PULL
from relay.core.turns import ADMINISTRATOR, RECEIVER, RELAY, turn_of, turn_of_sink
from relay.web.texts import english

STATES = ("dead", "uncertain", "pending", "cancelled", "delivered")
"""The states of a delivery, those that need a person first."""
LATE_SECONDS = 60.0
"""Age from which a pending delivery is shown as waiting instead of on its way."""
INCIDENT = "incident "
"""Prefix of the reason of an event that was reported by an incident."""
_ALIKE = {"403": "401", "405": "404"}
_DELIVERED = ("dry_run", "settled", "already_written")

Answer = Mapping[str, Any]
Action = Literal["retry", "retry_now", "settle", "resume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The text `deliveries.KEY` with its values. `at`: a time shown after it."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    at: str | None = None


def shown_state(delivery: Answer) -> str:
    """The state as pages name it: cancelled deliveries that were not needed or matched no contact are `skipped`."""
    reason = str(delivery.get("reason") or "")
    skipped = reason in SKIPPED_REASONS or reason.startswith(INCIDENT)
    return "skipped" if delivery["state"] == "cancelled" and skipped else str(delivery["state"])


def subscription_name(subscription: Answer | None, delivery: Answer | None = None) -> str:
    """The name of a subscription for people: its description, else its sink, else its id. `delivery`: one of its
    deliveries, or a group of them, which outlive it; its sink comes first."""
    known, own = subscription or {}, delivery or {}
    found = (known.get("description"), own.get("sink"), known.get("sink"), own.get("subscription_id"), known.get("id"))
    return str(next(filter(None, found), ""))


def held_by(subscription: Answer | None) -> str | None:
    """The state of a subscription that gets no deliveries; None if it gets them."""
    return None if subscription is None or subscription["state"] == "enabled" else str(subscription["state"])


def is_failing(subscription: Answer) -> bool:
    """True if a subscription is enabled and its deliveries fail."""
    return bool(subscription.get("state") == "enabled" and subscription.get("failing_since"))


def waits_for_a_person(subscription: Answer | None) -> bool:
    """False only if the subscription is known to send its pending deliveries by itself."""
    return subscription is None or trouble_of(subscription) is not None


def trouble_of(subscription: Answer | None) -> str | None:
    """The reason why sending again now would most likely fail; None if there is no known reason."""
    if subscription is None:
        return None
    return held_by(subscription) or ("failing" if subscription.get("failing_since") else None)


def _is_pulled(subscription: Answer | None) -> bool:
    return subscription is not None and subscription["config"]["kind"] == PULL and subscription["state"] == "enabled"


def state_of(delivery: Answer, subscription: Answer | None) -> Said:
    """The state of a delivery in one sentence."""
    state, reason, count = delivery["state"], str(delivery.get("reason") or ""), delivery["attempt_count"]
    if state == "delivered":
        return Said(key=f"is_{reason}" if reason in _DELIVERED else "is_delivered", values={"n": count})
    if state == "uncertain":
        return Said(key="is_uncertain", values={"why": DOUBTS.get(reason, reason)})
    if state == "dead":
        return Said(key="is_dead", values={"n": count})
    if state == "cancelled":
        return Said(key=_cancelled(delivery, reason), values={"reason": reason})
    if _is_pulled(subscription):
        return Said(key="is_pulled")
    if delivery.get("waiting_for"):
        return Said(key="is_behind")
    if held_by(subscription) is not None:
        return Said(key=f"is_held_{held_by(subscription)}")
    return Said(key="is_retrying" if count else "is_pending", values={"n": count})


def _cancelled(delivery: Answer, reason: str) -> str:
    if reason in SKIPPED_REASONS:
        last = (delivery.get("attempts") or ({"error": "unknown"},))[-1]
        asked = last.get("status_code") is not None or last.get("error")
        return f"is_{reason}" if asked else "is_nameless"
    return "is_incident" if reason.startswith(INCIDENT) else "is_cancelled"


def next_of(delivery: Answer, subscription: Answer | None, now: float) -> Said:
    """The next step, and the actions open to a person."""
    state = delivery["state"]
    if state != "pending":
        key = state_of(delivery, subscription).key
        return Said(key=f"next_{key.removeprefix('is_')}", values={"event": delivery["event_id"]})
    if _is_pulled(subscription):
        return Said(key="next_pulled")
    if held_by(subscription) is not None:
        assert subscription is not None
        probe = subscription.get("next_probe_at")
        return Said(key="next_held" if probe is None else "next_probed", at=probe)
    if delivery.get("waiting_for"):
        return Said(key="next_behind")
    if delivery.get("next_attempt_at") is None:
        return Said(key="next_free")
    attempts = delivery.get("attempts") or ()
    planned = attempts[-1].get("next_attempt_at") if attempts else delivery["created_at"]
    due, number = from_rfc3339(delivery["next_attempt_at"]), delivery["attempt_count"] + 1
    if due <= now:
        return Said(key="next_due", values={"number": number})
    if planned is not None and from_rfc3339(planned) <= now:
        return Said(key="next_running", values={"number": number})
    return Said(key="next_planned", values={"number": number}, at=delivery["next_attempt_at"])


def actions_of(delivery: Answer, subscription: Answer | None) -> tuple[Action, ...]:
    """The actions open to a person. Without a subscription there is no sink to send to."""
    state = delivery["state"]
    if state == "uncertain":
        return ("settle",) if subscription is None else ("settle", "retry")
    if subscription is None:
        return ()
    if state != "pending":
        return ("retry",)
    if subscription["state"] in ("paused", "disabled"):
        return ("resume",)
    return () if delivery.get("waiting_for") or not delivery["attempt_count"] else ("retry_now",)


def advice(state: str, reason: str | None, subscription: Answer | None, oldest_at: str, now: float) -> str:
    """The key of the advice about deliveries of one state, reason and subscription."""
    if state == "pending":
        if _is_pulled(subscription):
            return "do_pulled"
        if held_by(subscription) is not None:
            return f"do_{held_by(subscription)}"
        if subscription is not None and subscription.get("failing_since"):
            return "do_failing"
        return "do_late" if now - from_rfc3339(oldest_at) > LATE_SECONDS else "do_on_the_way"
    if state == "cancelled":
        if reason in SKIPPED_REASONS:
            return f"do_{reason}"
        return "do_incident" if (reason or "").startswith(INCIDENT) else "do_cancelled"
    return f"do_{state}"


def turn_of_delivery(state: str, reason: str | None, subscription: Answer | None, oldest_at: str, now: float) -> str:
    """Whose turn deliveries of one state, reason and subscription are; empty if nothing is left to do."""
    advised = advice(state, reason, subscription, oldest_at, now)
    if state == "dead" or advised in ("do_failing", "do_disabled", "do_unmatched", "do_ambiguous"):
        return turn_of_sink("unmatched" if state == "cancelled" else reason)
    if state == "uncertain":
        return turn_of("uncertain")
    if advised == "do_paused":
        return ADMINISTRATOR
    if advised in ("do_pending", "do_pulled"):
        return RECEIVER
    return RELAY if state == "pending" else ""


def why(reason: str | None) -> str:
    """A reason as a sentence of a list: the meaning of an HTTP status, else the reason's words."""
    words = failure(reason) if reason and reason.startswith("http_") else reason_words(reason)
    return words[:1].upper() + words[1:]


def reason_words(reason: str | None) -> str:
    """A reason of the API in words."""
    texts = english()
    if not reason:
        return texts("deliveries.reason_none")
    if reason.startswith("http_"):
        return f"HTTP {reason.removeprefix('http_')}"
    if reason.startswith(INCIDENT):
        return texts("deliveries.reason_incident")
    return texts.get(f"deliveries.reason_{reason}", reason)


def trouble_words(reason: str | None) -> str:
    """The trouble of a receiver, such as `has errors (503)`."""
    word = (reason or "").partition(":")[0]
    status, texts = word.removeprefix("http_"), english()
    for key in (status, _ALIKE.get(status, status), f"{status[:1]}xx" if status.isdigit() else "other", "other"):
        if found := texts.get(f"deliveries.sink_{key}", ""):
            return found.replace("{status}", status)
    return ""  # there is a text for others


def advice_of(reason: str | None) -> str | None:
    """What to do about a reason, beside `trouble_words`. None if that is not known."""
    cause = cause_of_reason(reason)
    if cause is None:
        return None
    advice = cause.partition(". ")[2] or cause
    return f"{advice[:1].upper()}{advice[1:]}"


def reason_and_cause(reason: str | None) -> str | None:
    """A reason in words, and the likely cause with what to do about it. None if there is no reason."""
    if not reason:
        return None
    cause = cause_of_reason(reason)
    return reason_words(reason) if cause is None else f"{reason_words(reason)}: {cause}"


def listed_reason(delivery: Mapping[str, Any]) -> str:
    """The reason of a delivery in a list. Delivered ones have none, except those that were not sent."""
    plain = delivery["state"] == "delivered" and delivery["reason"] not in _DELIVERED
    return "" if plain or delivery["reason"] is None else reason_words(delivery["reason"])
