"""The common part of the CRMs: the person of an event, the content of a record, and the policy for strangers.

`Crm` is the kind, `common_errors` checks the settings that all have. Texts come from
`chat.message`, as chats show them; a record may be HTML, in which everything but our own markup is escaped. Identities
are read from the user's metadata and from what was captured of the create, never from the upstream's item.
"""

import hashlib
import html
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome
from relay.core.deliveries.dialogue import Memory, Step, previewed
from relay.core.events.event import RELAY_EVENTS, Event, Origin, account_event_kind
from relay.core.jobs.job import Recipient
from relay.core.jsontext import dumps
from relay.core.samples import SAMPLE_JOB_ID, SAMPLE_SUBJECT
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError, NotRenderable, Unreadable
from relay.redaction import split_url
from subscribers import base
from subscribers.base import RenderContext
from subscribers.common import chat, templates
from subscribers.common.options import CrmOptions
from subscribers.wording import heading, own_link
from subscribers.wording.jobs import metadata_of
from subscribers.wording.text import Pairs

PLACEHOLDER = re.compile(r"\{[a-z_.]{1,40}\}")
"""In a preview, in place of a value that only an answer, or a create, tells."""

_KEY_CHARACTERS = 12
_KINDS = ("succeeded", "failed", "cancelled", "not_found")
_EMAIL = re.compile(r"[^\s@<>\"(),:;\\\x00-\x1f\x7f]{1,64}@[^\s@<>\"(),:;\\\x00-\x1f\x7f]{1,190}")
_PHONE = re.compile(r"\+?[0-9][0-9 ().-]{5,30}[0-9]")
_URL = re.compile(r"https?://[^\s\"<>\\\x00-\x1f\x7f]{4,300}")
_STRANGERS = {
    "skip": "Events about people whom {} does not know are skipped, and counted.",
    "create": "For events about people whom {} does not know, it makes a record where it can.",
    "fail": "Events about people whom {} does not know are dead, and an event reports each.",
}


class Crm(base.Kind):
    """A kind that writes to a CRM, always by a dialogue. Not signed: no CRM reads a signature."""

    family = "CRMs"
    by_name: base.ByName
    rate_per_second = 5.0
    timeout_seconds = 30.0
    """Of a whole dialogue. Without time for the write after slow look-ups, each attempt would end alike; and a write
    that is cut short costs a question."""

    def default_types(self, origins: Sequence[Origin]) -> tuple[str, ...] | None:
        """The ends of jobs."""
        return tuple(dict.fromkeys(origin.type_of(kind) for origin in origins for kind in _KINDS))

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """A record for each event, and the policy for those about strangers."""
        options = self.options.stored(shown.get("config") or {})
        assert isinstance(options, CrmOptions)
        strangers = _STRANGERS[options.unmatched or "skip"].format(self.title)
        return f"{self.title} gets {self.records(options)} for {base.events_of(shown)}. {strangers}"

    @abstractmethod
    def records(self, options: Any) -> str:
        """The records of an event, in words."""

    def render(self, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        """Never called: a dialogue renders."""
        raise NotImplementedError

    def wants_recipient(self, subscription: Subscription) -> bool:
        """True: the recipient of a create is looked up where the metadata name no person."""
        return True

    def names_person(self, subscription: Subscription) -> Callable[[Event], bool] | None:
        """By whether a delivery begins with a request, where events that name no person are skipped."""
        asked = replace(subscription, options={**subscription.options, "unmatched": "skip"})
        dialogue = self.dialogue(asked)
        assert dialogue is not None
        steps = dialogue.steps

        def names(event: Event) -> bool:
            try:
                return bool(previewed(steps(event, asked, RenderContext(), {}, 0.0), most=1))
            except (NotRenderable, Unreadable):  # by a template, which an event that names no person does not need
                return True

        return names


@dataclass
class Attempt:
    """One attempt to deliver an event: the arguments of `Dialogue.steps`."""

    event: Event
    subscription: Subscription
    context: RenderContext
    memory: Memory
    now: float

    def __post_init__(self) -> None:
        """For the parts that a kind adds."""

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.event, self.subscription)


