"""Apache Kafka: an event is a record of a topic.

Sources: CloudEvents 1.0.2, Kafka binding §3.1 (key), §3.2 (binary) and §3.3 (structured).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from relay.core.deliveries.broker import Login, Message
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from subscribers import base
from subscribers.common.brokers import ID_HEADER, ToBroker, settings_of
from subscribers.kafka.options import KafkaSettings

MAX_KEY_CHARACTERS = 1000
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_NOT_IN_TOPICS = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


class Kafka(ToBroker):
    """Records in the order of their keys: that of a record is the event's `partitionkey`, or the
    rendered `partitionkeyextractor`."""

    name = "kafka"
    title = "Kafka"
    offer = base.Offer(
        words="A topic gets each event, in order within a job.",
        address="The bootstrap servers.",
        example="kafkas://one.example:9093,two.example:9093",
    )
    destination = "Topic {} of Kafka"
    schemes = ("kafka", "kafkas")
    settings = KafkaSettings
    client = "clientid"
    prefix = "ce_"
    credentials: ClassVar[Mapping[str, tuple[str, str]]] = {
        "PLAIN": ("identifier", "secret"),
        "ACCESSTOKEN": ("", "accesstoken"),
    }

    def login(self, subscription: Subscription) -> Login | None:
        """A token is for OAUTHBEARER; a name and a secret for `saslmechanism`."""
        found = super().login(subscription)
        if found is None:
            return None
        mechanism = "OAUTHBEARER" if found.name is None else settings_of(subscription).get("saslmechanism", "PLAIN")
        return replace(found, mechanism=mechanism)

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Among them a secret that would be sent in the clear."""
        errors = super().errors(subscription)
        broker = None if errors else self.broker(subscription)
        if broker and broker.login and not broker.secure and not broker.login.mechanism.startswith("SCRAM-"):
            mechanism = broker.login.mechanism
            detail = f"{mechanism} would send the secret in the clear: use kafkas://, or a saslmechanism of SCRAM"
            errors.append(FieldError(pointer="/sinkcredential", code="credential_unsuitable", detail=detail))
        return errors

    def problem_of(self, name: str, text: str) -> str | None:
        """See `ToBroker`."""
        match name:
            case "topicname" if _TOPIC.fullmatch(text) is None or text in (".", ".."):
                return "a topic has 1 to 249 letters, digits, dots, dashes and underscores"
            case "topicname" if text.startswith("__"):
                return "topics that begin with __ are the cluster's own: __consumer_offsets, for one"
            case "partitionkeyextractor" if len(text) > MAX_KEY_CHARACTERS:
                return f"a key has at most {MAX_KEY_CHARACTERS} characters"
        return None

    def clean(self, text: str) -> str:
        """See `ToBroker`."""
        return _NOT_IN_TOPICS.sub("_", text)

    def addressed(
        self, message: Message, settings: Mapping[str, str], event: Event, subscription: Subscription
    ) -> Message:
        """See `ToBroker`."""
        of_event = event.document().get("partitionkey")
        key = settings.get("partitionkeyextractor") or (of_event if isinstance(of_event, str) else None)
        headers = (("content-type", message.content_type), (ID_HEADER, event.id), *message.headers)
        return replace(message, destination=settings["topicname"], key=key, headers=headers)
