"""A job in words: its state, its events in the sentences of chat messages, and its history, as a complete list and as
the marks that `timeline.py` draws.

It shows only recorded facts. Single polls are shown if they found something, or are the last or the next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.clock import from_rfc3339, to_rfc3339
from relay.core.events.event import job_event_kind
from relay.core.jobs.job import JOB_EVENTS, KNOWN_STATUSES, TERMINAL, WAITING, kind_of_type
from relay.web.delivery_words import listed_reason, shown_state
from relay.web.rendering import duration
from relay.web.texts import english
from relay.web.timeline import Mark, Phase, Timeline
from subscribers.wording.jobs import job_sentence

Answer = Mapping[str, Any]
texts = english()
BAD = frozenset({"failed", "not_found", "overdue", "dead"})
WARN = frozenset({"retrying", "status_unknown", "uncertain", "pending"})
GOOD = frozenset({"succeeded", "delivered"})


def state_of(job: Answer, now: float) -> str:
    """The state to show: `unpolled`, one of JOB_EVENTS, or `untracked`."""
    if not job["open"]:
        return str(job["outcome"])
    if job["deadline_at"] is not None and from_rfc3339(job["deadline_at"]) <= now:
        return "overdue"
    if job["problem"] is not None:
        return "retrying"
    if job["status"] is None:
        return "unpolled"
    return job["status"] if job["status"] in KNOWN_STATUSES else "status_unknown"


def tone(state: str) -> str:
    """The class that colours a state."""
    return "bad" if state in BAD else "warn" if state in WARN else "good" if state in GOOD else f"is-{state}"


def sentence_of(job: Answer, now: float, search_keys: Sequence[str] = ()) -> str:
    """A job's state in a sentence, such as `LinkedIn outreach to Ada failed: the account needs reconnecting`."""
    state = state_of(job, now)
    kind = state if state in JOB_EVENTS else "queued"
    sentence = _with_the_state(job_sentence(kind, document_of(job, kind), search_keys), kind)
    if state in JOB_EVENTS:
        return sentence
    return texts(f"jobs.is_{state}", what=sentence.removesuffix(" is queued"))


def document_of(job: Answer, kind: str = "queued") -> dict[str, Any]:
    """A job as its event of this kind would show it, for the sentences of messages."""
    return {
        "type": f"{job['source']}.job.{kind}",
        "subject": job["id"],
        "channel": job["channel"],
        "action": job["action"],
        "status": job["status"],
        "resultstatus": job["result_status"],
        "data": {"metadata": job["metadata"], "request": job["request"], "hint": job["problem"]},
    }


def event_kind(document: Answer) -> str:
    """The member of JOB_EVENTS that a job's event belongs to."""
    return job_event_kind(str(document["type"])) or "status_unknown"


def event_sentence(document: Answer, search_keys: Sequence[str] = ()) -> str:
    """A job's event in a sentence."""
    kind = event_kind(document)
    return _with_the_state(job_sentence(kind, document, search_keys), kind)


def _with_the_state(sentence: str, kind: str) -> str:
    """Chat messages only say that a message was accepted. Pages show the state `succeeded` beside it, so both are
    named."""
    what = sentence.removesuffix(" was accepted")
    return texts("jobs.is_succeeded", what=what) if kind == "succeeded" and what != sentence else sentence


NOT_BY_POLL = "overdue"
"""The kind of transition that is detected by the clock instead of a poll."""
_NO_PHASE = (NOT_BY_POLL, "progress")
"""Kinds of transitions after which the phase goes on."""
MOST_AHEAD = 3.0
MOST_BEHIND = 8.0
"""Maximum extent of the drawing for planned times and for late deliveries, in multiples of the job's time so far. Later
marks are arrows at its edge."""
MARGIN = 0.02
LEAST_SECONDS = 1.0
NOTICED_SECONDS = 0.05
"""Detection delays up to this are not mentioned."""
_SINK_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One past or planned occurrence. `state` is shown as a badge; `notes` are its durations."""

    at: float
    kind: str
    text: str
    state: str | None = None
    notes: tuple[str, ...] = ()
    path: str | None = None

    after: str = ""
    """Time since the first entry."""

    @property
    def time(self) -> str:
        """Its time, formatted for a page."""
        return to_rfc3339(self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A job's past and plans. `quiet_polls`: number of polls that found nothing new."""

    entries: Sequence[Entry]
    timeline: Timeline
    quiet_polls: int
    deadline_later: float | None = None
    request_ids: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class _Change:
    """An event, with its times."""

    kind: str
    occurred: float
    detected: float
    document: Answer


