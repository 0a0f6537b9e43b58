"""All kinds of sinks by name, and the kind inferred from a sink's URL."""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType

from relay.core.deliveries.broker import Broker, Message, protocol_of
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from relay.errors import FieldError, InvalidRequest
from relay.redaction import split_url, url_without_path
from subscribers.base import Kind
from subscribers.common.brokers import ToBroker
from subscribers.discord import Discord
from subscribers.flat import Flat
from subscribers.hubspot import HubSpot
from subscribers.kafka import Kafka
from subscribers.nats import Nats
from subscribers.pipedrive import Pipedrive
from subscribers.pull import Pull
from subscribers.rabbitmq import RabbitMq
from subscribers.salesforce import Salesforce
from subscribers.slack import Slack
from subscribers.slack_workflow import SlackWorkflow
from subscribers.teams import Teams
from subscribers.webhook import Webhook

_ALL: tuple[type[Kind], ...] = (
    *(Webhook, Slack, SlackWorkflow, Teams, Discord, Flat, HubSpot, Salesforce, Pipedrive),
    *(Kafka, Nats, RabbitMq, Pull),
)
_KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind() for kind in _ALL})
_INFERRED = (
    (r"(hooks\.)?slack(-gov)?\.com", r"/(triggers|workflows)/.*", "slack_workflow"),
    (r"(hooks\.)?slack(-gov)?\.com", "", "slack"),
    (r"(.+\.)?discord(app)?\.com", "", "discord"),
    # Workflows of Power Automate, in all of Microsoft's clouds, and the retired connectors, which `teams` refuses.
    (
        r".+\.(logic\.azure\.(com|us|cn)|powerplatform\.com|powerplatform\.microsoft\.us|appsplatform\.us"
        r"|powerplatform\.partner\.microsoftonline\.cn)",
        r".*/triggers/[^/]+/paths/invoke.*",
        "teams",
    ),
    (r".+\.webhook\.office\.com|outlook\.office(365)?\.com", r"/webhook.*", "teams"),
    (
        r"hooks\.zapier\.com|hook\.(.+\.)?(make|celonis|integromat)\.com|.+\.pipedream\.net|maker\.ifttt\.com",
        "",
        "flat",
    ),
    # The address of an API. One with a path is a webhook there, such as a workflow's trigger or a class in Apex.
    (HubSpot.hosts, "/?", "hubspot"),
    (r"(.+\.my|login|test)\.salesforce\.(com|mil)|.+\.lightning\.force\.com", "/?", "salesforce"),
    (r".+\.pipedrive\.com", "/?", "pipedrive"),
    (r".+\.app\.n8n\.cloud", r"/webhook(-test)?/.*", "flat"),
)
"""Patterns of hosts and of paths ("": any), with the kind of sink that is there."""
_PATTERNS = tuple((re.compile(host), re.compile(path or ".*"), kind) for host, path, kind in _INFERRED)


def kinds() -> Mapping[str, Kind]:
    """All kinds by name."""
    return _KINDS


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises InvalidRequest, which suggests the nearest name, if there is none."""
    kind = _KINDS.get(name)
    if kind is not None:
        return kind
    near = difflib.get_close_matches(name.lower(), _KINDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KINDS)}"
    detail = f"{name!r:.100} is not a kind of subscription: {hint}"
    raise InvalidRequest(detail, errors=[FieldError(pointer="/config/kind", code="unknown_kind", detail=detail)])


def website_of(name: str, sink: str) -> tuple[str, str] | None:
    """The name of a kind, and where people work with it in a browser; None if that is not known."""
    kind = _KINDS.get(name)
    if kind is None or not kind.offer.website:
        return None
    scheme, _, rest = sink.partition("://")
    return kind.offer.name or kind.title, kind.offer.website.format(origin=f"{scheme}://{rest.partition('/')[0]}")


def redacted_url(name: str, url: str) -> str:
    """The URL of a sink of the kind of this name, as it may be shown. Of an unknown kind only the host."""
    known = _KINDS.get(name)
    return url_without_path(url) if known is None else known.redacted_url(url)


def broker_of(subscription: Subscription) -> tuple[Broker, Message | None] | None:
    """The broker of a subscription, and a destination to check there; None: it has none."""
    kind = kind_named(subscription.kind)
    return (kind.broker(subscription), kind.place(subscription)) if isinstance(kind, ToBroker) else None


def infer_kind(sink: str) -> str:
    """The kind of a sink with the scheme of a broker or the URL of a known service, else `webhook`; without a sink,
    `pull`."""
    protocol = "PULL" if not sink else protocol_of(sink)
    if protocol is not None:
        return next(kind for kind, known in PROTOCOLS.items() if known == protocol)
    parts = split_url(sink)
    if parts is None:
        return "webhook"
    host = (parts.hostname or "").rstrip(".")
    found = (kind for hosts, paths, kind in _PATTERNS if hosts.fullmatch(host) and paths.fullmatch(parts.path))
    return next(found, "webhook")
