"""An event in words: a sentence, advice, the job's metadata, and its ids. Plain text, which each chat kind escapes.

Shows the event's attributes, its hint and the user's metadata. Of the upstream item only the sending account's id is
read: the rest may hold a recipient's address or the text of a message.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.core.events import CREATE_UNKNOWN, RELAY_SOURCE, Event
from relay.core.job import JOB_EVENTS
from relay.redaction import redacted_url, split_url
from subscribers.base import RenderContext

Document = Mapping[str, Any]

NAME_CHARACTERS = 80
MAX_METADATA = 5
"""Maximum number of metadata fields in a message."""
TEXT_CHARACTERS = 500
DEFAULT_ACCOUNT = "default"
_WORD_CHARACTERS = 60
_VALUE_CHARACTERS = 200
_SHORT_ID_CHARACTERS = 8

_BRANDS = {"linkedin": "LinkedIn", "whatsapp": "WhatsApp"}

# Control characters, direction marks and invisible characters.
_INVISIBLE = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]+"
)
_ADDRESS = re.compile(
    r"[^\s@]{1,100}@\S{1,200}"  # e-mail, @name
    r"|\b[a-z][a-z0-9+.-]{1,20}://\S{1,500}|\bwww\.\S{1,500}|\b[\w-]{1,60}(?:\.[\w-]{1,60}){1,4}/\S{0,500}"  # URLs
    r"|(?<![\w-])\+?(?!\d{4}-\d\d-\d\d)\(?\d[\d ().-]{6,40}\d",  # phone numbers
    re.IGNORECASE,
)

# Without `metadata_keys` a field is shown only if its key does not suggest a person, a message text or a credential:
# `company_name` and `owner` are shown, `first_name` and `recipient` are not.
_PRIVATE_KEY = re.compile(
    r"(?:(?:recipient|contact|person|people|prospect|lead|candidate|to|first|last|full|middle|given|family|nick|user)_?)*"
    r"name|sur_?name|to|(?:recipient|contact|person|prospect|candidate).*"
    r"|.*(?:e_?mail|phone|mobile|whatsapp|linkedin|profile|address).*"
    r"|(?:.*_)?(?:text|message|body|content|html|subject|note|notes)"
    r"|.*(?:token|secret|password|passwd|credential|authorization|cookie|api_?key|private_?key).*"
)
_LINK = re.compile(r"https?://[!-;=?-{}~]{1,1500}", re.IGNORECASE)  # visible ASCII except `<`, `>` and `|`
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)


def sentence(event: Event, context: RenderContext) -> str:
    """What happened, in one sentence without the full stop."""
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
    """How to fix it, who can, and whether to send again, as (label, text); empty if nothing is known."""
    data = _data(event.document())
    hint = _mapping(data.get("hint"))
    fix = without_addresses(hint.get("fix"))
    if not fix and event.source == RELAY_SOURCE and event.type in _RELAY_FIXES:
        fix = _RELAY_FIXES[event.type](data)
    found = [
        ("How to fix it", fix),
        ("Who can fix it", without_addresses(hint.get("who"))),
        (
            "Sending it again",
            _repeat(hint.get("repeat"), job_event_kind(event.type), over=data.get("inferred") is True),
        ),
    ]
    return tuple((label, text) for label, text in found if text)


def job_details(event: Event, metadata_keys: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """The job's metadata, channel and sending account, as (label, text).

    metadata_keys  the metadata fields that the subscription selects; None: the first that say nothing about a person
    """
    if not _has_user_metadata(event):
        return ()
    document = event.document()
    metadata = _metadata(document)
    if metadata_keys is None:
        shown = [(key, text) for key, value in metadata.items() if (text := _public_text(key, value))]
    else:
        shown = [(key, text) for key in metadata_keys if (text := _scalar_text(metadata.get(key)))]
    found = [(_label(key), text) for key, text in shown[:MAX_METADATA]]
    found += [
        ("Channel", _pretty(one_line(document.get("channel") or _data(document).get("channel"), _WORD_CHARACTERS))),
        ("Sending account", _sending_account(_data(document))),
    ]
    return tuple((label, text) for label, text in found if text)


def link(event: Event) -> str | None:
    """The http(s) URL in the metadata field `url`, if it has no characters that are chat markup."""
    url = _metadata(event.document()).get("url") if _has_user_metadata(event) else None
    if not isinstance(url, str) or not _LINK.fullmatch(url):
        return None
    parts = split_url(url)
    return None if parts is None or "@" in parts.netloc else url


def _has_user_metadata(event: Event) -> bool:
    """True for events with user metadata: those of a job or a create."""
    return job_event_kind(event.type) is not None or (event.source == RELAY_SOURCE and event.type == CREATE_UNKNOWN)


def facts(event: Event, context: RenderContext) -> tuple[tuple[str, str], ...]:
    """Where and when it happened, as (label, text)."""
    document = event.document()
    data = _data(document)
    name = one_line(document.get("account") or data.get("account"), NAME_CHARACTERS)
    moment = one_line(document.get("time"))
    found = [
        ("Job", one_line(document.get("subject") if job_event_kind(event.type) else data.get("job"), 200)),
        ("Relay account", "" if name == DEFAULT_ACCOUNT else _account(name, context)),
        ("Time", re.sub(r"^(.{10})T(.{8})\.\d{3}Z$", r"\1 \2 UTC", moment)),
    ]
    return tuple((label, text) for label, text in found if text)


def ids(event: Event) -> tuple[tuple[str, str], ...]:
    """The ids that support asks for, as (label, text): Revor's request id and the event id."""
    data = _data(event.document())
    found = [("Request", one_line(data.get("request_id"))), ("Event", one_line(event.id))]
    return tuple((label, text) for label, text in found if text)


