"""Events about connect accounts, groups and incidents in words: the event, whose turn it is, and the remedy."""

import re
import shlex

from relay.core.events.event import (
    GROUP_FINISHED,
    INCIDENT_CLOSED,
    INCIDENT_EVENTS,
    INCIDENT_GREW,
    INCIDENT_OPENED,
    RELAY_SOURCE,
    Event,
    account_event_kind,
)
from relay.core.events.sentences import account_sentence, group_sentence, incident_end
from subscribers.base import RenderContext
from subscribers.wording.relay import subscription_of
from subscribers.wording.text import (
    Document,
    Pairs,
    command,
    count,
    mapping,
    moment_of,
    name,
    one_line,
    upstream_of,
    without_addresses,
    word,
)

_GROUP_CHARACTERS = 200
_INCIDENT_ID = re.compile(r"inc_[0-9a-z]{26}")
_MAX_CODES = 5
"""Maximum number of error codes in the sentence about a group."""

HEADINGS = {
    INCIDENT_OPENED: "Incident opened",
    INCIDENT_GREW: "Incident grew",
    INCIDENT_CLOSED: "Incident closed",
    GROUP_FINISHED: "Group finished",
}
_ACCOUNT_FIXES = {
    "needs_reconnect": "Reconnect it in {upstream}",
    "cannot_send": "Check in {upstream} why it cannot send",
    "removed": "Connect it again in {upstream} if its jobs are still wanted",
}
REPEAT_OPEN = {
    "safe": "is safe once this is fixed: nothing was done",
    "useless": "fails again until this is fixed",
    "may_send_twice": "could run them twice: check first which were done",
}
_REPEAT_CLOSED = {
    "safe": "is safe: nothing was sent",
    "useless": "fails again unless the cause was fixed",
    "may_send_twice": "could run them twice: check first which were done",
}


def is_summary(type: str) -> bool:
    """True for the events of this module."""
    return type == GROUP_FINISHED or type in INCIDENT_EVENTS or account_event_kind(type) is not None


def summary_sentence(type: str, data: Document) -> str:
    """The event, in a sentence or two without the last full stop."""
    kind = account_event_kind(type)
    if kind is not None:
        who = name(data.get("name")) or word(data.get("account_id"))
        channel = word(data.get("channel"))
        return account_sentence(kind, channel=channel, name=who, open_jobs=count(data.get("open_jobs")))
    return _group(data) if type == GROUP_FINISHED else _incident(type, data)


def summary_advice(type: str, data: Document) -> Pairs:
    """The remedy, the person who can apply it, and advice on sending again, as (label, text). Texts may be empty."""
    kind = account_event_kind(type)
    if kind is not None:
        return _account_advice(kind, data)
    return _group_advice(data) if type == GROUP_FINISHED else _incident_advice(type, data)


def _account_advice(kind: str, data: Document) -> Pairs:
    hint = mapping(data.get("hint"))
    fix = without_addresses(hint.get("fix"))
    waiting = count(data.get("open_jobs")) > 0
    if not fix and kind in _ACCOUNT_FIXES and (kind != "removed" or waiting):
        fix = _ACCOUNT_FIXES[kind].format(upstream=upstream_of(data))
    who = without_addresses(hint.get("who")) or ("account owner" if fix else "")
    again = "could run them twice: they are still open" if waiting and kind in _ACCOUNT_FIXES else ""
    if kind == "recovered":
        again = "is needed only for those that have failed: relay incidents list"
    return ("How to fix it", fix), ("Who can fix it", who), ("Sending its jobs again", again)


def _group(data: Document) -> str:
    counts = mapping(data.get("counts"))
    listed = data.get("failures")
    failures = [mapping(one) for one in listed[: _MAX_CODES + 1]] if isinstance(listed, list) else []
    codes = [(word(one.get("code")) or "unknown", count(one.get("count"))) for one in failures]
    failed, shown = count(counts.get("failed")), codes[:_MAX_CODES]
    rest = failed - sum(number for _, number in shown)
    return group_sentence(
        one_line(data.get("group"), _GROUP_CHARACTERS),
        round=count(data.get("round")),
        succeeded=count(counts.get("succeeded")),
        failed=failed,
        cancelled=count(counts.get("cancelled")),
        not_found=count(counts.get("not_found")),
        untracked=count(counts.get("untracked")),
        skipped=count(data.get("skipped")),
        missing=count(data.get("missing")),
        failures=(*shown, ("others", rest)) if len(codes) > _MAX_CODES and rest > 0 else shown,
    )


def _group_advice(data: Document) -> Pairs:
    counts = mapping(data.get("counts"))
    failed = count(counts.get("failed"))
    group = one_line(data.get("group"), _GROUP_CHARACTERS)
    if not group or not (failed or count(counts.get("not_found")) or count(data.get("missing"))):
        return ()
    return (
        ("What is left to do", f"See what went wrong: relay groups show {shlex.quote(group)}"),
        ("Who can do it", "account owner"),
        ("Sending again", "depends on the error: each failed job says whether it is safe" if failed else ""),
    )


def _incident(type: str, data: Document) -> str:
    if type == INCIDENT_CLOSED:
        return _ended(data)
    sentence = one_line(data.get("what")).rstrip(".! ") or f"Incident {word(data.get('incident'))}"
    likely = count(data.get("likely"))
    return f"{sentence}. {likely:,} more {'is' if likely == 1 else 'are'} likely to fail" if likely else sentence


def _ended(data: Document) -> str:
    sender = name(data.get("connect_account_name"))
    if not sender and (id := word(data.get("connect_account_id"))):
        sender = f"account {id}"
    return incident_end(
        word(data.get("kind")),
        because=word(data.get("closed_because")),
        failed=count(data.get("failed")),
        seconds=(moment_of(data.get("last_failure_at")) or 0.0) - (moment_of(data.get("first_failure_at")) or 0.0),
        channel=word(data.get("channel")),
        account=sender,
        sink=subscription_of(data),
    )


def _incident_advice(type: str, data: Document) -> Pairs:
    closed = type == INCIDENT_CLOSED
    repeat = data.get("repeat")
    again = (_REPEAT_CLOSED if closed else REPEAT_OPEN).get(repeat, "") if isinstance(repeat, str) else ""
    see = command("relay incidents show", data.get("incident")) if data.get("kind") != "sink" else ""
    return (
        ("How to fix it", "" if closed else without_addresses(data.get("fix"))),
        ("Who can fix it", "" if closed else without_addresses(data.get("who"))),
        ("Sending them again", again),
        ("See them", see),
    )


def incident_link(event: Event, context: RenderContext) -> str | None:
    """The incident of an event in the relay's API, if the relay's public URL is known."""
    if context.public_url is None or event.source != RELAY_SOURCE or event.type not in INCIDENT_EVENTS:
        return None
    id = _INCIDENT_ID.fullmatch(event.subject or "")
    return None if id is None else f"{context.public_url}/v1/incidents/{id[0]}"
