"""Brokers: their addresses, the messages to them, and the results. Pure.

`relay/bus/` connects and publishes; the kinds `kafka`, `nats` and `rabbitmq` of `subscribers/` make messages of events.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import quote, unquote

from relay.core.access.netguard import HTTP_HINT, MAX_URL_LENGTH, GuardPolicy, refusal_of_url
from relay.core.values import value_class

if TYPE_CHECKING:
    from relay.core.events.event import Event
    from relay.core.subscriptions.subscription import Subscription

Protocol = Literal["KAFKA", "NATS", "AMQP"]

CLIENT = "revor-relay"
MAX_ADDRESSES = 16
"""Maximum addresses in one sink."""
SINK_SCHEMES: Mapping[str, tuple[Protocol, int, bool]] = {
    "kafka": ("KAFKA", 9092, False),
    "kafkas": ("KAFKA", 9093, True),
    "nats": ("NATS", 4222, False),
    "tls": ("NATS", 4222, True),
    "amqp": ("AMQP", 5672, False),
    "amqps": ("AMQP", 5671, True),
}
"""Per scheme of a sink: its protocol, its default port, and whether TLS is used from the first byte."""
_SECURE: Mapping[str, str] = {"kafka": "kafkas", "nats": "tls", "amqp": "amqps"}
SCHEMES: Mapping[str, tuple[str, ...]] = {
    protocol: tuple(scheme for scheme, (of, _, _) in SINK_SCHEMES.items() if of == protocol)
    for protocol in get_args(Protocol)
}
"""The schemes of the sinks of each protocol."""
MAX_VIRTUAL_HOST_BYTES = 255
_SINK = re.compile(r"([a-z]{1,10})://([^/?#]*)(/[^?#]*)?(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_NAME = r"\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253}"
_HOST = re.compile(_NAME, re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(rf"({_NAME})(?::([0-9]{{1,5}}))?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Credentials of a relay at a broker. Without a name the secret is a token, or the seed of an NKey.

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
    client        the name that the relay gives itself
    """

    protocol: Protocol
    addresses: tuple[tuple[str, int], ...]
    secure: bool
    virtual_host: str = "/"
    login: Login | None = None
    client: str = CLIENT

    @property
    def shown(self) -> str:
        """Its addresses, for logs."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)


@value_class(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to a broker.

    destination  topic of Kafka, subject of NATS, routing key of RabbitMQ
    exchange     of RabbitMQ; empty: the default exchange, whose routing keys are names of queues
    key          of Kafka: messages of one key are in one partition
    id           the relay's id of the event
    delivery     its `Claimed.round_id`: a broker that drops repetitions knows them by it. None: a sample
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
    delivery: str | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Published:
    """The result of a message.

    error   None: the broker has stored it. Else a word as in `core.deliveries.delivery.Response`, or what the broker
            refused: `no_stream`, `unroutable`, `unknown_topic`, `unknown_exchange`, `too_large`, `denied`, `nack`,
            `blocked`, or `behind`: an earlier message of its order failed, so it was not sent
    detail  one line without secrets about the error, or where the broker has put it
    """

    error: str | None = None
    detail: str | None = None


def read_sink(sink: str, login: Login | None = None, client: str = CLIENT) -> Broker | None:
    """The broker that a sink names; None if it names none: another scheme, or malformed."""
    found = _read(sink)
    return None if isinstance(found, str) else replace(found, login=login, client=client)


def _read(sink: str) -> Broker | str:
    """The broker that a sink names, or the fault of the sink."""
    parts = _SINK.fullmatch(sink)
    known = None if parts is None else SINK_SCHEMES.get(parts[1].lower())
    if len(sink) > MAX_URL_LENGTH:
        return f"a URL has at most {MAX_URL_LENGTH} characters"
    if parts is None or known is None:
        return f"this names no broker: it begins with one of {', '.join(f'{one}://' for one in SINK_SCHEMES)}"
    if any(unicodedata.category(character)[0] in "CZ" for character in sink):
        return "control characters and white space are not allowed in a URL"
    protocol, default_port, secure = known
    if "@" in sink:
        return "user names and passwords in a URL are not allowed: use a sinkcredential of type PLAIN"
    if parts[4]:
        return (
            f"{parts[4][0]} and what follows is not allowed in the sink of a broker: settings are in protocolsettings"
        )
    texts = parts[2].split(",")
    if len(texts) > MAX_ADDRESSES:
        return f"a sink has at most {MAX_ADDRESSES} addresses, and this one has {len(texts)}"
    addresses: list[tuple[str, int]] = []
    for position, text in enumerate(texts, 1):
        address = _ADDRESS.fullmatch(text)
        if address is None:
            kind = "a host or host:port in ASCII, and [brackets] around IPv6 addresses"
            return f"address {position} is malformed ({text[:64]!r}): write {kind}"
        port = default_port if address[2] is None else int(address[2])
        if not 1 <= port <= 65_535:
            return f"address {position}: port {port} does not exist"
        addresses.append((address[1].strip("[]").lower(), port))
    path = parts[3] or ""
    if path.strip("/") and protocol != "AMQP":
        return "the sink of a broker has no path: name the topic or subject in protocolsettings"
    virtual_host = unquote(path[1:], errors="replace") or "/"
    if len(virtual_host.encode("utf-8", "replace")) > MAX_VIRTUAL_HOST_BYTES or not virtual_host.isprintable():
        return f"a virtual host has at most {MAX_VIRTUAL_HOST_BYTES} bytes of printable text"
    return Broker(protocol=protocol, addresses=tuple(addresses), secure=secure, virtual_host=virtual_host)


def protocol_of(sink: str) -> Protocol | None:
    """The protocol that the scheme of a sink says; None: HTTP, or nothing that is known."""
    known = SINK_SCHEMES.get(scheme_of(sink))
    return None if known is None else known[0]


def refusal_of_broker(sink: str, policy: GuardPolicy) -> str | None:
    """The reason why the sink of a broker is refused, as far as its text tells; None if it is allowed. Never raises."""
    broker = _read(sink)
    if isinstance(broker, str):
        return broker
    several = len(broker.addresses) > 1
    for position, (host, port) in enumerate(broker.addresses, 1):
        why = refusal_of_host(broker.protocol, host, port, policy, secure=broker.secure)
        if not (why is None or broker.secure or refusal_of_host(broker.protocol, host, port, policy, secure=True)):
            scheme = scheme_of(sink)
            why = f"{scheme}:// has no TLS: use {_SECURE[scheme]}://; {HTTP_HINT}"
        if why is not None:
            return f"address {position}: {why}" if several else why
    return None


def origin_of_broker(sink: str) -> str | None:
    """The addresses that a credential for this sink is bound to; None if it names no broker."""
    broker = read_sink(sink)
    if broker is None:
        return None
    return f"{scheme_of(sink)}://{broker.shown}/{quote(broker.virtual_host, safe='')}"


def order_of(event: "Event", subscription: "Subscription") -> str | None:
    """The key of an event's order at the broker; None: it has none."""
    return event.order_key if subscription.ordering == "job" else None


