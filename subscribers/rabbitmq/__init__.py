"""RabbitMQ (AMQP 0-9-1): an event is a persistent message to an exchange or a queue.

CloudEvents has a binding for AMQP 1.0 only (§3). Its properties and application properties are those of AMQP 0-9-1, as
RabbitMQ itself converts between the two: in binary mode attributes are headers that begin with `cloudEvents_`,
`datacontenttype` is the property `content_type`. The property `message_id` is the event's id.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar
from urllib.parse import quote, unquote

from relay.core.deliveries.broker import Message
from relay.core.events.event import NOT_IN_ATTRIBUTES, Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError, NotRenderable
from subscribers import base
from subscribers.common.brokers import ToBroker, settings_of
from subscribers.rabbitmq.options import RabbitMqSettings

MAX_NAME_BYTES = 255
MAX_HEADERS_BYTES = 65_536
"""AMQP 0-9-1 sends all headers in one frame, of 128 KiB by default."""
_RESERVED = "amq."
"""The beginning of names that RabbitMQ reserves: default exchanges, temporary queues, and `amq.rabbitmq.reply-to`, by
which a message goes to a client that waits for an answer."""
_ADDRESS = re.compile(r"/(?:queues/([^/]+)|exchanges/([^/]+)(?:/([^/]*))?)")


class RabbitMq(ToBroker):
    """Messages to an address of RabbitMQ: `/queues/NAME`, or `/exchanges/NAME/ROUTING-KEY`. Names are
    percent-encoded."""

    name = "rabbitmq"
    title = "RabbitMQ"
    offer = base.Offer(
        words="A queue or an exchange gets each event.",
        address="The broker, with its virtual host.",
        example="amqps://rabbit.example/vhost",
    )
    destination = "{} of RabbitMQ"
    schemes = ("amqp", "amqps")
    settings = RabbitMqSettings
    client = "linkname"
    prefix = "cloudEvents_"
    credentials: ClassVar[Mapping[str, tuple[str, str]]] = {"PLAIN": ("identifier", "secret")}

    def problem_of(self, name: str, text: str) -> str | None:
        """See `ToBroker`."""
        if name != "address":
            return None
        parts = _ADDRESS.fullmatch(text)
        names = [] if parts is None else [unquote(part) for part in parts.groups() if part]
        if not names or any(len(one.encode("utf-8", "replace")) > MAX_NAME_BYTES or "\x00" in one for one in names):
            return (
                "an address is /queues/NAME or /exchanges/NAME/ROUTING-KEY, with percent-encoded names of at most "
                f"{MAX_NAME_BYTES} bytes"
            )
        return None

    def place(self, subscription: Subscription) -> Message | None:
        """See `ToBroker`. The exchange may be known although the routing key is not."""
        parts = _ADDRESS.fullmatch(settings_of(subscription)["address"])
        queue, exchange, _ = (None, None, None) if parts is None else parts.groups()
        name = queue or exchange
        if name is None or self.settings.is_template("address", name):
            return None
        return Message(exchange=unquote(exchange or ""), destination=unquote(queue or ""), body=b"", id="")

    def clean(self, text: str) -> str:
        """See `ToBroker`."""
        return quote(NOT_IN_ATTRIBUTES.sub("_", text)[:200], safe="") or "_"

    def addressed(
        self, message: Message, settings: Mapping[str, str], event: Event, subscription: Subscription
    ) -> Message:
        """See `ToBroker`."""
        parts = _ADDRESS.fullmatch(settings["address"])
        queue, exchange, key = ("", "", "") if parts is None else (unquote(part or "") for part in parts.groups())
        if (queue or exchange).startswith(_RESERVED) and not _names_reserved(settings_of(subscription)["address"]):
            detail = f"names that begin with {_RESERVED} are RabbitMQ's own: an event cannot choose one"
            raise NotRenderable([FieldError(pointer="/protocolsettings/address", code="invalid", detail=detail)])
        if len(message.content_type) > MAX_NAME_BYTES:
            detail = f"RabbitMQ takes a content type of at most {MAX_NAME_BYTES} characters: use structured mode"
            raise NotRenderable([FieldError(pointer="/datacontenttype", code="too_long", detail=detail)])
        if sum(len(name) + len(value.encode()) for name, value in message.headers) > MAX_HEADERS_BYTES:
            detail = f"RabbitMQ takes at most {MAX_HEADERS_BYTES:,} bytes of headers: use structured mode"
            raise NotRenderable([FieldError(pointer="", code="too_large", detail=detail)])
        return replace(message, exchange=exchange, destination=queue or key)


def _names_reserved(address: str) -> bool:
    """True if an address, which may be a template, itself begins with a name that is RabbitMQ's own."""
    return address.startswith((f"/queues/{_RESERVED}", f"/exchanges/{_RESERVED}"))
