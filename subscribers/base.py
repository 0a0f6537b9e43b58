"""A kind of sink, and the checks of settings that several kinds share.

A kind is pure: it renders an event into a request, and classifies a response as an outcome. It opens no connection and
reads no clock or database, so a retry renders the same bytes and a test needs only values. Kinds are listed in
`registry.py`.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.core.access.netguard import problem_of_header
from relay.core.deliveries.broker import Broker, Message
from relay.core.deliveries.bundles import Bundle as Bundle
from relay.core.deliveries.credentials import TOKEN_HERE
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Memory, Steps
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event, Explain, Origin, unexplained
from relay.core.events.sentences import enumerated
from relay.core.jobs.job import Recipient, short_type
from relay.core.subscriptions.subscription import Incidents, Subscription
from relay.errors import FieldError, InvalidRequest
from relay.redaction import redacted_url
from subscribers.options import Options, Settings

_METHODS = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """The facts for rendering besides the event and the subscription.

    account_names  display names of accounts, by their name in the settings
    titles         titles of the upstreams, by the names of their sources in the settings
    public_url     the relay's public URL without a trailing slash, for links to its pages; None = unknown, or it shows
                   none
    search_keys    keys of metadata that jobs are found by, see `web.search_keys`
    explain        the hint for the error code of failed jobs of a source; None = unknown
    recipient      the recipient that the job's create names, if it was captured and the kind asked for it
    known          the memories that the subscriptions to a portal share, one for each key of `Dialogue.shared`
    """

    account_names: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    public_url: str | None = None
    search_keys: Sequence[str] = ()
    explain: Explain = unexplained
    recipient: Recipient | None = None
    known: Sequence[Memory] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kind in the words of people who choose one.

    name     as its owner writes it; empty: the kind's title
    words    the thing that an event becomes there, in a sentence; empty: one that fits its family
    address  the place to find the address of a sink, in a sentence
    example  an address
    look     the service whose messages its bodies are, which a preview draws: slack, teams or discord; empty: an event
             or fields
    website  where people work with it in a browser; `{origin}`: the scheme and host of the sink; empty: unknown
    """

    look: str = ""
    name: str = ""
    words: str = ""
    address: str = ""
    example: str = ""
    website: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByName:
    """The questions of `relay subscriptions add NAME`.

    token       the vendor's name of the secret, and where it is
    home        the URL of its API; `{domain}` stands for the customer's own name
    names       the metadata that identify a person
    example     metadata that do
    domain      the vendor's term for the customer's own name; empty: none is needed
    token_path  of the endpoint that trades a client's id and secret for a token; empty: the secret is the token
    """

    token: str
    home: str
    names: str
    example: str
    domain: str = ""
    token_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """The delivery of an event in several requests, and the memory that one delivery leaves to the next.

    key    of the memory, 1,000 characters at most. Deliveries of one key are sent one at a time. None: there is none
    steps  the requests of a delivery, given the memory that an earlier delivery of its key has left, and the time
    shared  further keys, under which all subscriptions to a portal remember the same. A delivery that has to wait for
            one sends nothing. Only for a kind whose key is never None
    """

    key: Callable[[Event, Subscription], str | None]
    steps: Callable[[Event, Subscription, RenderContext, Memory, float], Steps]
    shared: Callable[[Event, Subscription, RenderContext], Sequence[str]] | None = None


