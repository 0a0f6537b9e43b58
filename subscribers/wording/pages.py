"""The page of the dashboard about an event."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from relay.core.events.event import (
    CREATE_UNKNOWN,
    GROUP_FINISHED,
    INCIDENT_EVENTS,
    RELAY_SOURCE,
    Event,
    account_event_kind,
)
from subscribers.wording.jobs import job_kind
from subscribers.wording.text import data_of

_MAX_ROW_CHARACTERS = 200
_ID = re.compile(r"[a-z]{3}_[0-9a-z]{1,40}")


def page_of(event: Event) -> tuple[str, str] | None:
    """The path below /ui and the page in words; None if there is none."""
    if job_kind(event) is not None:
        return _with_id("jobs", "the job", event.job_uid)
    if account_event_kind(event.type) is not None:
        return _account(event)
    if event.source != RELAY_SOURCE:
        return None
    if event.type in INCIDENT_EVENTS:
        return _with_id("incidents", "the incident", event.subject)
    data = data_of(event.document())
    if event.type == GROUP_FINISHED:
        return _of_group(event)
    if event.type == CREATE_UNKNOWN:
        return "intents", "unknown sends"
    if event.type.startswith("relay.delivery."):
        return _with_id("deliveries", "the delivery", data.get("delivery"))
    if event.type.startswith("relay.subscription."):
        return _with_id("subscriptions", "the subscription", data.get("subscription"))
    return ("sources", "sources") if event.type.startswith(("relay.source.", "relay.credits.")) else None


def _with_id(page: str, words: str, id: object) -> tuple[str, str] | None:
    return (f"{page}/{id}", words) if isinstance(id, str) and _ID.fullmatch(id) else None


def _account(event: Event) -> tuple[str, str]:
    id = data_of(event.document()).get("account_id")
    row = quote(f"account-{id}", safe="", errors="replace") if isinstance(id, str) and id else ""
    if not 0 < len(row) <= _MAX_ROW_CHARACTERS:
        return "accounts", "sending accounts"
    return f"accounts#{row}", "the sending account"


def _of_group(event: Event) -> tuple[str, str] | None:
    name = data_of(event.document()).get("group")
    jobs = _jobs({"group": "group", "source": "source", "account": "account"}, event)
    if jobs is None or not isinstance(name, str) or "/" in name or not name.strip("."):
        return jobs  # a group of such a name has no page
    path, _, others = jobs[0].partition("?group=")[2].partition("&")
    return f"groups/{path}?{others}", "the campaign"


def _jobs(filters: Mapping[str, str], event: Event) -> tuple[str, str] | None:
    """The jobs that these filters find. `filters`: their names, and the fields of the event's data with their
    values."""
    data = data_of(event.document())
    found = {name: data.get(field) for name, field in filters.items()}
    if not all(isinstance(value, str) and value for value in found.values()):
        return None
    return f"jobs?{urlencode(found, quote_via=quote, safe='', errors='replace')}", "its jobs"
