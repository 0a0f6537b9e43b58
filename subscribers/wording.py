"""An event in one human sentence, and the facts beside it. Plain text: each chat kind escapes it its own way.

Nothing of the upstream's item is read here: it may hold a recipient's address or the text of a message. What a person
gets to see is the event's attributes, the hint, and the name that the user gave in the job's metadata.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from relay.core.events import RELAY_SOURCE, Event
from relay.core.job import JOB_EVENTS
from subscribers.base import Context, redacted_url

Document = Mapping[str, Any]

NAME_CHARACTERS = 80
TEXT_CHARACTERS = 500
_WORD_CHARACTERS = 60
_SHORT_ID_CHARACTERS = 8

_BRANDS = {"linkedin": "LinkedIn", "whatsapp": "WhatsApp"}

# Control characters, marks that turn the direction of writing, and characters that do not show.
_UNSEEN = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]+"
)
_ADDRESS = re.compile(
    r"[^\s@]{1,100}@\S{1,200}"  # e-mail, @name
    r"|\b[a-z][a-z0-9+.-]{1,20}://\S{1,500}|\bwww\.\S{1,500}|\b[\w-]{1,60}(?:\.[\w-]{1,60}){1,4}/\S{0,500}"  # URLs
    r"|(?<![\w-])\+?(?!\d{4}-\d\d-\d\d)\(?\d[\d ().-]{6,40}\d",  # phone numbers
    re.IGNORECASE,
)


def sentence(event: Event, context: Context) -> str:
    """What happened, in one sentence without a full stop."""
    document = event.document()
    kind = job_event_kind(event.type)
    if kind is not None:
        return _JOB_SENTENCES[kind](document, _what(document))
    tell = _RELAY_SENTENCES.get(event.type) if event.source == RELAY_SOURCE else None
    if tell is not None:
        return tell(_data(document), context)
    about = f" about {one_line(event.subject)}" if event.subject else ""
    return f"Event {one_line(event.type)}{about}"


def advice(event: Event) -> tuple[tuple[str, str], ...]:
    """How to fix it, who can, and what sending it again does, as (label, text); empty where nothing is known of it."""
    hint = _mapping(_data(event.document()).get("hint"))
    found = [
        ("How to fix it", without_addresses(hint.get("fix"))),
        ("Who can fix it", without_addresses(hint.get("who"))),
        ("Sending it again", _repeat(hint.get("repeat"), job_event_kind(event.type))),
    ]
    return tuple((label, text) for label, text in found if text)


def facts(event: Event, context: Context) -> tuple[tuple[str, str], ...]:
    """What a person needs to find the event again, as (label, text)."""
    document = event.document()
    data = _data(document)
    moment = one_line(document.get("time"))
    found = [
        ("Job", one_line(document.get("subject") if job_event_kind(event.type) else data.get("job"), 200)),
        ("Account", _account(document.get("account") or data.get("account"), context)),
        ("Time", re.sub(r"^(.{10})T(.{8})\.\d{3}Z$", r"\1 \2 UTC", moment)),
        ("Sequence", str(event.sequence or "")),
        ("Request", one_line(data.get("request_id"))),
        ("Event", one_line(event.id)),
    ]
    return tuple((label, text) for label, text in found if text)


def job_event_kind(event_type: str) -> str | None:
    """The member of JOB_EVENTS that this type is of; None for any other type."""
    kind = event_type.rpartition(".job.")[2]
    return kind if kind in JOB_EVENTS and kind != event_type else None


def one_line(value: object, limit_characters: int = TEXT_CHARACTERS) -> str:
    """Text on one line, without what does not show, cut with an ellipsis; empty for all that is no text."""
    if not isinstance(value, str):
        return ""
    text = _UNSEEN.sub(" ", value[: 4 * limit_characters]).strip()
    return text if len(text) <= limit_characters else text[: limit_characters - 1].rstrip() + "…"


def without_addresses(value: object) -> str:
    """One line of someone else's text in which e-mail addresses, phone numbers and URLs are gone."""
    return _ADDRESS.sub("…", one_line(value))


def _what(document: Document) -> str:
    """`LinkedIn outreach to Alex`, or `LinkedIn outreach (job 3f2a9c1e…)` where the user gave no name."""
    channel = one_line(document.get("channel"), _WORD_CHARACTERS)
    segments = one_line(document.get("action"), 2 * _WORD_CHARACTERS).replace("_", " ").split(".")
    sent_to_someone = segments[-1] == "dispatch" and len(segments) > 1
    if channel:
        action = segments[0] if sent_to_someone else segments[-1]
    else:
        action = " ".join(segments[:-1] if sent_to_someone else segments)
    words = f"{_pretty(channel)} {action.strip() or 'job'}".strip()
    words = words[0].upper() + words[1:]
    name = _recipient_name(document)
    if name:
        return f"{words} {'to' if sent_to_someone else 'for'} {name}"
    job_id = one_line(document.get("subject"), 200)
    short = job_id if len(job_id) <= _SHORT_ID_CHARACTERS + 4 else job_id[:_SHORT_ID_CHARACTERS] + "…"
    return f"{words} (job {short})"


def _recipient_name(document: Document) -> str:
    """The name that the user gave; empty where there is none, or where it is rather an address."""
    metadata = _mapping(_data(document).get("metadata"))
    for field in ("recipient_name", "name"):
        name = one_line(metadata.get(field), NAME_CHARACTERS)
        if name and not _ADDRESS.search(name):
            return name
    return ""


