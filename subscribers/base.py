"""The interface of a kind of sink, and helpers that several kinds share.

A kind is pure: it renders an event into a request, and classifies a response as an outcome. It opens no connection and
reads no clock or database, so a retry renders the same bytes and a test needs only values. Kinds are listed in
`registry.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from relay.core.access.netguard import problem_of_header
from relay.core.deliveries.broker import Broker, Message
from relay.core.deliveries.bundles import Bundle as Bundle
from relay.core.deliveries.credentials import TOKEN_HERE
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Memory, Steps
from relay.core.events.event import Event
from relay.core.events.sentences import enumerated
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.subscription import Incidents, Subscription
from relay.errors import FieldError, InvalidRequest
from subscribers.options import Options, Settings

_METHODS = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """What rendering may use besides the event and the subscription.

    account_names  display names of accounts, by their name in the settings
    public_url     the relay's public URL without a trailing slash, for links; None = unknown
    recipient      whom the job's create names, if it was captured and the kind asked for it
    known          what the subscriptions to a portal remember, a memory for each key of `Dialogue.shared`
    """

    account_names: Mapping[str, str] = field(default_factory=dict)
    public_url: str | None = None
    recipient: Recipient | None = None
    known: Sequence[Memory] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ByName:
    """What `relay subscriptions add NAME` asks for.

    token       what the vendor calls the secret, and where it is
    home        the URL of its API; `{domain}` stands for the customer's own name
    names       the metadata that identify a person
    example     metadata that do
    domain      what the customer's own name is called; empty: none is needed
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
    """How a kind delivers an event in several requests, and what it remembers from one delivery to the next.

    key    under which key a delivery remembers something, 1,000 characters at most. Deliveries of one key are sent
           one at a time. None: it remembers nothing
    steps  the requests of a delivery, given the memory that an earlier delivery of its key has left, and the time
    shared  further keys, under which all subscriptions to a portal remember the same. A delivery that has to wait for
            one sends nothing. Only for a kind whose key is never None
    """

    key: Callable[[Event, Subscription], str | None]
    steps: Callable[[Event, Subscription, RenderContext, Memory, float], Steps]
    shared: Callable[[Event, Subscription, RenderContext], Sequence[str]] | None = None


class Kind(Protocol):
    """One kind of sink. `registry.py` lists them all."""

    @property
    def name(self) -> str:
        """Its value of `config.kind`."""
        ...

    @property
    def family(self) -> str:
        """What it is called together with kinds of its sort; empty: it is of none."""
        ...

    @property
    def title(self) -> str:
        """The vendor's name, or what stands for it in a sentence."""
        ...

    @property
    def by_name(self) -> ByName | None:
        """How it is added by its name alone; None: by the URL of a sink."""
        ...

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """What the sink of a subscription, as the API shows it, will get: in sentences."""
        ...

    @property
    def options(self) -> type[Options]:
        """Its fields of `config`."""
        ...

    @property
    def settings(self) -> type[Settings] | None:
        """Its fields of `protocolsettings`; None: those of HTTP."""
        ...

    @property
    def signed(self) -> bool:
        """True if the dispatcher signs the rendered body with Standard Webhooks headers."""
        ...

    @property
    def rate_per_second(self) -> float | None:
        """Default of `config.rate_per_second`; None = no limit."""
        ...

    @property
    def timeout_seconds(self) -> float | None:
        """Default of `config.timeout_seconds` where `delivery.timeout_seconds` is less; None = that one."""
        ...

    @property
    def default_incidents(self) -> Incidents:
        """Default of `config.incidents`. "off": the kind is for programs, and takes no other value."""
        ...

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """The types of a subscription without `types`. None = every job event and no others.

        `type_prefixes` are those of the configured sources.
        """
        ...

    def check(self, subscription: Subscription) -> None:
        """Raises InvalidRequest, with a pointer to each field, for what this kind does not support."""
        ...

    def render(self, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        """The unsigned request for an event. The same arguments give the same bytes."""
        ...

    def bundle(self, subscription: Subscription) -> Bundle | None:
        """How its deliveries share requests; None: each has its own. `Single` is for kinds that never bundle."""
        ...

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: RenderContext
    ) -> OutboundRequest:
        """The unsigned request for two or more events: the oldest first, and those of one job in their order. The same
        arguments give the same bytes. One event by itself goes through `render`."""
        ...

    def classify(self, response: Response, now: float) -> Outcome:
        """The outcome of a response, for every status code and error."""
        ...

    def broker(self, subscription: Subscription) -> Broker | None:
        """The broker that its events are published to, as `message` makes them; then `render` is for previews. None:
        they are sent by HTTP."""
        ...

    def message(self, event: Event, subscription: Subscription, context: RenderContext) -> Message:
        """What is published of an event. The same arguments give the same bytes."""
        ...

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """How it delivers in several requests, instead of `render` and `classify`. None: one request each."""
        ...

    def sends_events(self, shown: Mapping[str, Any]) -> bool:
        """True if the bodies of its requests are the stored events. `shown`: `config`, as the API shows it."""
        ...

    def redacted_url(self, url: str) -> str:
        """The sink's URL as lists, logs and attempts may show it."""
        ...

    def portal(self, subscription: Subscription) -> str | None:
        """The customer's account at the vendor whose limits the subscription shares with others; None: it shares
        none."""
        ...

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """The requests that try the sink and its credential before a subscription is stored. None: it needs no try.

        Its end: `delivered`, and then `remember` has the facts to store as options, such as `portal`; any
        other verdict refuses the subscription, and its reason says why."""
        ...

    def names_person(self, subscription: Subscription) -> Callable[[Event], bool] | None:
        """True if the event's metadata identify a person whom the sink can look up. None: it looks up no person."""
        ...

    def wants_recipient(self, subscription: Subscription) -> bool:
        """True if its steps need whom the job's create names, if that was captured."""
        ...