def step(
    subscription: Subscription,
    path: str,
    name: str,
    expected: Any,
    document: Mapping[str, Any] | None = None,
    *,
    method: str = "",
    headers: Sequence[tuple[str, str]] = (),
    remember: Memory | None = None,
    share: Memory | None = None,
) -> Step:
    """A request to the API of a CRM, as a step of a delivery. All are private: URLs, bodies and answers may contain
    personal data. `method`: by default POST with a document, else GET."""
    request = OutboundRequest(
        url=subscription.sink.rstrip("/") + path,
        method=method or ("GET" if document is None else "POST"),
        headers=(*headers, *((("Content-Type", "application/json"),) if document is not None else ())),
        body=b"" if document is None else dumps(dict(document)),
    )
    return Step(request=request, name=name, expected=dumps(expected), remember=remember, share=share, private=True)


# --- the person


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The person of an event: ids of the CRM, then the addresses to search by."""

    ids: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    email: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    profile_url: str | None = field(default=None, repr=False)


def identity(event: Event, context: RenderContext, ids: Mapping[str, re.Pattern[str]]) -> Identity:
    """The person of an event. `ids`: the metadata fields that hold ids of the CRM, and the form of these."""
    metadata = metadata_of(event.document())
    found = {name: id for name, pattern in ids.items() if (id := _id(metadata.get(name), pattern)) is not None}
    captured = context.recipient or Recipient()
    return Identity(
        ids=found,
        email=_fitting(_EMAIL, metadata.get("email")) or _captured(_EMAIL, captured.address),
        phone=_fitting(_PHONE, metadata.get("phone")) or _captured(_PHONE, captured.phone),
        profile_url=_fitting(_URL, metadata.get("profile_url")) or _captured(_URL, captured.profile_url),
    )


def _id(value: object, pattern: re.Pattern[str]) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if 0 < value < 10**18 else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if pattern.fullmatch(text) else None


def _fitting(pattern: re.Pattern[str], value: object) -> str | None:
    text = value.strip() if isinstance(value, str) and len(value) <= 320 else ""
    return text if pattern.fullmatch(text) else None


def _captured(pattern: re.Pattern[str], part: str | None) -> str | None:
    """A captured part, or its placeholder, which metadata cannot be."""
    return part if part is not None and PLACEHOLDER.fullmatch(part) else _fitting(pattern, part)


def not_matched(subscription: Subscription, why: str) -> Outcome:
    """The outcome if the CRM has no such contact, and none is created."""
    if CrmOptions.of(subscription).unmatched == "fail":
        return Outcome(verdict="dead", reason=why)
    return Outcome(verdict="skip", reason=why)


# --- a record


def key_of(event: Event, subscription: Subscription) -> str:
    """The text by which the relay finds a record again. Two subscriptions may write about the same event to one
    company, and one must not take the other's record for its own. Their ids may be alike, and one may begin with the
    other, so a digest of fixed length stands for the id."""
    digest = hashlib.sha256(subscription.id.encode("utf-8", "replace")).hexdigest()
    return f"{event.id}-{digest[:_KEY_CHARACTERS]}"


def message(event: Event, subscription: Subscription, context: RenderContext) -> chat.Message:
    """The parts of a record. A sample is written about a real person, so its sentence says that it is a sample."""
    shown = replace(chat.message(event, subscription, context), link=own_link(event))
    is_sample = event.subject in (SAMPLE_JOB_ID, SAMPLE_SUBJECT) and metadata_of(event.document()).get("sample") is True
    return replace(shown, sentence=f"This is a sample: {shown.sentence}") if is_sample else shown


def html_of(event: Event, subscription: Subscription, context: RenderContext) -> str:
    """An event as HTML, without the key line: the sentence in bold, advice and metadata, then place and ids."""
    shown = message(event, subscription, context)
    title = f"<b>{html.escape(shown.sentence)}</b>"
    if heading(event):
        title = f"<b>{html.escape(heading(event))}</b>: {html.escape(shown.below)}"
    lines = [title, *_lines(shown.pairs)]
    if shown.link is not None:
        url = html.escape(shown.link.url)
        lines.append(f'<a href="{url}">{url}</a>')
    lines.append(" · ".join(_lines((*shown.place, *(pair for pair in shown.ids if pair[0] != "Event")))))
    return "<br>".join(line for line in lines if line)


def with_key(markup: str, event: Event, subscription: Subscription, most_bytes: int) -> str:
    """HTML with the key as its last line. Raises NotRenderable if it is too long: cut markup would be shown wrongly."""
    found = f"{markup}<br>revor-relay {html.escape(key_of(event, subscription))}"
    if len(found.encode("utf-8", "replace")) > most_bytes:
        detail = f"the record is longer than {most_bytes:,} bytes: make the template shorter"
        raise NotRenderable([FieldError(pointer=templates.POINTER, code="too_long", detail=detail)])
    return found


def subject_of(event: Event, subscription: Subscription, context: RenderContext, most: int) -> str:
    """The sentence as plain text. `most`: UTF-16 code units."""
    return chat.fitted(message(event, subscription, context).sentence, most, lambda text: text)


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record: those of the template over the defaults. null removes one."""
    return {name: value for name, value in {**defaults, **given}.items() if value is not None}


