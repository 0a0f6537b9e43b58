"""The common part of the chat kinds: the types they get by default, and the parts of a message as plain text.

Each kind escapes the parts for its own markup and lays them out.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import GROUP_FINISHED, INCIDENT_EVENTS, RELAY_EVENTS, Event, Origin, account_type_prefix
from relay.core.events.sentences import counted, duration
from relay.core.jobs.job import kind_of_type
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription, has_failures
from relay.redaction import url_without_path
from subscribers.base import Bundle, Kind, RenderContext, events_of
from subscribers.common.digest import Digest, Limits, digest
from subscribers.common.options import DEFAULT_MESSAGES_PER_MINUTE, ChatOptions, DigestOptions
from subscribers.options import Options
from subscribers.wording import Link, advice, below, facts, heading, ids, link, sentence
from subscribers.wording.jobs import job_details
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


_BY_DEFAULT = (
    "each job that failed, is overdue or was not found, create with unknown fate and finished group, and when an "
    "account, a sink or an upstream has trouble or has recovered"
)
_INCIDENTS = {
    "collapse": " Failures with one cause become one incident.",
    "both": " Failures with one cause are an incident as well.",
}


class ForPeople(Kind):
    """A kind that people read, through a chat service, which reads no signature. The path of its sink is a secret."""

    default_incidents = "collapse"
    family = "chats"
    options: type[Options] = ChatOptions
    rate_per_second = 1.0
    gets: ClassVar[str]
    """The thing that one event is there: `Slack gets one message`."""

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """A message for each event, and the digest of several of them."""
        types, config = shown.get("types"), shown.get("config") or {}
        events = events_of(shown) if types_given and types else _BY_DEFAULT
        incidents = _INCIDENTS.get(config.get("incidents", ""), "") if not types or has_failures(types) else ""
        return f"{self.one_of(config)} for {events}.{incidents}{self.several_of(config)}"

    def one_of(self, config: Mapping[str, Any]) -> str:
        """The thing that one event is there."""
        return self.gets

    def several_of(self, config: Mapping[str, Any]) -> str:
        """The message that several events become; empty for a kind that has no digest."""
        return ""

    def default_types(self, origins: Sequence[Origin]) -> tuple[str, ...] | None:
        """Events that people act on or wait for: jobs that went wrong, creates and records of unknown fate, trouble
        with a source, a sink or an account, incidents, and groups that have finished."""
        prefixes = dict.fromkeys(origin.type_prefix for origin in origins)
        of_accounts = dict.fromkeys(map(account_type_prefix, prefixes))
        return (
            *(f"{prefix}.{kind}" for prefix in prefixes for kind in _JOB_TROUBLE),
            *(f"{prefix}.{kind}" for prefix in of_accounts for kind in _ACCOUNT_TROUBLE),
            *(type for type in RELAY_EVENTS if type != "relay.test"),
        )

    def redacted_url(self, url: str) -> str:
        """Without path and query, which are the credential."""
        return url_without_path(url)


class WithDigests(ForPeople):
    """A chat in which several events can be one message.

    lengths  maximum characters of each text of a message, the longest first
    steps    extent of a digest, and the maximum characters of each text. The last one fits whatever the texts are
    """

    options = DigestOptions
    lengths: ClassVar[Sequence[int]] = (3000,)
    steps: ClassVar[Sequence[tuple[Limits, int]]] = (
        (Limits(), 300),
        (Limits(sections=6, brief=12, lines=3), 300),
        (Limits(sections=3, brief=6, lines=1), 120),
    )

    def several_of(self, config: Mapping[str, Any]) -> str:
        """See `ForPeople`."""
        options = DigestOptions.stored(config)
        if (seconds := options.digest_seconds) is not None:
            return (
                f" Events within {duration(seconds)} are one message, a digest; incidents and groups are sent at once."
            )
        most = counted(options.messages_per_minute or DEFAULT_MESSAGES_PER_MINUTE, "message")
        return f" What exceeds {most} a minute comes as one message, a digest."

    def bundle(self, subscription: Subscription) -> Bundle | None:
        """Without `digest_seconds` each event is a message, and those above `messages_per_minute` are a digest. With it
        events come in a digest, and incidents and groups that have finished as messages of their own, at once: they
        stand for many jobs, and people wait for them."""
        options = DigestOptions.of(subscription)
        wait_seconds = options.digest_seconds
        return Bundle(
            max_events=MAX_BUNDLED,
            wait_seconds=60.0 if wait_seconds is None else wait_seconds,
            max_bytes=MAX_BUNDLED_BYTES,
            free_per_minute=options.messages_per_minute or DEFAULT_MESSAGES_PER_MINUTE,
            free_types=None if wait_seconds is None else frozenset((GROUP_FINISHED, *INCIDENT_EVENTS)),
        )

    def render(self, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        """A message. Its texts are cut until it fits."""
        shown = message(event, subscription, context)
        return self._fitting(subscription, (self.show(shown, length) for length in self.lengths))

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: RenderContext
    ) -> OutboundRequest:
        """A digest: numbers by kind, incidents and groups with advice, the others by account and cause. It tells
        less of each until the message fits."""
        zone, worst = ChatOptions.of(subscription).time_zone, tone(*events)
        digests = ((digest(events, context, zone, limits), length) for limits, length in self.steps)
        return self._fitting(subscription, (self.show_digest(found, worst, length) for found, length in digests))

    def _fitting(self, subscription: Subscription, payloads: Iterable[Mapping[str, Any]]) -> OutboundRequest:
        """The first one that fits, else the last one."""
        for payload in payloads:
            if self.fits(payload):
                break
        return post(self.address(subscription.sink), payload)

    def address(self, sink: str) -> str:
        """The URL of the request."""
        return sink

    @abstractmethod
    def show(self, shown: "Message", length: int) -> Mapping[str, Any]:
        """A message as the service takes it. `length`: maximum characters of each text."""

    @abstractmethod
    def show_digest(self, found: Digest, tone: Tone, length: int) -> Mapping[str, Any]:
        """A digest as the service takes it. `length`: maximum characters of each text and URL; a longer URL is left
        out."""

    @abstractmethod
    def fits(self, payload: Mapping[str, Any]) -> bool:
        """True if the service takes a message of this length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event as a message: plain text, which no markup has been added to.

    heading   of an incident or a group that has finished; empty for other events. `below`: the sentence below it
    sentence  of the event, without the full stop
    link      None without one
    pairs     next step, metadata and sending account, as (label, text)
    place     job, account and time; `ids`: those that support asks for
    """

    sentence: str
    link: Link | None
    pairs: Pairs
    place: Pairs
    ids: Pairs
    tone: Tone
    heading: str = ""

    @property
    def below(self) -> str:
        """The sentence, which does not repeat the heading."""
        return below(self.heading, self.sentence)


def message(event: Event, subscription: Subscription, context: RenderContext) -> Message:
    """The parts of the message about an event."""
    options = ChatOptions.of(subscription)
    pairs = (*advice(event, context), *job_details(event, options.metadata_keys))
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
    tones = {_TONES.get(kind_of_type(event.type), "plain") for event in events}
    return min(tones, key=_WORST_FIRST.index)


def post(url: str, payload: Mapping[str, Any]) -> OutboundRequest:
    """The request with a message."""
    headers = (("Content-Type", "application/json; charset=utf-8"),)
    return OutboundRequest(url=url, headers=headers, body=dumps(dict(payload)))


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