def scheme_of(sink: str) -> str:
    """The scheme of a sink in lower case; empty if it has none."""
    scheme, separator, _ = sink.partition("://")
    return scheme.lower() if separator else ""


def guard_scheme(*, secure: bool) -> str:
    """The egress guard's scheme of a connection with TLS, or without."""
    return "https" if secure else "http"


def policy_for_brokers(policy: GuardPolicy, protocol: Protocol) -> GuardPolicy:
    """The egress guard's policy, which also allows the ports that brokers of a protocol listen on."""
    ports = {port for of, port, _ in SINK_SCHEMES.values() if of == protocol}
    return replace(policy, allow_ports=policy.allow_ports | ports)


def refusal_of_host(protocol: Protocol, host: str, port: int, policy: GuardPolicy, *, secure: bool) -> str | None:
    """The reason why a host of a sink or a broker is refused, as far as its name tells; None if it is allowed."""
    if policy.by_proxy:
        return "security.egress_proxy is set, and brokers cannot be reached through it"
    written = f"[{host}]" if ":" in host else host
    if _HOST.fullmatch(written) is None:
        return "the host or the port is malformed"
    url = f"{guard_scheme(secure=secure)}://{written}:{port}"
    refusal = refusal_of_url(url, policy_for_brokers(policy, protocol))
    return None if refusal is None else for_brokers(refusal)


def for_brokers(refusal: str) -> str:
    """A refusal of the guard, which speaks of web addresses, in words that fit a broker: many are private for good."""
    refusal = refusal.replace("http is not allowed: use https", "without TLS is not allowed: use kafkas, tls or amqps")
    return refusal.replace(" permits it for development", " permits it")


BEHIND = "behind"
"""The `error` of an event that is not published, or is published again, since an earlier one of its order failed."""
HELD_BACK = Published(error=BEHIND, detail="an earlier event of its order was not acknowledged")


def unsent_behind(messages: Sequence[Message], results: Sequence[Published | None]) -> list[Published]:
    """The results, in which a message counts as failed if an earlier one of its order did: both are sent again, so that
    a consumer never sees the later one first. None: no result came in time."""
    failed: set[str] = set()
    found: list[Published] = []
    for message, result in zip(messages, results, strict=True):
        result = result or Published(error="timeout", detail="no acknowledgement in time")
        if message.order is not None:
            if result.error is None and message.order in failed:
                result = HELD_BACK
            if result.error is not None:
                failed.add(message.order)
        found.append(result)
    return found