def common_errors(subscription: Subscription, service: str, example: str) -> list[FieldError]:
    """An error for each setting that CRMs do not read, and for each wrong value of those that all of them have.
    `example`: a sink."""
    errors = base.chat_errors(
        subscription,
        service,
        credential="",
        handshake=f"{service} answers no handshake: the token proves consent",
        incidents=f"incidents are for chat kinds: {service} gets what became of each job",
    )
    parts = split_url(subscription.sink)
    if parts is None or parts.path not in ("", "/") or parts.query:
        errors.append(base.sink_unsuitable(f"use the base URL of {service} alone, without a path: {example}"))
    others = [one for one in subscription.types or () if _is_about_no_person(one)]
    if others:
        detail = (
            f"{', '.join(others)[:100]}: this is about no job, so about no person in {service}. Name types of jobs, or "
            "of events that programs publish with data.metadata"
        )
        errors.append(FieldError(pointer="/types", code="types_unsuitable", detail=detail))
    return errors


def credential_error(subscription: Subscription, types: Collection[str], detail: str) -> list[FieldError]:
    """The error if there is no credential of these types."""
    credential = subscription.credential
    if credential is not None and credential.type in types:
        return []
    code = "missing" if credential is None else "credential_unsuitable"
    return [FieldError(pointer="/sinkcredential", code=code, detail=detail)]


def _is_about_no_person(type: str) -> bool:
    """True for the types of events about the relay and about connect accounts. Published events may name a
    person in their metadata."""
    return type in RELAY_EVENTS or account_event_kind(type) is not None


def unknown_names(subscription: Subscription, allowed: Collection[str]) -> list[FieldError]:
    """An error for each name in the template of a subscription that is not `allowed`."""
    detail = f"a template may set {', '.join(sorted(allowed))}"
    return [
        FieldError(pointer=f"{templates.POINTER}/{name:.60}", code="unknown_field", detail=detail)
        for name in sorted(set(CrmOptions.of(subscription).template or ()) - set(allowed))
    ]


def field_errors(
    pointer: str, fields: Mapping[str, Any], own: Collection[str], known: re.Pattern[str], example: str
) -> list[FieldError]:
    """An error for each field of a template that the relay sets itself (`own`), whose name has not the form of the
    CRM's (`known`, such as `example`), or whose value is no scalar."""
    errors = []
    for name, value in fields.items():
        if name in own:
            detail = f"the relay sets {name} itself: leave it out"
        elif not known.fullmatch(name):
            detail = f"{name!r:.100} is not the internal name of a field, such as {example}"
        elif isinstance(value, list | Mapping):
            detail = "a field holds a text, a number, true, false or null"
        else:
            continue
        at = name[:60].replace("~", "~0").replace("/", "~1")
        errors.append(FieldError(pointer=f"{pointer}/{at}", code="invalid", detail=detail))
    return errors


def _lines(pairs: Pairs) -> list[str]:
    return [f"{html.escape(label)}: {html.escape(text)}" for label, text in pairs]
