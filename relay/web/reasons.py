"""Why a delivery waits or ended, in words."""

from collections.abc import Mapping
from typing import Any

from relay.core.deliveries.causes import cause_of_reason
from relay.web.delivery_words import INCIDENT
from relay.web.texts import english


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


def reason_and_cause(reason: str | None) -> str | None:
    """A reason in words, and the likely cause with what to do about it. None if there is no reason."""
    if not reason:
        return None
    cause = cause_of_reason(reason)
    return reason_words(reason) if cause is None else f"{reason_words(reason)}: {cause}"


def told_reason(delivery: Mapping[str, Any]) -> str:
    """The reason of a delivery in a list. Delivered ones have none, except those that were not sent."""
    plain = delivery["state"] == "delivered" and delivery["reason"] not in ("dry_run", "settled", "already_written")
    return "" if plain or delivery["reason"] is None else reason_words(delivery["reason"])