class OneRequest:
    """The part of a kind that delivers each event in one request, to a sink that is not asked anything before."""

    timeout_seconds: float | None = None
    options: type[Options] = Options
    settings: type[Settings] | None = None
    family: str = ""
    title: str = "The sink"
    by_name: ByName | None = None
    form: ClassVar[str] = ""
    """In which form an event arrives, if it is not as a CloudEvent."""

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """Each event by itself."""
        return f"{self.title} gets {events_of(shown)}{self.form}, signed, in order within a job or partition key."

    def sends_events(self, shown: Mapping[str, Any]) -> bool:
        """False: what it sends is made of them."""
        return False

    def broker(self, subscription: Subscription) -> Broker | None:
        """None: it is sent by HTTP."""
        return None

    def message(self, event: Event, subscription: Subscription, context: RenderContext) -> Message:
        """Never called, since `broker` is None."""
        raise NotImplementedError

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """None: `render` and `classify` do all of it."""
        return None

    def portal(self, subscription: Subscription) -> str | None:
        """None: it shares limits with no other subscription."""
        return None

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """None: `relay subscriptions add` sends a sample instead."""
        return None

    def names_person(self, subscription: Subscription) -> Callable[[Event], bool] | None:
        """None: it looks up no person."""
        return None

    def wants_recipient(self, subscription: Subscription) -> bool:
        """False: nothing it sends needs the recipient."""
        return False


class Single(OneRequest):
    """The part of a kind of sink that never bundles: one request per event."""

    def bundle(self, subscription: Subscription) -> Bundle | None:
        """None: each delivery has a request of its own."""
        return None

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: RenderContext
    ) -> OutboundRequest:
        """Never called, since `bundle` is None."""
        raise NotImplementedError


def events_of(shown: Mapping[str, Any]) -> str:
    """The events of a subscription, as the API shows it: `each failed and overdue event`."""
    types = [type.removeprefix("ai.revor.job.") for type in shown.get("types") or ()]
    return f"each {enumerated(types)} event" if types else "every event of every job"


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
    if subscription.incidents != "off":
        detail = (
            f"{subscription.incidents} is for chat kinds. A {subscription.kind} sink gets each failure, and incidents "
            "if its types name them, such as relay.incident.opened"
        )
        errors.append(FieldError(pointer="/config/incidents", code="incidents_unsuitable", detail=detail))
    return errors


def chat_errors(subscription: Subscription, service: str) -> list[FieldError]:
    """An error for each setting that chat services do not read: custom headers, a method except POST, a credential and
    a handshake. `service` names the service in the sentences."""
    found = (
        (
            bool(subscription.headers),
            "/protocolsettings/headers",
            "invalid_header",
            f"{service} does not support custom headers",
        ),
        (
            subscription.method != "POST",
            "/protocolsettings/method",
            "invalid_method",
            f"{service} supports only POST",
        ),
        (
            subscription.credential is not None,
            "/sinkcredential",
            "credential_unsuitable",
            f"{service} reads no credential: the URL of the webhook is the credential",
        ),
        (
            subscription.handshake != "off",
            "/config/handshake",
            "handshake_unsuitable",
            f"{service} answers no handshake, and needs none: only the owner of a channel has the URL of its webhook",
        ),
    )
    return [FieldError(pointer=pointer, code=code, detail=detail) for wrong, pointer, code, detail in found if wrong]


def refuse(errors: Sequence[FieldError]) -> None:
    """Raises InvalidRequest if there are errors."""
    if errors:
        raise InvalidRequest("; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)
