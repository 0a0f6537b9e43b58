"""Several events as one message: their numbers by kind, account and cause, with the first of each. Plain text.

Incidents and groups that have finished stand for many jobs already. They are messages of their own where they come
alone (`bundle` in `chat.py`); in a digest they come first, each in a section of its own. An incident is shown as of its
last event.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from relay.clock import local_time
from relay.core.events.event import (
    CREATE_UNKNOWN,
    CREDITS_LOW,
    DELIVERY_EXPIRED,
    DELIVERY_UNCERTAIN,
    GROUP_FINISHED,
    INCIDENT_EVENTS,
    RELAY_SOURCE,
    SUBSCRIPTION_DISABLED,
    SUBSCRIPTION_RECOVERED,
    Event,
    account_event_kind,
)
from relay.core.events.sentences import counted, duration, titled
from subscribers.base import RenderContext
from subscribers.wording import Link, advice, heading, link, published_words, relay_account, sentence
from subscribers.wording.jobs import WITH_REASON, job_kind, reason_of, sending_account
from subscribers.wording.summaries import REPEAT_OPEN
from subscribers.wording.text import NEXT_STEP, SENDING_AGAIN, Pairs, data_of, mapping, name, upstream_of, word, zone_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One event: a sentence without the full stop, and its link."""

    sentence: str
    link: Link | None = None

    def short_link(self, limit_characters: int) -> Link | None:
        """The link; None if its URL is longer."""
        return self.link if self.link is not None and len(self.link.url) <= limit_characters else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An incident or a finished group, with advice."""

    heading: str
    line: Line
    advice: Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Events of one kind, one account and one cause.

    title   their number and kind: `8 failed on LinkedIn account acc_17: the account needs reconnecting`
    advice  that holds for all of them, as (label, text)
    lines   the first of them
    more    number of the others
    """

    title: str
    advice: Pairs
    lines: tuple[Line, ...]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The content of a digest.

    heading   `12 events in 5 minutes: 8 failed, 3 overdue, 1 account trouble`
    span      of their times, in the reader's time zone
    sections  incidents and groups; `brief`: further ones, a line each
    clusters  the other events, the most serious ones first, then the largest clusters
    rest      events that are in no section or cluster, in words; empty: none
    """

    heading: str
    span: str
    sections: tuple[Section, ...]
    brief: tuple[Line, ...]
    clusters: tuple[Cluster, ...]
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a digest.

    sections  maximum number of incidents and groups with a section of their own, and of clusters
    brief     maximum number of further incidents and groups, shown in one line each
    lines     maximum number of events that a cluster lists
    """

    sections: int = 10
    brief: int = 40
    lines: int = 5


def digest(
    events: Sequence[Event], context: RenderContext, time_zone: str | None = None, limits: Limits = Limits()
) -> Digest:
    """The digest of one event or more, in their order. `time_zone`: an IANA name; None: UTC."""
    items = [_Item(event, context) for event in events]
    apart = _latest([one for one in items if one.is_apart])
    clusters: dict[tuple[str, ...], list[_Item]] = {}
    for one in items:
        if not one.is_apart:
            clusters.setdefault(one.cluster, []).append(one)
    ranked = sorted(clusters.values(), key=lambda found: (_RANKS[found[0].kind], -len(found)))
    brief_end = limits.sections + limits.brief
    names = _names(items)
    return Digest(
        heading=_heading(items),
        span=_span(events, time_zone),
        sections=tuple(
            Section(heading=heading(one.event), line=one.line(), advice=advice(one.event, context))
            for one in apart[: limits.sections]
        ),
        brief=tuple(one.line() for one in apart[limits.sections : brief_end]),
        clusters=tuple(_cluster(found, names, limits.lines) for found in ranked[: limits.sections]),
        rest=_rest(apart[brief_end:], [one for found in ranked[limits.sections :] for one in found]),
    )


