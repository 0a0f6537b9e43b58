"""What the chat kinds share: the types they get by default, and the parts of a message as plain text.

Each kind escapes the parts for its own markup and lays them out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from relay.core.deliveries.delivery import Outcome
from relay.core.events.event import (
    CREATE_UNKNOWN,
    DELIVERY_EXPIRED,
    DELIVERY_UNCERTAIN,
    GROUP_FINISHED,
    INCIDENT_EVENTS,
    SOURCE_TROUBLE,
    SUBSCRIPTION_DISABLED,
    SUBSCRIPTION_RECOVERED,
    Event,
    account_type_prefix,
)
from relay.core.events.sentences import counted, duration
from relay.core.subscriptions.subscription import Incidents, Subscription, has_failures
from subscribers.base import Bundle, RenderContext, events_of
from subscribers.common.options import DEFAULT_MESSAGES_PER_MINUTE, ChatOptions, DigestOptions
from subscribers.options import Options
from subscribers.wording import advice, facts, heading, ids, job_details, link, sentence
from subscribers.wording.text import Pairs

MAX_BUNDLED = 1_000
"""Maximum events in a digest. It takes 40 ms to make one of that many."""
MAX_BUNDLED_BYTES = 4 * 1024 * 1024
MAX_PAIRS = 10

Tone = Literal["bad", "warning", "good", "plain"]
_WORST_FIRST: tuple[Tone, ...] = ("bad", "warning", "plain", "good")

_JOB_TROUBLE = ("failed", "overdue", "not_found")
_ACCOUNT_TROUBLE = ("needs_reconnect", "cannot_send", "recovered")
_TONES: dict[str, Tone] = {
    **dict.fromkeys(("failed", "not_found", "needs_reconnect", "cannot_send", "unauthorized", "down"), "bad"),
    **dict.fromkeys(("disabled", "expired", "uncertain", "unknown", "opened", "grew"), "bad"),
    **dict.fromkeys(("overdue", "retrying", "status_unknown", "cancelled", "removed"), "warning"),
    **dict.fromkeys(("succeeded", "recovered", "closed"), "good"),
}


_FAILED = "ai.revor.job.failed"
_BY_DEFAULT = (
    "each job that failed, is overdue or was not found, create with unknown fate and finished group, and when an "
    "account, a sink or Revor has trouble or has recovered"
)
_INCIDENTS = {
    "collapse": " Failures with one cause become one incident.",
    "both": " Failures with one cause are an incident as well.",
}


class ForPeople:
    """The part of a kind that people read, through a chat service, which reads no signature."""

    signed = False
    default_incidents: Incidents = "collapse"
    family = "chats"
    options: type[Options] = ChatOptions
    gets: ClassVar[str]
    """What one event is there: `Slack gets one message`."""

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """A message for each event, and what several of them become."""
        types, config = shown.get("types"), shown.get("config") or {}
        events = events_of(shown) if types_given and types else _BY_DEFAULT
        incidents = _INCIDENTS.get(config.get("incidents", ""), "") if has_failures(types or [_FAILED]) else ""
        return f"{self.one_of(config)} for {events}.{incidents}{self.several_of(config)}"

    def one_of(self, config: Mapping[str, Any]) -> str:
        """What an event becomes."""
        return self.gets

    def several_of(self, config: Mapping[str, Any]) -> str:
        """How several events become one message; empty for a kind that has no digest."""
        options = self.options.stored(config)
        if not isinstance(options, DigestOptions):
            return ""
        if (seconds := options.digest_seconds) is not None:
            return (
                f" Events within {duration(seconds)} are one message, a digest; incidents and groups are sent at once."
            )
        most = counted(options.messages_per_minute or DEFAULT_MESSAGES_PER_MINUTE, "message")
        return f" What exceeds {most} a minute comes as one message, a digest."

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """What people act on or wait for: jobs that went wrong, creates and records of unknown fate, trouble with a
        source, a sink or an account, incidents, and groups that have finished."""
        prefixes = dict.fromkeys(type_prefixes)
        return (
            *(f"{prefix}.{kind}" for prefix in prefixes for kind in _JOB_TROUBLE),
            *SOURCE_TROUBLE,
            *(CREATE_UNKNOWN, SUBSCRIPTION_DISABLED, SUBSCRIPTION_RECOVERED),
            *(DELIVERY_EXPIRED, DELIVERY_UNCERTAIN),
            *(f"{account_type_prefix(prefix)}.{kind}" for prefix in prefixes for kind in _ACCOUNT_TROUBLE),
            *(GROUP_FINISHED, *INCIDENT_EVENTS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event as a message: plain text, which no markup has been added to.

    heading   of an incident or a group that has finished, in two words; empty for other events
    sentence  what happened, without the full stop
    link      a well-formed http(s) URL; None without one, because a service refuses a message with a malformed one
    pairs     advice, metadata, channel and sending account, as (label, text)
    place     where and when; `ids`: what support asks for
    """

    sentence: str
    link: str | None
    pairs: Pairs
    place: Pairs
    ids: Pairs
    tone: Tone
    heading: str = ""


