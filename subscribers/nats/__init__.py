"""NATS JetStream: an event is a message of a subject.

Source: CloudEvents 1.0.3, NATS binding §3.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from relay.core.deliveries.broker import Login, Message
from relay.core.events.event import NOT_IN_ATTRIBUTES, Event, header_text
from relay.core.subscriptions.subscription import Subscription
from subscribers import base
from subscribers.common.brokers import ID_HEADER, ToBroker
from subscribers.nats.options import NatsSettings

MAX_SUBJECT_CHARACTERS = 500
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")
_NOT_IN_SUBJECTS = re.compile(r"[\s*>\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_RESERVED = ("$", "_INBOX.")
"""The servers' own subjects, and those of answers."""


class Nats(ToBroker):
    """Messages of subjects that a stream of JetStream has."""

    name = "nats"
    title = "NATS"
    offer = base.Offer(
        words="A stream of JetStream gets each event.",
        address="The server; tls:// for an encrypted connection.",
        example="tls://nats.example:4222",
    )
    destination = "Subject {} of NATS"
    schemes = ("nats", "tls")
    settings = NatsSettings
    prefix = "ce-"
    credentials: ClassVar[Mapping[str, tuple[str, str]]] = {
        "PLAIN": ("identifier", "secret"),
        "ACCESSTOKEN": ("", "accesstoken"),
        "NKEY": ("", "seed"),
    }

    def login(self, subscription: Subscription) -> Login | None:
        """See `ToBroker`."""
        found, credential = super().login(subscription), subscription.credential
        is_key = found is not None and credential is not None and credential.type == "NKEY"
        return replace(found, mechanism="NKEY") if found is not None and is_key else found

    def problem_of(self, name: str, text: str) -> str | None:
        """See `ToBroker`."""
        if len(text) > MAX_SUBJECT_CHARACTERS or _SUBJECT.fullmatch(text) is None or text.startswith(_RESERVED):
            return (
                f"a subject has at most {MAX_SUBJECT_CHARACTERS} characters, in words between dots, without spaces and "
                "wildcards, and does not begin with $ or _INBOX"
            )
        return None

    def tidied(self, text: str) -> str:
        """An empty word, such as the channel of an event without one, is `_`."""
        return ".".join(word or "_" for word in text.split("."))

    def content(self, event: Event, subscription: Subscription) -> tuple[str, tuple[tuple[str, str], ...], bytes]:
        """In binary mode values are percent-encoded, and the type of the data is `ce-datacontenttype`: a `content-type`
        could say that the message is structured."""
        content_type, headers, body = super().content(event, subscription)
        named = [*headers, ("ce-datacontenttype", content_type)] if headers else []
        return content_type, tuple((name, header_text(value)) for name, value in named), body

    def clean(self, text: str) -> str:
        """Without characters that would change the meaning of a subject."""
        return _NOT_IN_SUBJECTS.sub("_", NOT_IN_ATTRIBUTES.sub("_", text)).strip(".") or "_"

    def addressed(
        self, message: Message, settings: Mapping[str, str], event: Event, subscription: Subscription
    ) -> Message:
        """See `ToBroker`."""
        headers = message.headers or (("content-type", message.content_type),)
        return replace(message, destination=settings["subject"], headers=(*headers, (ID_HEADER, event.id)))