class Kind:
    """One kind of sink. `registry.py` lists them all.

    By default it is for programs, and sends an HTTP request for each event.

    name                its value of `config.kind`
    family              name of the kinds of its sort; empty: it is of none
    title               the vendor's name, or its placeholder in a sentence
    offer               the kind in the words of people who choose one
    form                of an event that arrives, if it is not a CloudEvent
    by_name             the questions if it is added by its name alone; None: it is added by the URL of a sink
    options             its fields of `config`
    settings            its fields of `protocolsettings`; None: those of HTTP
    signed              True if the dispatcher signs the rendered body with Standard Webhooks headers
    rate_per_second     default of `config.rate_per_second`; None: no limit
    timeout_seconds     default of `config.timeout_seconds` where `delivery.timeout_seconds` is less; None: that one
    default_incidents   default of `config.incidents`; "off": the kind is for programs, and takes no other value
    """

    name: str
    family: str = ""
    title: str = "The sink"
    offer: Offer = Offer()
    form: str = ""
    by_name: ByName | None = None
    options: type[Options] = Options
    settings: type[Settings] | None = None
    signed: bool = False
    rate_per_second: float | None = None
    timeout_seconds: float | None = None
    default_incidents: Incidents = "off"

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """The content that the sink of a subscription, as the API shows it, will get: in sentences."""
        return f"{self.title} gets {events_of(shown)}{self.form}, signed, in order within a job or partition key."

    def default_types(self, origins: Sequence[Origin]) -> tuple[str, ...] | None:
        """The types of a subscription without `types`. None = every job event and no others.

        `origins` are those of the configured sources.
        """
        return None

    def check(self, subscription: Subscription) -> None:
        """Raises InvalidRequest, with a pointer to each field, for what this kind does not support."""
        errors = self.errors(subscription)
        if errors:
            raise InvalidRequest("; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)

    @abstractmethod
    def errors(self, subscription: Subscription) -> list[FieldError]:
        """An error for each setting that this kind does not support."""

    @abstractmethod
    def render(self, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        """The unsigned request for an event. The same arguments give the same bytes. Raises NotRenderable."""

    def bundle(self, subscription: Subscription) -> Bundle | None:
        """The way its deliveries share requests; None: each has its own."""
        return None

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: RenderContext
    ) -> OutboundRequest:
        """The unsigned request for two or more events: the oldest first, and those of one job in their order. The same
        arguments give the same bytes. One event by itself goes through `render`."""
        raise NotImplementedError

    def classify(self, response: Response, now: float) -> Outcome:
        """The outcome of a response, for every status code and error: the rules of plain HTTP."""
        return http_outcome(response, now)

    def broker(self, subscription: Subscription) -> Broker | None:
        """The broker that its events are published to, as `message` makes them; then `render` is for previews. None:
        they are sent by HTTP."""
        return None

    def message(self, event: Event, subscription: Subscription, context: RenderContext) -> Message:
        """The message published for an event. The same arguments give the same bytes."""
        raise NotImplementedError

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """Delivery in several requests, in place of `render` and `classify`. None: one request each."""
        return None

    def sends_events(self, shown: Mapping[str, Any]) -> bool:
        """True if the bodies of its requests are the stored events. `shown`: `config`, as the API shows it."""
        return False

    def redacted_url(self, url: str) -> str:
        """The sink's URL as lists, logs and attempts may show it: without userinfo and query values, and without a path
        that is a credential."""
        return redacted_url(url)

    def portal(self, subscription: Subscription) -> str | None:
        """The customer's account at the vendor whose limits the subscription shares with others; None: it shares
        none."""
        return None

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """The requests that try the sink and its credential before a subscription is stored. None: it needs no try, and
        `relay subscriptions add` sends a sample.

        Its end: `delivered`, and then `remember` has the facts to store as options, such as `portal`; any
        other verdict refuses the subscription, and its reason says why."""
        return None

    def names_person(self, subscription: Subscription) -> Callable[[Event], bool] | None:
        """True if the event's metadata identify a person whom the sink can look up. None: it looks up no person."""
        return None

    def wants_recipient(self, subscription: Subscription) -> bool:
        """True if its steps need the recipient that the job's create names, if that was captured."""
        return False


def events_of(shown: Mapping[str, Any]) -> str:
    """The events of a subscription, as the API shows it: `each failed and overdue event`."""
    types = [short_type(type) for type in shown.get("types") or ()]
    return f"each {enumerated(types)} event" if types else "every event of every job"


def request_to(subscription: Subscription, *headers: tuple[str, str], body: bytes) -> OutboundRequest:
    """The request to a receiver for programs, by its own method and with its own headers."""
    given = (*headers, *subscription.headers)
    return OutboundRequest(url=subscription.sink, method=subscription.method, headers=given, body=body)


def header_errors(headers: Sequence[tuple[str, str]]) -> list[FieldError]:
    """An error for each custom header that may not be sent."""
    errors = []
    for name, value in headers:
        problem = problem_of_header(name, value)
        pointer = "/protocolsettings/headers/" + name.replace("~", "~0").replace("/", "~1")
        if problem is not None:
            errors.append(FieldError(pointer=pointer, code=problem.code, detail=problem.detail))
        elif value == TOKEN_HERE:
            detail = f"{TOKEN_HERE} is where a kind of sink wants its token: give the token as the sinkcredential"
            errors.append(FieldError(pointer=pointer, code="invalid_header", detail=detail))
    return errors


def receiver_errors(subscription: Subscription) -> list[FieldError]:
    """An error for each setting that a receiver for programs cannot have: reserved headers, methods without a body, and
    collapsed failures."""
    errors = header_errors(subscription.headers)
    if subscription.method not in _METHODS:
        detail = f"{subscription.method} is not one of {', '.join(_METHODS)}"
        errors.append(FieldError(pointer="/protocolsettings/method", code="invalid_method", detail=detail))
    why = (
        f"{subscription.incidents} is for chat kinds. A {subscription.kind} sink gets each failure, and incidents "
        "if its types name them, such as relay.incident.opened"
    )
    return errors + unread(subscription, incidents=why)


def chat_errors(subscription: Subscription, service: str, **reasons: str) -> list[FieldError]:
    """An error for each setting that chat services do not read: custom headers, a method except POST, a credential and
    a handshake. `service` names the service in the sentences; `reasons` replace these: see `unread`."""
    usual = {
        "headers": f"{service} does not support custom headers",
        "method": f"{service} supports only POST",
        "credential": f"{service} reads no credential: the URL of the webhook is the credential",
        "handshake": f"{service} answers no handshake, and needs none: only the owner of a channel has the URL of its "
        "webhook",
    }
    return unread(subscription, **{**usual, **reasons})


def unread(subscription: Subscription, **reasons: str) -> list[FieldError]:
    """An error for each setting that was given although the kind does not read it. `reasons`: by the setting, why not;
    empty: it does."""
    headers, method = bool(subscription.headers), subscription.method != "POST"
    given = {
        "headers": headers,
        "method": method,
        "protocolsettings": headers or method,
        "sink": bool(subscription.sink),
        "credential": subscription.credential is not None,
        "handshake": subscription.handshake != "off",
        "incidents": subscription.incidents != "off",
    }
    return [replace(_UNREAD[name], detail=why) for name, why in reasons.items() if why and given[name]]


_UNREAD = {
    "headers": FieldError(pointer="/protocolsettings/headers", code="invalid_header", detail=""),
    "method": FieldError(pointer="/protocolsettings/method", code="invalid_method", detail=""),
    "protocolsettings": FieldError(pointer="/protocolsettings", code="unknown_field", detail=""),
    "sink": FieldError(pointer="/sink", code="sink_unsuitable", detail=""),
    "credential": FieldError(pointer="/sinkcredential", code="credential_unsuitable", detail=""),
    "handshake": FieldError(pointer="/config/handshake", code="handshake_unsuitable", detail=""),
    "incidents": FieldError(pointer="/config/incidents", code="incidents_unsuitable", detail=""),
}


def sink_unsuitable(detail: str) -> FieldError:
    """The error for a sink that is not one of this kind."""
    return FieldError(pointer="/sink", code="sink_unsuitable", detail=detail)
