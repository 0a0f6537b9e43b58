"""Events of one job, or of one create, in words."""

import re
from collections.abc import Callable, Mapping, Sequence

from relay.core.events.event import CREATE_UNKNOWN, RELAY_SOURCE, Event, job_event_kind
from relay.core.events.sentences import continued, titled, words_of
from relay.redaction import split_url
from subscribers.wording.text import (
    NAME_CHARACTERS,
    WORD_CHARACTERS,
    Document,
    Pairs,
    data_of,
    has_address,
    mapping,
    name,
    one_line,
    without_addresses,
    word,
)

MAX_METADATA = 5
"""Maximum number of metadata fields in a message."""
WITH_REASON = ("failed", "cancelled", "retrying", "not_found")
"""Members of JOB_EVENTS whose sentence gives a reason."""
_VALUE_CHARACTERS = 200
_SHORT_ID_CHARACTERS = 8

# Without `metadata_keys` a field is shown only if its key does not suggest a person, a message text or a credential:
# `company_name` and `owner` are shown, `first_name` and `recipient` are not.
_PRIVATE_KEY = re.compile(
    r"(?:(?:recipient|contact|person|people|prospect|lead|candidate|to|first|last|full|middle|given|family|nick|user)_?)*"
    r"name|sur_?name|to|(?:recipient|contact|person|prospect|candidate).*"
    r"|.*(?:e_?mail|phone|mobile|whatsapp|linkedin|profile|address).*"
    r"|(?:.*_)?(?:text|message|body|content|html|subject|note|notes)"
    r"|.*(?:token|secret|password|passwd|credential|authorization|cookie|api_?key|private_?key).*"
)

_NAMES = ("recipient_name", "name", "full_name", "contact_name", "person_name")
"""Keys of metadata for the name of the person whom a job is about."""

_LINK = re.compile(r"https?://[!-;=?-{}~]{1,1500}", re.IGNORECASE)  # visible ASCII except `<`, `>` and `|`
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)


def job_kind(event: Event) -> str | None:
    """The member of JOB_EVENTS that an event is of; None for others, and for published ones."""
    return None if event.published else job_event_kind(event.type)


def job_sentence(kind: str, document: Document, search_keys: Sequence[str] = (), *, reason: bool = True) -> str:
    """The event of a job in one sentence without the full stop. `search_keys`: see `named`; `reason`: with the
    reason that its hint gives."""
    if not reason:
        document = {**document, "data": {**data_of(document), "hint": None}}
    return _SENTENCES[kind](document, _what(document, search_keys))


def sending_again(kind: str, data: Document) -> str:
    """The effect of sending the create of a job again; empty if nothing is known."""
    repeat = mapping(data.get("hint")).get("repeat")
    if kind == "retrying":
        return "" if data.get("inferred") is True else "not needed, because it is tried again by itself"
    if kind in _OPEN and repeat == "may_send_twice":
        return "could run it twice, because the job is still open"
    return REPEAT.get(repeat, "") if isinstance(repeat, str) else ""


def job_details(event: Event, metadata_keys: Sequence[str] | None) -> Pairs:
    """The job's metadata and sending account, or the data of a published event, as (label, text).

    metadata_keys  the fields that the subscription selects; None: the first that say nothing about a person
    """
    if not _has_user_metadata(event):
        return ()
    document = event.document()
    metadata = metadata_of(document)
    if event.published:
        metadata = {**metadata, **{key: value for key, value in data_of(document).items() if key not in metadata}}
    if metadata_keys is None:
        shown = [(key, text) for key, value in metadata.items() if (text := _public_text(key, value))]
    else:
        shown = [(key, text) for key in metadata_keys if (text := _scalar_text(metadata.get(key)))]
    found = [(_label(key), text) for key, text in shown[:MAX_METADATA]]
    if not event.published:
        found.append(("Sending account", sending_account(data_of(document))))
    return tuple((label, text) for label, text in found if text)