def message(event: Event, subscription: Subscription, context: RenderContext) -> Message:
    """The parts of the message about an event."""
    options = ChatOptions.of(subscription)
    pairs = (*advice(event), *job_details(event, options.metadata_keys))
    return Message(
        sentence=sentence(event, context),
        link=link(event, context),
        pairs=pairs[:MAX_PAIRS],
        place=facts(event, context, options.time_zone),
        ids=ids(event),
        tone=tone(event),
        heading=heading(event),
    )


def tone(*events: Event) -> Tone:
    """The tone of a message about these events: that of the worst one."""
    tones = {_TONES.get(event.type.rpartition(".")[2], "plain") for event in events}
    return min(tones, key=_WORST_FIRST.index)


def time_zone(subscription: Subscription) -> str | None:
    """The time zone of the times in its messages; None: UTC."""
    return ChatOptions.of(subscription).time_zone


def bundle(subscription: Subscription) -> Bundle:
    """How its messages share requests. Without `digest_seconds` each event is a message, and what exceeds
    `messages_per_minute` is a digest. With it events come in a digest, and incidents and groups that have finished as
    messages of their own, at once: they stand for many jobs, and people wait for them."""
    options = DigestOptions.of(subscription)
    wait_seconds = options.digest_seconds
    return Bundle(
        max_events=MAX_BUNDLED,
        wait_seconds=60.0 if wait_seconds is None else wait_seconds,
        max_bytes=MAX_BUNDLED_BYTES,
        free_per_minute=options.messages_per_minute or DEFAULT_MESSAGES_PER_MINUTE,
        free_types=None if wait_seconds is None else frozenset((GROUP_FINISHED, *INCIDENT_EVENTS)),
    )


def footnote(pairs: Pairs) -> str:
    """Labels and texts on one line."""
    return " · ".join(f"{label} {text}" for label, text in pairs)


def fitted(text: str, limit: int, escape: Callable[[str], str]) -> str:
    """The text escaped, in at most `limit` UTF-16 code units. It is cut before it is escaped, so no escape is cut."""
    shown = escape(text)
    while (over := len(shown.encode("utf-16-le", "replace")) // 2 - limit) > 0:
        # An escape adds at most two units to each of one or two, so this cuts less than is over.
        text = text.removesuffix("…")[: -1 - over // 6].rstrip() + "…"
        shown = escape(text)
    return shown


def refusal(status: int | None, code: str = "") -> Outcome | None:
    """What a chat service means by refusing a request; None for an answer to which the rules of HTTP apply.

    400 and 413: it will never accept this message. 401, 403, 404 and 410: the webhook is gone, or was switched off.

    code  the service's own code for it
    """
    reason = f"http_{status}: {code}" if code else f"http_{status}"
    if status in (400, 413):
        return Outcome(verdict="dead", reason=reason)
    if status in (401, 403, 404, 410):
        return Outcome(verdict="disable", reason=reason)
    return None
