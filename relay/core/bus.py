"""Brokers: where messages go, what they are, and what came of them. Pure.

`relay/bus/` connects and publishes; the kinds `kafka`, `nats` and `rabbitmq` of `subscribers/` make messages of events.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from relay.core.events import Event
from relay.core.netguard import GuardPolicy, refusal_of_url
from relay.core.subscription import Subscription
from relay.core.values import value_class

Protocol = Literal["KAFKA", "NATS", "AMQP"]

MAX_ADDRESSES = 16
"""Maximum addresses in one sink."""
_SCHEMES: Mapping[str, tuple[Protocol, int, bool]] = {
    "kafka": ("KAFKA", 9092, False),
    "kafkas": ("KAFKA", 9093, True),
    "nats": ("NATS", 4222, False),
    "tls": ("NATS", 4222, True),
    "amqp": ("AMQP", 5672, False),
    "amqps": ("AMQP", 5671, True),
}
"""Per scheme of a sink: its protocol, its default port, and whether TLS is used from the first byte."""
_SINK = re.compile(r"([a-z]{1,10})://([^/?#]{1,1500})(/[^?#]{0,300})?", re.ASCII)
_ADDRESS = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a relay proves to a broker who it is. Without a name the secret is a token, or the seed of an NKey.

    mechanism  of SASL, for Kafka: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`
    """

    name: str | None = None
    secret: str = field(default="", repr=False)
    mechanism: str = "PLAIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker as a subscription names it, and the key of a connection to it.

    addresses     host and port of some of its nodes; brackets of IPv6 addresses are left out
    secure        TLS
    virtual_host  of RabbitMQ
    """

    protocol: Protocol
    addresses: tuple[tuple[str, int], ...]
    secure: bool
    virtual_host: str = "/"
    login: Login | None = None

    @property
    def scheme(self) -> str:
        """As the egress guard judges it: `https` with TLS, `http` without."""
        return "https" if self.secure else "http"

    @property
    def shown(self) -> str:
        """Its addresses, for logs."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)


@value_class(frozen=True, slots=True, kw_only=True)
class Message:
    """What a broker takes.

    destination  topic of Kafka, subject of NATS, routing key of RabbitMQ
    exchange     of RabbitMQ; empty: the default exchange, whose routing keys are names of queues
    key          of Kafka: messages of one key are in one partition
    id           brokers know a repeated message by it, where they can
    order        messages of one `order` must be published in theirs; None: any order
    """

    destination: str
    body: bytes = field(repr=False)
    id: str
    exchange: str = ""
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    content_type: str = "application/cloudevents+json"
    order: str | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of a message.

    error   None: the broker has stored it. Else a word as in `core.delivery.Response`, or what the broker refused:
            `no_stream`, `unroutable`, `unknown_topic`, `unknown_exchange`, `too_large`, `denied`, `nack`, or `behind`:
            an earlier message of its order failed, so it was not sent
    detail  one line without secrets about the error, or where the broker has put it
    """

    error: str | None = None
    detail: str | None = None


def read_sink(sink: str, login: Login | None = None) -> Broker | None:
    """The broker that a sink names; None if it names none: another scheme, or malformed."""
    parts = _SINK.fullmatch(sink)
    known = None if parts is None else _SCHEMES.get(parts[1])
    if parts is None or known is None:
        return None
    protocol, default_port, secure = known
    found: list[tuple[str, int]] = []
    for text in parts[2].split(","):
        address = _ADDRESS.fullmatch(text)
        port = 0 if address is None else int(address[2] or default_port)
        if address is None or not 1 <= port <= 65_535 or len(found) == MAX_ADDRESSES:
            return None
        found.append((address[1].strip("[]").lower(), port))
    path = parts[3] or ""
    if path.strip("/") and protocol != "AMQP":
        return None
    virtual_host = unquote(path[1:]) or "/"
    return Broker(protocol=protocol, addresses=tuple(found), secure=secure, virtual_host=virtual_host, login=login)


def order_of(event: Event, subscription: Subscription) -> str | None:
    """What the order of an event is kept by; None: nothing."""
    return event.order_key if subscription.ordering == "job" else None


def scheme_of(sink: str) -> str:
    """The scheme of a sink in lower case; empty if it has none."""
    try:
        return urlsplit(sink).scheme.lower()
    except ValueError:
        return ""


def policy_for_brokers(policy: GuardPolicy) -> GuardPolicy:
    """The egress guard's policy, which also allows the ports that brokers listen on."""
    return GuardPolicy(
        allow_http=policy.allow_http,
        allow_networks=policy.allow_networks,
        allow_ports=policy.allow_ports | {port for _, port, _ in _SCHEMES.values()},
        allow_hosts=policy.allow_hosts,
        deny_hosts=policy.deny_hosts,
        own_address=policy.own_address,
        own_url=policy.own_url,
        by_proxy=policy.by_proxy,
    )


def refusal_of_host(host: str, port: int, scheme: str, policy: GuardPolicy) -> str | None:
    """Why a host that a sink or a broker names is refused, as far as its name tells; None if it is allowed."""
    if policy.by_proxy:
        return "security.egress_proxy is set, and brokers cannot be reached through it"
    written = f"[{host}]" if ":" in host else host
    return refusal_of_url(f"{scheme}://{written}:{port}", policy_for_brokers(policy))


def unsent_behind(messages: Sequence[Message], results: Sequence[Published | None]) -> list[Published]:
    """The results, in which a message counts as failed if an earlier one of its order did: both are sent again, so that
    a consumer never sees the later one first. None: no result came in time."""
    failed: set[str] = set()
    found: list[Published] = []
    for message, result in zip(messages, results, strict=True):
        result = result or Published(error="timeout", detail="no acknowledgement in time")
        if message.order is not None:
            if result.error is None and message.order in failed:
                result = Published(error="behind", detail="an earlier event of its order was not acknowledged")
            if result.error is not None:
                failed.add(message.order)
        found.append(result)
    return found