def job_event_kind(event_type: str) -> str | None:
    """The member of JOB_EVENTS that an event type ends with; None for other types."""
    kind = event_type.rpartition(".job.")[2]
    return kind if kind in JOB_EVENTS and kind != event_type else None


def one_line(value: object, limit_characters: int = TEXT_CHARACTERS) -> str:
    """Text on one line without invisible characters, truncated with an ellipsis; empty if it is not text."""
    if not isinstance(value, str):
        return ""
    text = _INVISIBLE.sub(" ", value[: 4 * limit_characters]).strip()
    return text if len(text) <= limit_characters else text[: limit_characters - 1].rstrip() + "…"


def without_addresses(value: object) -> str:
    """One line of third-party text without e-mail addresses, phone numbers and URLs."""
    return _ADDRESS.sub("…", one_line(value))


def _what(document: Document) -> str:
    """`LinkedIn outreach to Alex`, or `LinkedIn outreach (job 3f2a9c1e…)` without a name."""
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
    """The name in the user's metadata; empty if there is none or it looks like an address."""
    metadata = _metadata(document)
    for field in ("recipient_name", "name"):
        name = one_line(metadata.get(field), NAME_CHARACTERS)
        if name and not _ADDRESS.search(name):
            return name
    return ""


def _metadata(document: Document) -> Document:
    """The metadata of the registration, and those of the create that it does not override."""
    data = _data(document)
    given, of_create = _mapping(data.get("metadata")), _mapping(_mapping(data.get("request")).get("metadata"))
    return {**given, **{key: value for key, value in of_create.items() if key not in given}}


