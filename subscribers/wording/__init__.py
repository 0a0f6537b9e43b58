"""An event in words: a sentence, advice, the job's metadata, and its ids. Plain text, which each chat kind escapes.

Shows the event's attributes, its hint and the user's metadata. Of the upstream item only the sending account's id is
read: the rest may hold a recipient's address or the text of a message. `jobs`, `relay` and `summaries` make the
sentences of their events.
"""

import re
from typing import NamedTuple
from urllib.parse import quote

from relay.clock import local_time
from relay.core.events.event import CREATE_UNKNOWN, RELAY_SOURCE, Event, account_event_kind
from relay.core.turns import turn_of_failure
from relay.redaction import host_of
from subscribers.base import RenderContext
from subscribers.wording.jobs import job_kind, job_sentence, metadata_link, sending_again
from subscribers.wording.pages import page_of
from subscribers.wording.relay import relay_fix, relay_sentence
from subscribers.wording.summaries import is_summary, summary_advice, summary_heading, summary_sentence
from subscribers.wording.text import (
    DEFAULT_ACCOUNT,
    NEXT_STEP,
    SENDING_AGAIN,
    WHOSE_TURN,
    Document,
    Pairs,
    account_of,
    data_of,
    mapping,
    name,
    one_line,
    without_addresses,
    word,
    zone_of,
)

_URL = re.compile(
    r"(https?://(?:(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){0,20}[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|\[[0-9a-f:.]+\])"
    r"(?::[0-9]{1,5})?)((?:[/?#].*)?)",
    re.IGNORECASE,
)
# Characters that RFC 3986 does not allow, brackets and quotes included.
_NOT_IN_URLS = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~:/?#@!$&*+,;=%-]")
_SUBJECT_CHARACTERS = 120
_MAX_URL = 1_500
_VERSION = re.compile(r"v?[0-9]+", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")


def sentence(event: Event, context: RenderContext, *, reason: bool = True) -> str:
    """The event in one sentence without the full stop. `reason`: with the reason why a job failed."""
    document = event.document()
    if event.published:
        return _published(document)
    kind = job_kind(event)
    if kind is not None:
        return job_sentence(kind, document, context.search_keys, reason=reason)
    if _is_summary(event):
        return summary_sentence(event.type, data_of(document), context)
    found = relay_sentence(event.type, data_of(document), context) if event.source == RELAY_SOURCE else None
    if found is not None:
        return found
    about = f" about {one_line(event.subject)}" if event.subject else ""
    return f"Event {one_line(event.type)}{about}"


def heading(event: Event) -> str:
    """The heading of an incident, or of a group that has finished; empty for other events."""
    return summary_heading(event.type, data_of(event.document())) if event.source == RELAY_SOURCE else ""


def below(heading: str, sentence: str) -> str:
    """The sentence without the heading that is above it."""
    rest = sentence.removeprefix(f"{heading}: ")
    return sentence if rest == sentence else rest[:1].upper() + rest[1:]


def advice(event: Event, context: RenderContext) -> Pairs:
    """The next step, whose turn it is, and advice on sending again, as (label, text); empty if unknown."""
    if event.published:
        return ()
    document = event.document()
    data = data_of(document)
    if _is_summary(event):
        return _said(summary_advice(event.type, data, context))
    kind = job_kind(event)
    hint = mapping(data.get("hint"))
    fix, who = without_addresses(hint.get("fix")), without_addresses(hint.get("who"))
    turn = turn_of_failure(who) if who else ""
    if not fix and event.source == RELAY_SOURCE:
        fix, turn = relay_fix(event.type, data, context)
    return _said(
        (
            (NEXT_STEP, fix),
            (WHOSE_TURN, turn),
            (SENDING_AGAIN, sending_again(kind, data) if kind else ""),
        )
    )


def facts(event: Event, context: RenderContext, time_zone: str | None = None) -> Pairs:
    """Job, account and time, as (label, text). `time_zone`: an IANA name; None: UTC."""
    time = ("Time", local_time(event.time, zone_of(time_zone)))
    if event.published:
        return (time,)
    document = event.document()
    data = data_of(document)
    job = one_line(document.get("subject") if job_kind(event) else data.get("job"), 200)
    return _said((("Job", job), ("Relay account", relay_account(event, context)), time))


def relay_account(event: Event, context: RenderContext) -> str:
    """The name of the relay's account; empty for the default one."""
    document = event.document()
    account = "" if event.published else name(document.get("account") or data_of(document).get("account"))
    return "" if account == DEFAULT_ACCOUNT else account_of(account, context)


class Link(NamedTuple):
    """A link. `url` is a well-formed http(s) one, because a service refuses a message with a malformed one."""

    url: str
    title: str


def link(event: Event, context: RenderContext) -> Link | None:
    """The link: the URL in the job's metadata, titled with its host, else the relay's page about the event; None
    without one. A create of unknown fate is settled on its page."""
    page = _page_link(event, context)
    return page if page is not None and event.type == CREATE_UNKNOWN else own_link(event) or page


def own_link(event: Event) -> Link | None:
    """The URL in the job's metadata, titled with its host."""
    url = _well_formed(metadata_link(event))
    return None if url is None else Link(url, f"Open in {host_of(url)}")


def _page_link(event: Event, context: RenderContext) -> Link | None:
    """The page of the dashboard about the event."""
    found = None if context.public_url is None or event.published else page_of(event)
    url = None if found is None else _well_formed(f"{context.public_url}/ui/{found[0]}")
    return None if found is None or url is None or len(url) > _MAX_URL else Link(url, f"Open {found[1]}")


def _well_formed(url: str | None) -> str | None:
    parts = None if url is None else _URL.fullmatch(url)
    return parts and parts[1] + _NOT_IN_URLS.sub(lambda found: quote(found[0]), parts[2])


def ids(event: Event) -> Pairs:
    """The ids that support asks for, as (label, text)."""
    data = {} if event.published else data_of(event.document())
    of_relay = ("subscription", "delivery", "intent", "incident") if event.source == RELAY_SOURCE else ()
    found = [(label.capitalize(), word(data.get(label))) for label in of_relay]
    return _said((*found, ("Request", one_line(data.get("request_id"))), ("Event", one_line(event.id))))


def _is_summary(event: Event) -> bool:
    """True for events about connect accounts, groups and incidents."""
    of_relay = not event.published and is_summary(event.type)
    return of_relay and (event.source == RELAY_SOURCE or account_event_kind(event.type) is not None)


def _said(found: Pairs) -> Pairs:
    return tuple((label, text) for label, text in found if text)


def _published(document: Document) -> str:
    """`Order paid: A-17`: the type's last words and the subject, in one sentence without the full stop."""
    what = published_words(document.get("type"))
    subject = without_addresses(one_line(document.get("subject"), _SUBJECT_CHARACTERS))
    return f"{what}: {subject}" if subject else what


def published_words(type: object) -> str:
    """`Order paid` for `com.acme.order.paid.v1`."""
    text = one_line(type, 200)
    segments = [one for one in text.split(".") if one and not _VERSION.fullmatch(one)]
    words = _BETWEEN_WORDS.sub(" ", " ".join(segments[-2:])).strip().lower()
    return words[:1].upper() + words[1:] if words else f"Event {text}".strip()