_KINDS: Mapping[str, tuple[str, str]] = {
    "opened": ("incident opened", "incidents opened"),
    "grew": ("incident grew", "incidents grew"),
    "failed": ("failed", "failed"),
    "unknown": ("unknown send", "unknown sends"),
    "uncertain": ("CRM record that may be missing", "CRM records that may be missing"),
    "not_found": ("not found", "not found"),
    "overdue": ("overdue", "overdue"),
    "account_trouble": ("account trouble", "account troubles"),
    "source_trouble": ("source trouble", "source troubles"),
    "sink_trouble": ("receiver trouble", "receiver troubles"),
    "finished": ("campaign finished", "campaigns finished"),
    "closed": ("incident closed", "incidents closed"),
    "status_unknown": ("of unknown status", "of unknown status"),
    "retrying": ("retrying", "retrying"),
    "cancelled": ("cancelled", "cancelled"),
    "recovered": ("recovery", "recoveries"),
    "accounts": ("account added or removed", "accounts added or removed"),
    "succeeded": ("accepted", "accepted"),
    "progress": ("report of progress", "reports of progress"),
    "running": ("running", "running"),
    "scheduled": ("scheduled", "scheduled"),
    "queued": ("queued", "queued"),
    "published": ("published event", "published events"),
    "other": ("other", "others"),
}
"""The kinds that events count as, in words, the most serious ones first."""
_RANKS = {kind: rank for rank, kind in enumerate(_KINDS)}
_RELAY_KINDS = {
    CREATE_UNKNOWN: "unknown",
    DELIVERY_EXPIRED: "sink_trouble",
    DELIVERY_UNCERTAIN: "uncertain",
    SUBSCRIPTION_DISABLED: "sink_trouble",
    SUBSCRIPTION_RECOVERED: "recovered",
    GROUP_FINISHED: "finished",
    "relay.source.unauthorized": "source_trouble",
    "relay.source.down": "source_trouble",
    CREDITS_LOW: "source_trouble",
    "relay.source.recovered": "recovered",
    **{type: type.rpartition(".")[2] for type in INCIDENT_EVENTS},
}
_ACCOUNT_KINDS = {"needs_reconnect": "account_trouble", "cannot_send": "account_trouble", "recovered": "recovered"}
_APART = ("opened", "grew", "closed", "finished")
_AGAIN = {
    "overdue": "could run them twice, because they are still open",
    "status_unknown": "could run them twice, because they are still open",
    "unknown": "could run them twice, so check first which were done",
    "retrying": "not needed, because they are tried again by themselves",
}
_CHECKS = {
    "unknown": "Check in {} which of them went out, and mark each as sent or not sent",
    "uncertain": "Look which of them are there, and mark each as sent or not sent",
}
_MAX_COUNTED = 8
"""Maximum number of kinds in the heading."""


class _Item:
    """An event, with the facts for its digest."""

    def __init__(self, event: Event, context: RenderContext) -> None:
        self.event, self.context = event, context
        document = event.document()
        self.data = data = data_of(document)
        self.kind = _kind(event)
        self.is_job = job_kind(event) is not None
        self.is_apart = self.kind in _APART
        self.channel = titled(word(document.get("channel") or data.get("channel")))
        self.sender = sending_account(data) if self.is_job or self.kind == "unknown" else ""
        self.what = published_words(event.type) if event.published else ""
        self.account = relay_account(event, context)
        self.reason = reason_of(document) if self.kind in WITH_REASON else ""
        hint = mapping(data.get("hint"))
        self.hint, self.repeat = (hint.get("fix"), hint.get("who")), str(hint.get("repeat"))

    @property
    def cluster(self) -> tuple[str, ...]:
        """The facts that the events of one cluster share."""
        whose = (self.channel, self.sender) if self.sender else ()
        return self.kind, self.what, self.account, self.reason, *whose

    def line(self, *, reason: bool = True) -> Line:
        """Its line. In a cluster, whose title has the reason, it is left out."""
        return Line(sentence=sentence(self.event, self.context, reason=reason), link=link(self.event, self.context))


def _kind(event: Event) -> str:
    """The key of _KINDS that an event counts as."""
    if event.published:
        return "published"
    job, account = job_kind(event), account_event_kind(event.type)
    if job is not None:
        return job
    if account is not None:
        return _ACCOUNT_KINDS.get(account, "accounts")
    return _RELAY_KINDS.get(event.type, "other") if event.source == RELAY_SOURCE else "other"