def _public_text(key: str, value: object) -> str:
    """An unselected metadata value as text; empty if it may say something about a person, or is the link."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", key).strip("_").lower()
    text = _scalar_text(value)
    if words == "url" or _PRIVATE_KEY.fullmatch(words) or _ADDRESS.search(key):
        return ""
    return text if _DIGITS.fullmatch(text) or not _ADDRESS.search(text) else ""


def _scalar_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)[:_WORD_CHARACTERS] if isinstance(value, int | float) else one_line(value, _VALUE_CHARACTERS)


def _label(key: str) -> str:
    words = one_line(key.replace("_", " "), _WORD_CHARACTERS)
    return words[:1].upper() + words[1:] or "-"


def _sending_account(data: Document) -> str:
    """The id of the sending connected account, if it is known and looks like an id."""
    result = _mapping(_mapping(data.get("job")).get("result"))
    id = one_line(data.get("connect_account_id") or result.get("account_id"), _WORD_CHARACTERS)
    return id if _ACCOUNT_ID.fullmatch(id) else ""


def _upstream(event_type: object) -> str:
    """`Revor` for `ai.revor.job.failed`."""
    source = event_type.rpartition(".job.")[0].rpartition(".")[2] if isinstance(event_type, str) else ""
    return _pretty(one_line(source, _WORD_CHARACTERS)) or "The upstream"


def _because(document: Document) -> str:
    """`: the account needs reconnecting`, from the hint; empty without one."""
    meaning = without_addresses(_mapping(_data(document).get("hint")).get("meaning")).rstrip(".! ")
    if not meaning:
        return ""
    channel = _pretty(one_line(document.get("channel"), _WORD_CHARACTERS))
    if channel:
        meaning = meaning.replace(f"The {channel} ", "The ", 1)  # the sentence already begins with it
    return f": {_continued(meaning, document.get('source'))}"


def _continued(text: str, source: object) -> str:
    """A sentence as the second half of another one: in lower case unless it begins with a name."""
    first = text.split()[0]
    proper = any(letter.isupper() for letter in first[1:]) or first.lower() in str(source).lower()
    return text if proper or first == "I" else text[0].lower() + text[1:]


def _succeeded(document: Document, what: str) -> str:
    status = document.get("resultstatus")
    if status != "skipped":
        return f"{what} was accepted"
    action = str(document.get("action")).rpartition(".")[2]
    return f"{what} found no fitting post, nothing was liked" if action == "post_like" else f"{what} had nothing to do"


def _repeat(repeat: object, kind: str | None, *, over: bool) -> str:
    if kind == "retrying" and over:
        return ""
    if kind == "retrying":
        return "is not needed: it is tried again by itself"
    if kind in _OPEN and repeat == "may_send_twice":
        return "could reach the person twice: the job is still open"
    return _REPEAT.get(repeat, "") if isinstance(repeat, str) and kind is not None else ""


_OPEN = ("overdue", "status_unknown")
_REPEAT: Mapping[str, str] = {
    "safe": "is safe once this is fixed: nothing was sent",
    "useless": "fails again until this is fixed",
    "may_send_twice": "could reach the person twice: check first whether it was sent",
}


def _retrying(document: Document, what: str) -> str:
    again = "was tried again" if _data(document).get("inferred") is True else "will be tried again"
    return f"{what} failed an attempt and {again}{_because(document)}"


def _not_found(document: Document, what: str) -> str:
    because = _because(document) or f": {_upstream(document.get('type'))} does not know it"
    return f"{what} was not found, so its end will not be seen{because}"


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
    "not_found": _not_found,
    "status_unknown": _status_unknown,
}


def _unauthorized(data: Document, context: RenderContext) -> str:
    return f"{_source(data)} refuses the API key{_of_account(data, context)}{_why(data)}{_waiting(data)}"


def _down(data: Document, context: RenderContext) -> str:
    said = f"{_source(data)} does not answer"
    why = "" if _mapping(data.get("hint")).get("meaning") == said else _why(data)
    return f"{said}{_for_account(data, context)}{why}{_waiting(data)}"


def _source_recovered(data: Document, context: RenderContext) -> str:
    return f"{_source(data)} answers again{_for_account(data, context)}"


def _waiting(data: Document) -> str:
    waiting = data.get("open_jobs")
    if not isinstance(waiting, int) or not waiting:
        return ""
    return ". 1 open job waits" if waiting == 1 else f". {waiting} open jobs wait"


def _disabled(data: Document, _: RenderContext) -> str:
    reason = without_addresses(data.get("reason")).rstrip(".! ")
    because = f": {reason}" if reason else ""
    return f"Subscription {_subscription(data)} was disabled{because}. Its events are kept until it is enabled again"


def _recovered(data: Document, _: RenderContext) -> str:
    return f"Subscription {_subscription(data)} takes events again"


def _expired(data: Document, _: RenderContext) -> str:
    attempts = data.get("attempts")
    tries = f" after {attempts} attempt{'' if attempts == 1 else 's'}" if isinstance(attempts, int) else ""
    last = without_addresses(data.get("last_error")) or without_addresses(data.get("reason"))
    type = one_line(data.get("event_type"))
    event = f"{job_event_kind(type) or type} event to subscription {one_line(data.get('subscription'))}"
    return f"Delivery of one {event} was given up{tries}" + (f": {last}" if last else "")


_LOST = {
    "no_answer": "{upstream} gave no answer",
    "server_error": "{upstream} answered with an error that proves nothing",
    "unreadable": "{upstream} took it, and its answer names no job",
    "cut_off": "the relay ended before an answer came",
}


def _create_unknown(data: Document, context: RenderContext) -> str:
    channel = _pretty(one_line(data.get("channel"), _WORD_CHARACTERS))
    what = f"{channel} message" if channel else "request"
    why = _LOST.get(str(data.get("cause")), "").format(upstream=_source(data))
    return f"It is unknown whether a {what}{_for_account(data, context)} was sent" + (f": {why}" if why else "")


def _test(data: Document, _: RenderContext) -> str:
    return without_addresses(data.get("message")).rstrip(".") or "This is a test of the relay"


_RELAY_SENTENCES: Mapping[str, Callable[[Document, RenderContext], str]] = {
    "relay.source.unauthorized": _unauthorized,
    "relay.source.down": _down,
    "relay.source.recovered": _source_recovered,
    "relay.subscription.disabled": _disabled,
    "relay.subscription.recovered": _recovered,
    "relay.delivery.expired": _expired,
    "relay.create.unknown": _create_unknown,
    "relay.test": _test,
}


def _create_fix(data: Document) -> str:
    if data.get("idempotency_key_given") is True:
        return "Send the same request again with the same Idempotency-Key: that is safe"
    check = f"Check in {_source(data)} whether it went out, and send it again only if it did not"
    intent = one_line(data.get("intent"), _WORD_CHARACTERS)
    return f"{check}. Then run: relay intents resolve {intent} --fate sent (or not_sent)" if intent else check


_RELAY_FIXES: Mapping[str, Callable[[Document], str]] = {
    "relay.create.unknown": _create_fix,
    "relay.subscription.disabled": lambda data: _command("relay subscriptions resume", data.get("subscription")),
    "relay.delivery.expired": lambda data: _command("relay deliveries retry", data.get("delivery")),
}


def _command(command: str, id: object) -> str:
    id = one_line(id, _WORD_CHARACTERS)
    return f"Fix the receiver, then run: {command} {id}" if id else ""


def _source(data: Document) -> str:
    return _pretty(one_line(data.get("source"), _WORD_CHARACTERS)) or "The upstream"


def _of_account(data: Document, context: RenderContext) -> str:
    return f" of account {_account(data.get('account'), context) or DEFAULT_ACCOUNT}"


def _for_account(data: Document, context: RenderContext) -> str:
    return f" for account {_account(data.get('account'), context) or DEFAULT_ACCOUNT}"


def _account(value: object, context: RenderContext) -> str:
    name = one_line(value, NAME_CHARACTERS)
    return one_line(context.account_names.get(name), NAME_CHARACTERS) or name


def _subscription(data: Document) -> str:
    return f"{one_line(data.get('subscription'))} to {redacted_url(one_line(data.get('sink')))}"


def _why(data: Document) -> str:
    """The meaning of the error, else the reason in the event."""
    hint = _mapping(data.get("hint"))
    meaning = (without_addresses(hint.get("meaning")) or without_addresses(data.get("reason"))).rstrip(".! ")
    return f": {_continued(meaning, data.get('source'))}" if meaning else ""


def _pretty(word: str) -> str:
    return _BRANDS.get(word.lower(), word[:1].upper() + word[1:])


def _data(document: Document) -> Document:
    return _mapping(document.get("data"))


def _mapping(value: object) -> Document:
    return value if isinstance(value, Mapping) else {}