def history(
    job: Answer,
    events: Sequence[Answer],
    deliveries: Sequence[Answer],
    explanation: Answer,
    now: float,
    *,
    names: Mapping[str, str],
    search_keys: Sequence[str] = (),
) -> History:
    """The history of a job, from the API's answers. `deliveries` are those of `events`; `names`: of their
    subscriptions, by the id of the delivery."""
    tracked, closed = from_rfc3339(job["tracked_at"]), _time(job["closed_at"])
    changes = [_change(document) for document in events]
    ended = now if closed is None else max(closed, tracked)
    phases = _phases(job, changes, tracked, ended, now)
    polls, quiet = _polls(job, changes)
    deliveries = sorted(deliveries, key=lambda one: one["created_at"])
    sent = [_delivery_mark(one, now, names) for one in deliveries]
    began = min([tracked, *(phase.began for phase in phases)])
    deadline = _time(job["deadline_at"])
    until = _until(
        began, ended, _ahead(job, deadline), [*(mark.at for mark in sent), *(one.detected for one in changes)]
    )
    drawn = None if deadline is None or deadline > until else deadline
    timeline = Timeline(
        began=began,
        ended=until + MARGIN * (until - began),
        phases=phases,
        polls=polls,
        events=[
            Mark(kind=one.kind, at=one.occurred, label=event_sentence(one.document, search_keys)) for one in changes
        ],
        deliveries=sent,
        now=now if job["open"] else None,
        deadline=drawn,
    )
    return History(
        entries=_entries(job, changes, deliveries, tracked, ended, now, names, search_keys),
        timeline=timeline,
        quiet_polls=quiet,
        deadline_later=deadline - now if deadline is not None and drawn is None and job["open"] else None,
        request_ids=_request_ids(changes, explanation),
    )


def _change(document: Answer) -> _Change:
    data = document["data"]
    occurred, detected = from_rfc3339(data["occurred_at"]), from_rfc3339(data["detected_at"])
    return _Change(event_kind(document), occurred, detected, document)


def _begins(changes: Sequence[_Change], ended: float) -> list[float]:
    """The start of each change's phase. A time given by the upstream ends the preceding phase, which is as observed."""
    found, latest = [], ended
    for change in reversed(changes):
        latest = min(change.occurred, latest)
        found.append(latest)
    return found[::-1]


def _phases(job: Answer, changes: Sequence[_Change], tracked: float, ended: float, now: float) -> list[Phase]:
    changes = [change for change in changes if change.kind not in _NO_PHASE]
    begins = _begins(changes, ended)
    found = []
    first = begins[0] if begins else ended
    if first > tracked:
        found.append(Phase(kind="unknown", began=tracked, ended=first))
    scheduled = _time(job["scheduled_at"])
    for change, began, end in zip(changes, begins, [*begins, ended][1:], strict=True):
        if change.kind in TERMINAL or change.kind == "not_found":
            continue
        if change.kind != "scheduled":
            found.append(Phase(kind=change.kind, began=began, ended=end))
            continue
        due = began if scheduled is None else min(max(scheduled, began), end)
        found += [Phase(kind="scheduled", began=began, ended=due), Phase(kind="queued", began=due, ended=end)]
    if job["open"] and scheduled is not None and scheduled > now and job["status"] in WAITING:
        found.append(Phase(kind="planned", began=now, ended=scheduled))
    return [phase for phase in found if phase.ended > phase.began]


def _polls(job: Answer, changes: Sequence[_Change]) -> tuple[list[Mark], int]:
    """The polls whose time is known, and the number of others."""
    found: dict[float, Mark] = {}
    for change in changes:
        if change.kind != NOT_BY_POLL:
            label = texts("jobs.poll_found", kind=texts.get(f"jobs.state_{change.kind}", change.kind))
            found[change.detected] = Mark(kind="found", at=change.detected, label=label)
    last = _time(job["last_polled_at"])
    if last is not None and last not in found:
        failed = job["last_error"] is not None and job["open"]
        kind = "failed" if failed else "nothing"
        found[last] = Mark(kind=kind, at=last, label=texts(f"jobs.poll_{kind}"))
    quiet = max(job["poll_count"] - len(found), 0)
    planned = _time(job["next_poll_at"])
    marks = [*found.values()]
    if planned is not None:
        marks.append(Mark(kind="planned", at=planned, label=texts("jobs.mark_next_poll")))
    return marks, quiet


def _delivery_mark(delivery: Answer, now: float, names: Mapping[str, str]) -> Mark:
    ended = _time(delivery["ended_at"])
    label = texts("jobs.delivery_mark", state=texts(f"jobs.state_{shown_state(delivery)}"), sink=_sink(delivery, names))
    return Mark(
        kind=delivery["state"],
        at=now if ended is None else ended,
        label=label,
        since=from_rfc3339(delivery["created_at"]),
    )