def _latest(apart: Sequence[_Item]) -> list[_Item]:
    """The last event of each incident, and each finished group, in the order in which they come first."""
    found: dict[object, _Item] = {}
    for one in apart:
        found[one.event.id if one.kind == "finished" else one.event.subject] = one
    return list(found.values())


def _heading(items: Sequence[_Item]) -> str:
    moments = [one.event.time for one in items]
    within = f" in {duration(max(moments) - min(moments))}" if len(items) > 1 else ""
    return f"{counted(len(items), 'event')}{within}: {_counts(items)}"


def _counts(items: Sequence[_Item]) -> str:
    """`8 failed, 3 overdue`."""
    counts = Counter(one.kind for one in items)
    ranked = sorted(counts, key=_RANKS.__getitem__)
    words = [f"{counts[kind]:,} {_KINDS[kind][counts[kind] != 1]}" for kind in ranked]
    if len(words) > _MAX_COUNTED:
        rest = sum(counts[kind] for kind in ranked[_MAX_COUNTED - 1 :])
        words = [*words[: _MAX_COUNTED - 1], f"{rest:,} others"]
    return ", ".join(words)


def _span(events: Sequence[Event], time_zone: str | None) -> str:
    zone = zone_of(time_zone)
    moments = [event.time for event in events]
    first, last = local_time(min(moments), zone), local_time(max(moments), zone)
    if first == last:
        return first
    date, clock, zone_name = first.split(" ", 2)
    if not last.endswith(f" {zone_name}"):
        return f"{first} to {last}"  # the clocks were changed
    return f"{date} {clock} to {last.removeprefix(f'{date} ')}"


def _cluster(found: Sequence[_Item], names: Mapping[str, str], max_lines: int) -> Cluster:
    first, number = found[0], len(found)
    where = f" for account {first.account}" if first.account else ""
    if first.sender:
        channel = f"{first.channel} account".strip()
        where = f" on {channel} {names.get(first.sender, first.sender)}{where and f' ({first.account})'}"
    return Cluster(
        title=f"{number:,} {_KINDS[first.kind][number != 1]}{first.what and ': '}{first.what}{where}{first.reason}",
        advice=_advice(found),
        lines=tuple(one.line(reason=False) for one in found[:max_lines]),
        more=max(number - max_lines, 0),
    )


def _advice(found: Sequence[_Item]) -> Pairs:
    """The advice that is the same for all events of a cluster."""
    first = found[0]
    pairs = advice(first.event, first.context)
    if len(found) > 1:
        if first.is_job:  # it is made of the hint
            same = all(one.hint == first.hint for one in found)
            pairs = tuple(pair for pair in pairs if same and pair[0] != SENDING_AGAIN)
        else:
            rest = [set(advice(one.event, one.context)) for one in found[1:]]
            pairs = tuple(pair for pair in pairs if all(pair in others for others in rest))
        if first.kind in _CHECKS and not pairs:
            pairs = ((NEXT_STEP, _CHECKS[first.kind].format(upstream_of(first.data, first.context))),)
        again = _again(first.kind, {one.repeat for one in found})
        pairs += ((SENDING_AGAIN, again),) if again else ()
    return pairs


def _again(kind: str, repeats: Set[str]) -> str:
    """The effect of sending several creates again; empty if it differs, or is not known."""
    if kind in _AGAIN:
        return _AGAIN[kind]
    return REPEAT_OPEN.get(next(iter(repeats)), "") if kind in ("failed", "not_found") and len(repeats) == 1 else ""


def _names(items: Sequence[_Item]) -> Mapping[str, str]:
    """The names of connect accounts that the events contain, by their id."""
    found = {}
    for one in items:
        for id_field, name_field in (("account_id", "name"), ("connect_account_id", "connect_account_name")):
            id, given = word(one.data.get(id_field)), name(one.data.get(name_field))
            if id and given and not one.is_job:
                found[id] = given
    return found


def _rest(unseen: Sequence[_Item], left: Sequence[_Item]) -> str:
    parts = []
    if unseen:
        parts.append(f"{len(unseen):,} more incidents and campaigns")
    if left:
        parts.append(f"{counted(len(left), 'more event')}: {_counts(left)}")
    return ". ".join(parts)
