"""Events about connect accounts, groups and incidents in words: the event, whose turn it is, and the remedy."""

from collections.abc import Sequence
from typing import NamedTuple

from relay.core.events.event import (
    GROUP_FINISHED,
    INCIDENT_CLOSED,
    INCIDENT_EVENTS,
    INCIDENT_GREW,
    INCIDENT_OPENED,
    Hint,
    account_event_kind,
)
from relay.core.events.sentences import (
    account_sentence,
    group_finish,
    group_sentence,
    incident_end,
    incident_fix,
    why_failed,
)
from relay.core.jobs.groups import OTHER
from relay.core.jobs.job import NO_CODE
from relay.core.turns import ADMINISTRATOR, turn_of_failure, turn_of_incident
from subscribers.base import RenderContext
from subscribers.wording.jobs import REPEAT
from subscribers.wording.relay import subscription_of
from subscribers.wording.text import (
    NEXT_STEP,
    SENDING_AGAIN,
    WHOSE_TURN,
    Document,
    Pairs,
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
_MAX_CAUSES = 5
"""Maximum number of causes in the sentence about a group."""

_HEADINGS = {
    INCIDENT_OPENED: "Incident opened",
    INCIDENT_GREW: "Incident grew",
    INCIDENT_CLOSED: "Incident closed",
}
_ACCOUNT_FIXES = {
    "needs_reconnect": "Reconnect it in {upstream}",
    "cannot_send": "Check in {upstream} why it cannot send",
    "removed": "Connect it again in {upstream} if its jobs are still wanted",
}
REPEAT_OPEN = {**REPEAT, "may_send_twice": "could run them twice, so check first which were done"}
_REPEAT_CLOSED = {
    **REPEAT_OPEN,
    "safe": "safe, because nothing was done",
    "useless": "would fail unless the cause was fixed",
}


class Cause(NamedTuple):
    """An error of several failed jobs: why they failed, such as `because the account needs reconnecting`."""

    why: str
    number: int
    hint: Hint | None = None


def is_summary(type: str) -> bool:
    """True for the events of this module."""
    return type == GROUP_FINISHED or type in INCIDENT_EVENTS or account_event_kind(type) is not None


def summary_heading(type: str, data: Document) -> str:
    """The heading; empty for an event that has none. A group's sentence begins with it."""
    if type == GROUP_FINISHED:
        return group_finish(one_line(data.get("group"), _GROUP_CHARACTERS), count(data.get("round")))
    return _HEADINGS.get(type, "")


def summary_sentence(type: str, data: Document, context: RenderContext) -> str:
    """The event, in a sentence or two without the last full stop."""
    kind = account_event_kind(type)
    if kind is not None:
        who = name(data.get("name")) or word(data.get("account_id"))
        channel = word(data.get("channel"))
        return account_sentence(kind, channel=channel, name=who, open_jobs=count(data.get("open_jobs")))
    return _group(data, context) if type == GROUP_FINISHED else _incident(type, data)


def summary_advice(type: str, data: Document, context: RenderContext) -> Pairs:
    """The remedy, the person who can apply it, and advice on sending again, as (label, text). Texts may be empty."""
    kind = account_event_kind(type)
    if kind is not None:
        return _account_advice(kind, data, context)
    return _group_advice(data, context) if type == GROUP_FINISHED else _incident_advice(type, data, context)


def _account_advice(kind: str, data: Document, context: RenderContext) -> Pairs:
    hint = mapping(data.get("hint"))
    fix = without_addresses(hint.get("fix"))
    waiting = count(data.get("open_jobs")) > 0
    if not fix and kind in _ACCOUNT_FIXES and (kind != "removed" or waiting):
        fix = _ACCOUNT_FIXES[kind].format(upstream=upstream_of(data, context))
    who = without_addresses(hint.get("who")) or "account owner"
    turn = turn_of_failure(who) if fix else ""
    again = "could run them twice, because they are still open" if waiting and kind in _ACCOUNT_FIXES else ""
    if kind == "recovered":
        again = "needed only for jobs that have failed"
    return (NEXT_STEP, fix), (WHOSE_TURN, turn), (SENDING_AGAIN, again)


def _group(data: Document, context: RenderContext) -> str:
    counts = mapping(data.get("counts"))
    failed, causes = count(counts.get("failed")), _causes(data, context)
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
        failures=reasons(causes, failed),
    )


def _causes(data: Document, context: RenderContext) -> list[Cause]:
    """The error codes of a group with their hints and numbers, the largest number first."""
    source, listed = word(data.get("source")), data.get("failures")
    found = [mapping(one) for one in listed] if isinstance(listed, list) else []
    counted = [(word(one.get("code")), count(one.get("count"))) for one in found]
    return [cause_of(code, number, source, context) for code, number in counted]


def _group_advice(data: Document, context: RenderContext) -> Pairs:
    """What to do about the commonest cause."""
    counts, causes = mapping(data.get("counts")), _causes(data, context)
    failed, missing = count(counts.get("failed")), count(data.get("missing"))
    if not (failed or missing or count(counts.get("not_found"))):
        return ()
    hint = next((one.hint for one in causes if one.hint is not None), None)
    fix, turn = "See what became of them", ADMINISTRATOR
    if hint is not None:
        fix, turn = without_addresses(hint.fix), turn_of_failure(without_addresses(hint.who))
    elif missing:
        fix = "Find out why they were not created"
    return (
        (NEXT_STEP, fix),
        (WHOSE_TURN, turn),
        (SENDING_AGAIN, "depends on the cause. Each failed job says whether it is safe" if failed else ""),
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


def _incident_advice(type: str, data: Document, context: RenderContext) -> Pairs:
    closed = type == INCIDENT_CLOSED
    repeat = data.get("repeat")
    again = (_REPEAT_CLOSED if closed else REPEAT_OPEN).get(repeat, "") if isinstance(repeat, str) else ""
    if closed:
        return ((SENDING_AGAIN, again),)
    kind = word(data.get("kind"))
    fix = without_addresses(data.get("fix"))
    if kind != "jobs":
        fix = incident_fix(kind, upstream_of(data, context), without_addresses(data.get("code")))
    return (
        (NEXT_STEP, fix),
        (WHOSE_TURN, _turn(kind, data)),
        (SENDING_AGAIN, again),
    )


def _turn(kind: str, data: Document) -> str:
    who, code = (without_addresses(data.get(field)) for field in ("who", "code"))
    return turn_of_incident({"kind": kind, "who": who, "code": code})


def cause_of(code: str, number: int, source: str, context: RenderContext) -> Cause:
    """The cause behind an error code. `source`: its name in the settings."""
    hint = None if code == OTHER else context.explain(source, "" if code == NO_CODE else code)
    meaning = "" if hint is None else without_addresses(hint.meaning)
    return Cause(why_failed(code, meaning, f"{source} {context.titles.get(source)}"), number, hint)


def reasons(causes: Sequence[Cause], failed: int) -> list[tuple[str, int]]:
    """The commonest causes with their numbers, and the others as one. `failed`: number of failed jobs."""
    shown = [(one.why, one.number) for one in causes[:_MAX_CAUSES]]
    rest = failed - sum(number for _, number in shown)
    return [*shown, ("for other reasons", rest)] if len(causes) > _MAX_CAUSES and rest > 0 else shown