def _ahead(job: Answer, deadline: float | None) -> list[float]:
    """The planned times of an open job."""
    if not job["open"]:
        return []
    times = [_time(job[name]) for name in ("next_poll_at", "scheduled_at", "next_attempt_at")]
    return [time for time in [*times, deadline] if time is not None]


def _until(began: float, ended: float, ahead: Sequence[float], behind: Sequence[float]) -> float:
    """The end of the drawing, chosen so that one late time does not squeeze all others."""
    span = max(ended - began, LEAST_SECONDS)
    times = [time for time in ahead if time <= began + MOST_AHEAD * span]
    times += [time for time in behind if time <= began + MOST_BEHIND * span]
    return max(began + span, *times) if times else began + span


def _entries(
    job: Answer,
    changes: Sequence[_Change],
    deliveries: Sequence[Answer],
    tracked: float,
    ended: float,
    now: float,
    names: Mapping[str, str],
    search_keys: Sequence[str],
) -> list[Entry]:
    found = [Entry(at=tracked, kind="registered", text=texts("jobs.entry_registered"))]
    phases = [change for change in changes if change.kind != "progress"]
    begins = _begins(phases, ended)
    lasted = dict(zip(map(id, phases), zip(begins, [*begins, ended][1:], strict=True), strict=True))
    for change in changes:
        notes = []
        began, end = lasted.get(id(change), (ended, ended))
        if change.detected - change.occurred >= NOTICED_SECONDS and change.kind != NOT_BY_POLL:
            notes.append(texts("jobs.note_detected", after=duration(change.detected - change.occurred)))
        if change.kind not in TERMINAL and change.kind not in (NOT_BY_POLL, "not_found") and end > began:
            open_now = change is phases[-1] and job["open"]
            notes.append(texts("jobs.note_so_far" if open_now else "jobs.note_lasted", time=duration(end - began)))
        entry = Entry(
            at=change.occurred,
            kind="event",
            text=event_sentence(change.document, search_keys),
            state=change.kind,
            notes=tuple(notes),
        )
        found.append(entry)
    found += [_delivery_entry(one, names) for one in deliveries]
    closed = _time(job["closed_at"])
    if job["outcome"] == "untracked" and closed is not None:
        found.append(Entry(at=closed, kind="untracked", text=texts("jobs.entry_untracked"), state="untracked"))
    last = _time(job["last_polled_at"])
    if last is not None and job["open"] and last not in {change.detected for change in changes}:
        failed = job["last_error"] is not None
        text = texts("jobs.entry_poll_failed" if failed else "jobs.entry_poll", n=job["poll_count"])
        found.append(Entry(at=last, kind="poll", text=text, state="failed" if failed else None))
    if job["open"]:
        found += _to_come(job, now)
    found.sort(key=lambda entry: entry.at)
    return [replace(entry, after=_after(entry.at - found[0].at)) for entry in found]


def _after(seconds: float) -> str:
    return "0 s" if seconds < NOTICED_SECONDS else f"+{duration(seconds)}"


def _to_come(job: Answer, now: float) -> list[Entry]:
    found = []
    for name in ("scheduled_at", "next_attempt_at", "next_poll_at", "deadline_at"):
        at = _time(job[name])
        if at is not None and (at > now or name == "next_poll_at"):
            key = "entry_poll_due" if at <= now else f"entry_{name}"
            found.append(Entry(at=max(at, now), kind="planned", text=texts(f"jobs.{key}")))
    return found


def _delivery_entry(delivery: Answer, names: Mapping[str, str]) -> Entry:
    ended, created = _time(delivery["ended_at"]), from_rfc3339(delivery["created_at"])
    kind = kind_of_type(str(delivery["event_type"]))
    notes = [] if ended is None else [texts("jobs.note_took", time=duration(ended - created))]
    if reason := listed_reason(delivery):
        notes.append(reason)
    text = texts("jobs.entry_delivery", kind=texts.get(f"jobs.state_{kind}", kind), sink=_sink(delivery, names))
    return Entry(
        at=created if ended is None else ended,
        kind="delivery",
        text=text,
        state=shown_state(delivery),
        notes=tuple(notes),
        path=delivery["id"],
    )


def _sink(delivery: Answer, names: Mapping[str, str]) -> str:
    sink = names.get(delivery["id"]) or delivery["sink"] or texts("jobs.sink_removed")
    return sink if len(sink) <= _SINK_CHARACTERS else sink[: _SINK_CHARACTERS - 1] + "…"


def _request_ids(changes: Sequence[_Change], explanation: Answer) -> list[str]:
    """The upstream's known request ids, the last first."""
    error = explanation["last_error"] or {}
    found = [explanation["last_request_id"], error.get("request_id")]
    found += [change.document["data"].get("request_id") for change in reversed(changes)]
    return list(dict.fromkeys(one for one in found if one))


def _time(text: str | None) -> float | None:
    return None if text is None else from_rfc3339(text)