def metadata_link(event: Event) -> str | None:
    """The http(s) URL in the metadata field `url`, if it has no characters that are chat markup."""
    url = metadata_of(event.document()).get("url") if _has_user_metadata(event) else None
    if not isinstance(url, str) or not _LINK.fullmatch(url):
        return None
    parts = split_url(url)
    return None if parts is None or "@" in parts.netloc else url


def sending_account(data: Document) -> str:
    """The id of the sending connected account, if it is known and looks like an id."""
    result = mapping(mapping(data.get("job")).get("result"))
    id = word(data.get("connect_account_id") or result.get("account_id"))
    return id if _ACCOUNT_ID.fullmatch(id) else ""


def reason_of(document: Document) -> str:
    """`: the account needs reconnecting`, from the hint of a job's event; empty without one."""
    meaning = without_addresses(mapping(data_of(document).get("hint")).get("meaning")).rstrip(".! ")
    if not meaning:
        return ""
    channel = titled(word(document.get("channel")))
    if channel:
        meaning = meaning.replace(f"The {channel} ", "The ", 1)  # the sentence already begins with it
    upstream = f"{document.get('source')} {_before_noun(document.get('type'))}"  # an address may not tell
    return f": {continued(meaning, upstream)}"


def _has_user_metadata(event: Event) -> bool:
    """True for events with user metadata: those of a job or a create, and published ones."""
    of_create = event.source == RELAY_SOURCE and event.type == CREATE_UNKNOWN
    return of_create or event.published or job_event_kind(event.type) is not None


def _what(document: Document, search_keys: Sequence[str]) -> str:
    """`LinkedIn outreach to Alex`, or `LinkedIn outreach (job 3f2a9c1e…)` without a name."""
    words, sent_to_someone = activity(document)
    if person := whom(document, search_keys, sent="to" if sent_to_someone else "for"):
        return f"{words}{person}"
    job_id = one_line(document.get("subject"), 200)
    short = job_id if len(job_id) <= _SHORT_ID_CHARACTERS + 4 else job_id[:_SHORT_ID_CHARACTERS] + "…"
    return f"{words} (job {short})"


def _noun(event_type: object) -> str:
    """`job` for `ai.revor.job.failed`, `webset` for `ai.revor.webset.failed`."""
    return word(str(event_type).rpartition(".")[0].rpartition(".")[2]) or "job"


def whom(document: Document, search_keys: Sequence[str], *, sent: str = "to") -> str:
    """` to Alex` or ` for deal 42`, as `about_of` finds them; empty if it finds nothing. `sent`: the preposition of a
    person."""
    found, key = _named(document, search_keys)
    return f" {sent if key is None else 'for'} {_with_key(found, key)}" if found else ""


def about_of(document: Document, search_keys: Sequence[str]) -> str:
    """The person or thing of a job's metadata; a number with its key, such as `deal 42`. Empty if there is neither."""
    return _with_key(*_named(document, search_keys))


def _with_key(found: str, key: str | None) -> str:
    return f"{word(key.replace('_', ' '))} {found}" if key is not None and found.isdigit() else found


def _named(document: Document, search_keys: Sequence[str]) -> tuple[str, str | None]:
    """The person that a job is about, by the name in the user's metadata, and None; else what it is about, by the first
    of the keys that jobs are searched by, and this key. Empty if there is neither, or it looks like an address."""
    metadata = metadata_of(document)
    first_and_last = [one_line(metadata.get(key), NAME_CHARACTERS) for key in ("first_name", "last_name")]
    names = [*(one_line(metadata.get(key), NAME_CHARACTERS) for key in _NAMES), " ".join(filter(None, first_and_last))]
    if person := next((one for one in names if one and not has_address(one)), ""):
        return person, None
    for key in search_keys:
        text = _scalar_text(metadata.get(key))
        if text and (_DIGITS.fullmatch(text) or not has_address(text)) and (found := name(text)):
            return found, key
    return "", None


