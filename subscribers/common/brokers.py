"""The common part of the kinds of brokers: the destination of an event, its key, and its two content modes.

Sources: CloudEvents 1.0.2, Kafka binding §3, NATS binding §3 (1.0.3), AMQP binding §3; the settings are those of the
CloudEvents Subscriptions API (`protocolsettings`). Names may be Liquid templates: `jobs.{{ event.channel }}`.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from relay.core.deliveries.broker import CLIENT, Broker, Login, Message, order_of, read_sink, scheme_of
from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.events.event import CONTENT_TYPE, Event, attributes_of, canonical, content_of
from relay.core.jsontext import loads
from relay.core.subscriptions.subscription import SETTINGS, Subscription
from relay.errors import FieldError, NotRenderable
from relay.expressions.liquid_limits import Escape
from relay.redaction import redacted_url
from subscribers import base
from subscribers.common import templates
from subscribers.common.options import BrokerOptions, BrokerSettings
from subscribers.options import Options

MAX_EVENTS = 500
MAX_BYTES = 1024 * 1024
FREE_PER_MINUTE = 600
"""Events a minute that are published by themselves, at once; more of them share a batch."""
ID_HEADER = "webhook-id"
"""Header with the relay's id of the event, as in requests to webhooks. Duplicates of a message have the same id."""
_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_NEVER = frozenset(("too_large", "render"))


