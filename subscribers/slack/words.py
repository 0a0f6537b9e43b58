"""Messages that are edited in place: one about each incident and each group, with the details in its thread.

Each event updates its message: `update_of` returns its new content, the detail for the thread, and the memory. The
message about a group counts its events until the group has finished. All of it is plain text. Of jobs only numbers by
kind and by error are remembered, and the ends of event ids.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relay.clock import local_time
from relay.core.deliveries.dialogue import Memory, group_key
from relay.core.events.event import GROUP_FINISHED, INCIDENT_EVENTS, INCIDENT_OPENED, RELAY_SOURCE, Event
from relay.core.jobs.groups import OTHER
from relay.core.jobs.job import NO_CODE
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.common.chat import Message, message
from subscribers.common.options import ChatOptions
from subscribers.wording.jobs import job_kind
from subscribers.wording.summaries import cause_of, reasons
from subscribers.wording.text import Pairs, count, data_of, mapping, moment_of, name, one_line, word, zone_of

MAX_SEEN = 256
"""Latest events of a group that are known to be counted. An older one that is sent again counts twice."""
MAX_CODES = 20
_GROUP_CHARACTERS = 200
_END_CHARACTERS = 12
_INCIDENT_ID = re.compile(r"inc_[0-9a-z]{1,40}")

_COUNTED = {
    "succeeded": "accepted",
    "skipped": "skipped",
    "failed": "failed",
    "cancelled": "cancelled",
    "not_found": "not found",
    "overdue": "overdue",
    "retrying": "tried again",
    "progress": "reports of progress",
    "running": "started",
    "scheduled": "scheduled",
    "queued": "queued",
    "status_unknown": "with an unknown status",
}
"""Counts in the message of a group, in this order, with the words for each."""
_PROGRESS = ("queued", "scheduled", "running", "progress", "retrying", "succeeded")
"""Counted only: they have no message of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The changes to a message and its thread after one event.

    restarts  a new message replaces the present one: the group has begun another round
    shown     the content of the message
    edits     an existing message is edited to that content
    detail    the message in the thread; None: there is none
    repeats   the detail repeats `shown`: it is left out under a new message
    memory    to store once this is sent
    """

    restarts: bool = False
    shown: Message
    edits: bool
    detail: Message | None
    repeats: bool
    memory: Memory


def message_key(event: Event) -> str | None:
    """The key of the message that an event updates; None: it has a message of its own."""
    if event.source == RELAY_SOURCE and event.type in INCIDENT_EVENTS:
        id = _INCIDENT_ID.fullmatch(event.subject or "")
        return None if id is None else f"incident/{id[0]}"
    of_group = job_kind(event) is not None or event.type == GROUP_FINISHED
    group = event.document().get("group") if of_group and event.owner is not None else None
    if event.owner is None or not isinstance(group, str) or not group or len(group) > 2 * _GROUP_CHARACTERS:
        return None
    return group_key(event.owner, group)


def update_of(event: Event, subscription: Subscription, context: RenderContext, memory: Memory) -> Update:
    """The changes after an event with a `message_key`. `memory`: stored after the event before; empty: none before."""
    content = message(event, subscription, context)
    if event.type in INCIDENT_EVENTS:
        return _of_incident(event, content, memory, ChatOptions.of(subscription).time_zone)
    if event.type == GROUP_FINISHED:
        return _end_of_group(event, content, memory)
    return _of_group(event, content, memory, context)


def _of_incident(event: Event, content: Message, memory: Memory, zone: str | None) -> Update:
    """The message shows the newest event: an older one may come later."""
    newest = _moment(event) >= (_number(memory.get("at")), _text(memory.get("event")))
    shown = replace(content, ids=())
    kept = {"at": event.recorded_at, "event": event.id} if newest else memory
    if event.type == INCIDENT_OPENED:
        detail = replace(content, sentence="The first failures", link=None, pairs=_facts_of(event, zone), place=())
        return Update(shown=shown, edits=newest, detail=detail, repeats=False, memory=kept)
    return Update(shown=shown, edits=newest, detail=replace(content, pairs=()), repeats=True, memory=kept)


def _facts_of(event: Event, zone: str | None) -> Pairs:
    data = data_of(event.document())
    first, latest = (moment_of(data.get(key)) or 0.0 for key in ("first_failure_at", "last_failure_at"))
    found = (
        ("Sending account", name(data.get("connect_account_name")) or word(data.get("connect_account_id"))),
        ("First failure", local_time(first, zone_of(zone)) if first else ""),
        ("Latest failure", local_time(latest, zone_of(zone)) if latest > first else ""),
    )
    return tuple((label, text) for label, text in found if text)


def _of_group(event: Event, content: Message, memory: Memory, context: RenderContext) -> Update:
    kind = job_kind(event) or ""
    finished_at = memory.get("finished_at")
    if finished_at is not None and event.recorded_at <= _number(finished_at):  # it was sent late
        return Update(shown=content, edits=False, detail=content, repeats=True, memory=memory)
    if finished_at is not None:
        again = _of_group(event, content, {}, context)
        return replace(again, restarts=True)
    document = event.document()
    counts, codes, seen = _counts(memory.get("counts")), _counts(memory.get("codes")), _seen(memory)
    end = event.id[-_END_CHARACTERS:]
    new = end not in seen
    if new:
        counted = "skipped" if kind == "succeeded" and document.get("resultstatus") == "skipped" else kind
        counts[counted] = counts.get(counted, 0) + 1
        if kind == "failed":
            code = word(mapping(data_of(document).get("problem")).get("code")) or NO_CODE
            code = code if code in codes or len(codes) < MAX_CODES else OTHER
            codes[code] = codes.get(code, 0) + 1
        seen = [*seen, end][-MAX_SEEN:]
    kept = {
        "counts": counts,
        "codes": codes,
        "seen": seen,
        "begun_at": min(_number(memory.get("begun_at"), event.recorded_at), event.recorded_at),
    }
    detail = None if kind in _PROGRESS else content
    shown = replace(
        content,
        sentence=_so_far(document, counts),
        link=None,
        pairs=_reasons(codes, (event.owner or "").partition("/")[0], context),
        place=tuple(pair for pair in content.place if pair[0] != "Job"),
        ids=(),
    )
    return Update(shown=shown, edits=new or detail is None, detail=detail, repeats=False, memory=kept)


def _end_of_group(event: Event, content: Message, memory: Memory) -> Update:
    finished_at = memory.get("finished_at")
    late = event.recorded_at < _number(memory.get("begun_at") if finished_at is None else finished_at)
    if late and memory:  # of an earlier round than the message shows
        return Update(shown=content, edits=False, detail=content, repeats=True, memory=memory)
    restarts = finished_at is not None and event.recorded_at > _number(finished_at)
    kept = {"finished_at": event.recorded_at}
    return Update(
        restarts=restarts, shown=replace(content, ids=()), edits=True, detail=content, repeats=True, memory=kept
    )


def _so_far(document: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    group = one_line(document.get("group"), _GROUP_CHARACTERS)
    parts = [f"{counts[kind]:,} {words}" for kind, words in _COUNTED.items() if kind in counts]
    return f"Campaign {group} so far: {', '.join(parts)}"


def _reasons(codes: Mapping[str, int], source: str, context: RenderContext) -> Pairs:
    ranked = sorted(codes.items(), key=lambda one: (-one[1], one[0]))
    causes = [cause_of(code, number, source, context) for code, number in ranked]
    text = ", ".join(f"{number:,} {why}" for why, number in reasons(causes, sum(codes.values())))
    return (("Why they failed", text),) if text else ()


def _moment(event: Event) -> tuple[float, str]:
    return event.recorded_at, event.id


def _number(value: object, default: float = 0.0) -> float:
    return float(value) if isinstance(value, int | float) else default


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _counts(value: object) -> dict[str, int]:
    return {key: count(number) for key, number in mapping(value).items()}


def _seen(memory: Memory) -> list[str]:
    found = memory.get("seen")
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