def activity(document: Document) -> tuple[str, bool]:
    """What a job does, such as `LinkedIn outreach`, and whether it is sent to a person."""
    channel = word(document.get("channel"))
    segments = one_line(document.get("action"), 2 * WORD_CHARACTERS).replace("_", " ").split(".")
    sent_to_someone = segments[-1] == "dispatch" and len(segments) > 1
    if channel:
        action = segments[0] if sent_to_someone else segments[-1]
    else:
        action = " ".join(segments[:-1] if sent_to_someone else segments)
    words = f"{titled(channel)} {action.strip() or _noun(document.get('type'))}".strip()
    return words[0].upper() + words[1:], sent_to_someone


def metadata_of(document: Document) -> Document:
    """The metadata of the registration, and those of the create that it does not override."""
    data = data_of(document)
    given, of_create = mapping(data.get("metadata")), mapping(mapping(data.get("request")).get("metadata"))
    return {**given, **{key: value for key, value in of_create.items() if key not in given}}


def _public_text(key: str, value: object) -> str:
    """An unselected metadata value as text; empty if it may say something about a person, or is the link."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", key).strip("_").lower()
    text = _scalar_text(value)
    if words == "url" or _PRIVATE_KEY.fullmatch(words) or has_address(key):
        return ""
    return text if _DIGITS.fullmatch(text) or not has_address(text) else ""


def _scalar_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)[:WORD_CHARACTERS] if isinstance(value, int | float) else one_line(value, _VALUE_CHARACTERS)


def _label(key: str) -> str:
    words = word(key.replace("_", " "))
    return words[:1].upper() + words[1:] or "-"


def _before_noun(event_type: object) -> str:
    """`ai.revor` for `ai.revor.job.failed`."""
    return ".".join(str(event_type).split(".")[:-2])


def _succeeded(document: Document, what: str) -> str:
    status = document.get("resultstatus")
    if status != "skipped":
        return f"{what} was {'completed' if str(document.get('type')).endswith('.completed') else 'accepted'}"
    action = str(document.get("action")).rpartition(".")[2]
    return f"{what} found no fitting post, nothing was liked" if action == "post_like" else f"{what} had nothing to do"


_OPEN = ("overdue", "status_unknown")
REPEAT: Mapping[str, str] = {
    "safe": "safe once this is fixed, because nothing was done",
    "useless": "would fail until this is fixed",
    "may_send_twice": "could run it twice, so check first whether it was done",
}
"""The effect of sending the create of one job again, by what its hint says."""


def _retrying(document: Document, what: str) -> str:
    again = "was tried again" if data_of(document).get("inferred") is True else "will be tried again"
    return f"{what} failed an attempt and {again}{reason_of(document)}"


def _not_found(document: Document, what: str) -> str:
    because = reason_of(document) or ": the upstream does not know it"
    return f"{what} was not found, so its outcome stays unknown{because}"


def _status_unknown(document: Document, what: str) -> str:
    status = words_of(without_addresses(document.get("status")))
    return f"{what} has a status that the relay does not know: “{status}”. The relay goes on checking"


def _progress(document: Document, what: str) -> str:
    progress = mapping(data_of(document).get("progress"))
    percent, stage = progress.get("percent"), without_addresses(progress.get("stage"))
    at = f"is at {percent:.3g} %" if isinstance(percent, int | float) else "goes on"
    return f"{what} {at}{stage and f': {stage}'}"


_SENTENCES: Mapping[str, Callable[[Document, str], str]] = {
    "queued": lambda _, what: f"{what} is queued",
    "scheduled": lambda _, what: f"{what} is scheduled",
    "running": lambda _, what: f"{what} is running",
    "succeeded": _succeeded,
    "failed": lambda document, what: f"{what} failed{reason_of(document)}",
    "cancelled": lambda document, what: f"{what} was cancelled{reason_of(document)}",
    "retrying": _retrying,
    "overdue": lambda _, what: f"{what} has not ended by its deadline. The relay goes on checking, less often",
    "not_found": _not_found,
    "status_unknown": _status_unknown,
    "progress": _progress,
}