def _because(document: Document) -> str:
    """`: the account needs reconnecting`, from the hint; empty without one."""
    meaning = without_addresses(_mapping(_data(document).get("hint")).get("meaning")).rstrip(".! ")
    if not meaning:
        return ""
    channel = _pretty(one_line(document.get("channel"), _WORD_CHARACTERS))
    if channel:
        meaning = meaning.replace(f"The {channel} ", "The ", 1)  # the sentence begins with it already
    first = meaning.split()[0]
    proper = any(letter.isupper() for letter in first[1:]) or first.lower() in str(document.get("source")).lower()
    return f": {meaning if proper or first == 'I' else meaning[0].lower() + meaning[1:]}"


def _succeeded(document: Document, what: str) -> str:
    status = document.get("resultstatus")
    if status != "skipped":
        return f"{what} was accepted"
    action = str(document.get("action")).rpartition(".")[2]
    return f"{what} found no fitting post, nothing was liked" if action == "post_like" else f"{what} had nothing to do"


def _repeat(repeat: object, kind: str | None) -> str:
    if kind == "retrying":
        return "is not needed: it is tried again by itself"
    if kind in _OPEN and repeat == "may_send_twice":
        return "could reach the person twice: the job is still open"
    return _REPEAT.get(repeat, "") if isinstance(repeat, str) and kind is not None else ""


_OPEN = ("overdue", "status_unknown")
_REPEAT: Mapping[str, str] = {
    "safe": "is safe once that is done: nothing was sent",
    "useless": "fails again until that is done",
    "may_send_twice": "could reach the person twice: check first whether it was sent",
}


def _retrying(document: Document, what: str) -> str:
    again = "was tried again" if _data(document).get("inferred") is True else "will be tried again"
    return f"{what} failed an attempt and {again}{_because(document)}"


def _status_unknown(document: Document, what: str) -> str:
    status = without_addresses(document.get("status"))
    return f"{what} has a status that the relay does not know: “{status}”. The relay goes on polling"


_JOB_SENTENCES: Mapping[str, Callable[[Document, str], str]] = {
    "queued": lambda _, what: f"{what} is queued",
    "scheduled": lambda _, what: f"{what} is scheduled",
    "running": lambda _, what: f"{what} is running",
    "succeeded": _succeeded,
    "failed": lambda document, what: f"{what} failed{_because(document)}",
    "cancelled": lambda document, what: f"{what} was cancelled{_because(document)}",
    "retrying": _retrying,
    "overdue": lambda _, what: f"{what} has not ended by its deadline: the relay goes on polling, less often",
    "not_found": lambda _, what: f"{what} was not found: the upstream does not know it, so its end will not be seen",
    "status_unknown": _status_unknown,
}


def _unauthorized(data: Document, context: Context) -> str:
    return f"{_source(data)} refuses the API key of {_whose(data, context)}{_why(data)}"


def _down(data: Document, context: Context) -> str:
    waiting = data.get("open_jobs")
    jobs = ""
    if isinstance(waiting, int) and waiting:
        jobs = ". 1 open job waits" if waiting == 1 else f". {waiting} open jobs wait"
    return f"{_source(data)} does not answer for {_whose(data, context)}{_why(data)}{jobs}"


def _source_recovered(data: Document, context: Context) -> str:
    return f"{_source(data)} answers again for {_whose(data, context)}"


def _disabled(data: Document, _: Context) -> str:
    return f"Subscription {_subscription(data)} was disabled{_why(data)}. Its events are kept until it is enabled again"


def _recovered(data: Document, _: Context) -> str:
    return f"Subscription {_subscription(data)} takes events again"


def _expired(data: Document, _: Context) -> str:
    attempts = data.get("attempts")
    tries = f" after {attempts} attempt{'' if attempts == 1 else 's'}" if isinstance(attempts, int) else ""
    last = without_addresses(data.get("last_error")) or without_addresses(data.get("reason"))
    event = f"{one_line(data.get('event_type'))} event to subscription {one_line(data.get('subscription'))}"
    return f"Delivery of one {event} was given up{tries}" + (f": {last}" if last else "")


def _test(data: Document, _: Context) -> str:
    return without_addresses(data.get("message")).rstrip(".") or "This is a test of the relay"


_RELAY_SENTENCES: Mapping[str, Callable[[Document, Context], str]] = {
    "relay.source.unauthorized": _unauthorized,
    "relay.source.down": _down,
    "relay.source.recovered": _source_recovered,
    "relay.subscription.disabled": _disabled,
    "relay.subscription.recovered": _recovered,
    "relay.delivery.expired": _expired,
    "relay.test": _test,
}


def _source(data: Document) -> str:
    return _pretty(one_line(data.get("source"), _WORD_CHARACTERS)) or "The upstream"


def _whose(data: Document, context: Context) -> str:
    return f"account {_account(data.get('account'), context) or 'default'}"


def _account(value: object, context: Context) -> str:
    name = one_line(value, NAME_CHARACTERS)
    return one_line(context.account_names.get(name), NAME_CHARACTERS) or name


def _subscription(data: Document) -> str:
    return f"{one_line(data.get('subscription'))} to {redacted_url(one_line(data.get('sink')))}"


def _why(data: Document) -> str:
    reason = without_addresses(data.get("reason")).rstrip(".! ")
    return f": {reason}" if reason else ""


def _pretty(word: str) -> str:
    return _BRANDS.get(word.lower(), word[:1].upper() + word[1:])


def _data(document: Document) -> Document:
    return _mapping(document.get("data"))


def _mapping(value: object) -> Document:
    return value if isinstance(value, Mapping) else {}