class ToBroker(base.Kind):
    """A kind that publishes to a broker.

    schemes      of its sinks
    prefix       of the names of attributes, in binary mode
    credentials  per type of credential, its fields with a name and a secret
    client       the setting with the name that the relay gives itself
    destination  of events, in words, around the setting that is needed
    """

    schemes: ClassVar[tuple[str, ...]]
    settings: type[BrokerSettings] = BrokerSettings
    options: type[Options] = BrokerOptions
    prefix: ClassVar[str]
    credentials: ClassVar[Mapping[str, tuple[str, str]]]
    client: ClassVar[str] = ""
    family = "brokers"
    destination: ClassVar[str]

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """Each event at the destination."""
        where = self.destination.format((shown.get(SETTINGS) or {}).get(self.settings.needed()))
        return f"{where} gets {base.events_of(shown)}, in order within a job or partition key."

    def bundle(self, subscription: Subscription) -> base.Bundle | None:
        """A lone event waits for nothing; a backlog is published in batches."""
        return base.Bundle(
            max_events=MAX_EVENTS,
            wait_seconds=0.0,
            max_bytes=MAX_BYTES,
            free_per_minute=FREE_PER_MINUTE,
            own_outcomes=True,
        )

    # --- checks of a subscription

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Sinks that name no broker, settings that it does not have, and destinations that cannot be right."""
        errors = []
        if read_sink(subscription.sink) is None or scheme_of(subscription.sink) not in self.schemes:
            example = f"{self.schemes[0]}://broker.example:{_PORTS[self.name]}"
            errors.append(base.sink_unsuitable(f"this names no broker of kind {self.name}: write it like {example}"))
        errors += self._settings_errors(subscription) + self._credential_errors(subscription.credential)
        return errors + base.unread(
            subscription,
            protocolsettings="headers and method are for HTTP",
            handshake="brokers answer no handshake: their own access control says who may publish",
            incidents=f"{subscription.incidents} is for chat kinds: a broker gets each failure",
        )

    def _settings_errors(self, subscription: Subscription) -> list[FieldError]:
        given = settings_of(subscription)
        marked = {name: text for name, text in given.items() if self.settings.is_template(name, text)}
        errors = templates.errors_in(marked, f"/{SETTINGS}") if marked else []
        return errors or self._errors_in({name: text for name, text in given.items() if name not in marked})

    def _credential_errors(self, credential: SinkCredential | None) -> list[FieldError]:
        if credential is None or credential.type in self.credentials:
            if credential is None or "accesstokenexpiresutc" not in credential.fields:
                return []
            pointer = "/sinkcredential/accesstokenexpiresutc"
            detail = "leave it out: the broker itself refuses a token that has expired"
            return [FieldError(pointer=pointer, code="credential_unsuitable", detail=detail)]
        detail = f"kind {self.name} takes the credentials {', '.join(self.credentials)}"
        return [FieldError(pointer="/sinkcredential/credentialtype", code="credential_unsuitable", detail=detail)]

    def _problem_of(self, name: str, text: str) -> str | None:
        if name != self.client:
            return self.problem_of(name, text)
        fine = _CLIENT.fullmatch(text) is not None
        return None if fine else "a name of the relay has 1 to 100 letters, digits, dots, dashes and underscores"

    @abstractmethod
    def problem_of(self, name: str, text: str) -> str | None:
        """The reason why the broker takes no such value of a setting; None if it does."""

    def tidied(self, text: str) -> str:
        """A rendered value, in which an attribute that the event lacks has left a hole."""
        return text

    # --- messages

    def broker(self, subscription: Subscription) -> Broker:
        """The broker, and the key of the node's connection to it. Raises ValueError if the sink names none."""
        client = settings_of(subscription).get(self.client, CLIENT)
        found = read_sink(subscription.sink, self.login(subscription), client)
        if found is None:
            raise ValueError("the sink names no broker")
        return found

    def place(self, subscription: Subscription) -> Message | None:
        """A message without content to the destination; None if that depends on the event."""
        needed = self.settings.needed()
        name = settings_of(subscription)[needed]
        return None if self.settings.is_template(needed, name) else Message(destination=name, body=b"", id="")

    def login(self, subscription: Subscription) -> Login | None:
        """The credential for this broker; None without one, or with one that was given for another broker."""
        credential = subscription.credential
        if credential is None or credential.origin != origin_text(subscription.sink):
            return None
        name, secret = self.credentials[credential.type]
        return Login(name=credential.fields.get(name), secret=credential.fields[secret])

    def message(self, event: Event, subscription: Subscription, context: base.RenderContext) -> Message:
        """See `Kind`. Raises NotRenderable."""
        content_type, headers, body = self.content(event, subscription)
        made = Message(
            destination="",
            headers=headers,
            body=body,
            id=event.id,
            content_type=content_type,
            order=order_of(event, subscription),
        )
        return self.addressed(made, self._rendered(event, subscription, context), event, subscription)

    @abstractmethod
    def addressed(
        self, message: Message, settings: Mapping[str, str], event: Event, subscription: Subscription
    ) -> Message:
        """The message with its destination and all of its headers. `settings`: rendered. Raises NotRenderable."""

    @abstractmethod
    def clean(self, text: str) -> str:
        """A text of the event as a part of a setting."""

    def _rendered(self, event: Event, subscription: Subscription, context: base.RenderContext) -> dict[str, str]:
        """The settings with their templates rendered. Raises NotRenderable for a value that the broker would not
        take."""
        given = settings_of(subscription)
        marked = {name: text for name, text in given.items() if self.settings.is_template(name, text)}
        if not marked:
            return dict(given)
        strict = BrokerOptions.of(subscription).strict is True
        escape = Escape(partial(templates.changed, self.clean), character_work=100)
        made = loads(templates.render(marked, event, context, strict=strict, escape=escape, pointer=f"/{SETTINGS}"))
        made = {name: self.tidied(text) for name, text in made.items()}
        if errors := self._errors_in(made):
            raise NotRenderable(errors)
        return {**given, **made}

    def _errors_in(self, settings: Mapping[str, str]) -> list[FieldError]:
        problems = ((name, self._problem_of(name, text)) for name, text in settings.items())
        return [FieldError(pointer=f"/{SETTINGS}/{name}", code="invalid", detail=why) for name, why in problems if why]

    def content(self, event: Event, subscription: Subscription) -> tuple[str, tuple[tuple[str, str], ...], bytes]:
        """Content type, headers and body of an event in its content mode."""
        if BrokerOptions.of(subscription).content_mode != "binary":
            return CONTENT_TYPE, (), event.body
        document = event.document()
        content_type, body = content_of(document)
        headers = tuple((f"{self.prefix}{name}", canonical(value)) for name, value in attributes_of(document))
        return content_type or "application/octet-stream", headers, body

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The message as a preview shows it."""
        message = self.message(event, subscription, context)
        place = "/".join(part for part in (message.exchange, message.destination) if part)
        key = () if message.key is None else (("key", message.key),)
        return OutboundRequest(
            url=f"{subscription.sink.rstrip('/')}/{place}",
            method="PUBLISH",
            headers=(*key, ("message-id", message.id), ("content-type", message.content_type), *message.headers),
            body=message.body,
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """Delivered once the broker has acknowledged it. A message that it can never take is dead, all else is
        retried."""
        if response.error is None:
            return Outcome(verdict="delivered", reason="acknowledged")
        return Outcome(verdict="dead" if response.error in _NEVER else "retry", reason=response.error)

    def redacted_url(self, url: str) -> str:
        """As it is, if it is the sink of a broker: these have no secrets."""
        return redacted_url(url) if read_sink(url) is None else url


_PORTS = {"kafka": 9092, "nats": 4222, "rabbitmq": 5672}


def settings_of(subscription: Subscription) -> Mapping[str, str]:
    """`protocolsettings`, as given."""
    found: Mapping[str, str] = subscription.options.get(SETTINGS) or {}
    return found
