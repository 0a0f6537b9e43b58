"""A subscription in JSON: the request bodies and the answer. `checks.py` reads the bodies, `kind_fields.py` has the
fields of some kinds only."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema, create_model

from relay.api.deliveries.sink_credentials import CREDENTIALS, ShownCredential, SinkCredentialBody
from relay.api.http.dependencies import ApiSettings
from relay.api.http.fields import (
    FAILED,
    MAX_ID_CHARACTERS,
    MAX_TYPES,
    MAX_URL_CHARACTERS,
    SUBSCRIPTION_ID,
    Body,
    Duration,
    checked,
    header_view,
)
from relay.api.http.shown import Shown, Time, page_of
from relay.api.subscriptions.kind_fields import WithKindFields, shown_fields
from relay.clock import from_rfc3339, to_rfc3339
from relay.core.deliveries.pulls import LAG_COUNTED, LAG_COUNTED_IN_ANSWERS
from relay.core.subscriptions import subscription as core
from relay.core.subscriptions.filters import MAX_COMPARISONS
from relay.core.subscriptions.signing import parse_secret
from relay.core.subscriptions.subscription import Handshake
from subscribers.fields import Part, WrittenField, kind_fields, merged
from subscribers.options import Cli, Whole

MAX_RETRIES = 50

_SINK = "https://receiver.example/hooks"

Method = Literal["POST", "PUT", "PATCH"]


def start_seconds(start: str | None) -> float | None:
    """Start of a subscription in epoch seconds: 0 for all events, None for new ones only. Raises ValueError."""
    if start is None or start == "now":
        return None
    return 0.0 if start == "earliest" else from_rfc3339(start)


def start_text(start_at: float | None) -> str:
    """The value of `config.start`."""
    if start_at is None:
        return "now"
    return to_rfc3339(start_at) if start_at else "earliest"


def start_differs(start: str, start_at: float | None) -> str | None:
    """The reason to refuse a given `config.start` of a subscription that starts otherwise; None if it is the same, in
    whatever form: a start is shown in milliseconds."""
    shown = start_text(start_at)
    return None if start_text(start_seconds(start)) == shown else f"it cannot be changed; it is {shown!r}"


Start = Annotated[str, checked(start_seconds, "invalid_start", "now, earliest or an RFC 3339 time is expected")]


class ShownProtocolSettings(Shown, WithKindFields):
    """Settings of the protocol; credentials are redacted. HTTP has `headers` and `method`, a broker those that were
    given, PULL none."""

    part: ClassVar[Part] = "protocolsettings"

    headers: dict[str, str] = Field(default={}, examples=[{}])
    method: Method = Field(default="POST", examples=["POST"])


class ShownConfig(Shown, WithKindFields):
    """Rendering, order and retries of events: the fields of every kind, and those of its own."""

    example: ClassVar[Mapping[str, Any]] = shown_fields(core.Subscription(id=SUBSCRIPTION_ID, sink=_SINK), "config")

    kind: str = Field(examples=["webhook"])
    ordering: Literal["job", "none"]
    signature: core.Signature
    start: str = Field(examples=["now"])
    timeout_seconds: float = Field(examples=[15.0])
    retry_schedule: list[float] = Field(examples=[[5.0, 300.0, 1800.0]])
    rate_per_second: float | None
    concurrency: int | None
    portal: str | None = Field(description="The account at the CRM, as the check of the credential found it.")
    dry_run: bool
    handshake: Handshake
    incidents: core.Incidents
    secret: str = Field(default="", description="Only in the answer to the request that created it.")


class ShownConsent(Shown):
    """The result of the handshake with the sink."""

    origin: str
    rate_per_minute: int | None
    at: Time


class Lag(Shown):
    """The backlog of a pull subscription, deliveries under a lease included."""

    count: int = Field(
        description=f"At most {LAG_COUNTED:,} are counted, {LAG_COUNTED_IN_ANSWERS:,} when they are pulled.",
        examples=[1],
    )
    oldest_seconds: float | None = Field(description="Age of the oldest one; null if there is none.", examples=[2.5])


class Subscription(Shown):
    """A subscription. Secret parts of its sink are redacted."""

    id: str = Field(examples=[SUBSCRIPTION_ID])
    sink: str | None = Field(description="null: protocol PULL.", examples=[_SINK])
    types: list[str] | None = Field(examples=[[FAILED]])
    source: str | None
    filters: list[dict[str, Any]] | None = Field(examples=[[{"exact": {"channel": "linkedin"}}]])
    protocol: core.Protocol
    protocolsettings: ShownProtocolSettings
    sinkcredential: ShownCredential | None
    config: ShownConfig
    description: str | None = Field(examples=["The CRM"])
    state: core.State
    disabled_reason: str | None
    state_since: Time
    state_reason: str | None
    failing_since: Time | None
    failing_reason: str | None
    paused_until: Time | None
    next_probe_at: Time | None
    owner: str | None = Field(
        description="The account that it is limited to, as source/account: a token bound to that account made it. "
        "null: it is not limited."
    )
    declared: bool = Field(description="Whether `POST /v1/subscriptions/apply` declared it, and may remove it.")
    next_handshake_at: Time | None
    consent: ShownConsent | None
    lag: Lag = Field(
        default_factory=lambda: Lag.model_construct(count=0, oldest_seconds=None),
        description="Of protocol PULL, in lists and where one is read.",
    )
    created_at: Time


class NewSubscription(Subscription):
    """A subscription as its creation or change answers."""

    warnings: list[str] = Field(default=[], description="What is likely to be wrong, such as a host without address.")


class Skipped(Shown):
    """Deliveries that were not sent because no contact in the CRM matches, or more than one."""

    count: int = Field(description="At most a million.")
    since: Time | None = Field(description="When the oldest of them was made; null: there is none.")


class RemovedSubscription(Subscription):
    """A removed subscription."""

    cancelled: int = Field(
        description="The number of deliveries that were cancelled, counted up to 10,000.", examples=[5]
    )


class SubscriptionWithSkipped(Subscription):
    """A subscription, with the number of its skipped deliveries. Secret parts of its sink are redacted."""

    skipped: Skipped


SubscriptionPage = page_of(Subscription, "subscriptions")


def subscription_view(
    subscription: core.Subscription,
    shown_sink: Callable[[str, str], str],
    settings: ApiSettings,
    *,
    secret: str | None = None,
) -> dict[str, Any]:
    """A subscription, with the defaults of the settings filled in. `secret` is only shown once, on creation."""
    own_timeout, own_schedule = subscription.timeout_seconds, subscription.retry_schedule_seconds
    config = ShownConfig.of(
        subscription,
        signature="both" if subscription.callback else subscription.signature,
        start=start_text(subscription.start_at),
        timeout_seconds=settings.default_timeout_seconds if own_timeout is None else own_timeout,
        retry_schedule=settings.default_retry_schedule_seconds if own_schedule is None else own_schedule,
        portal=subscription.options.get(core.PORTAL),
        dry_run=subscription.options.get("dry_run", False),
        **({} if secret is None else {"secret": secret}),
    )
    return Subscription.of(
        subscription,
        sink=shown_sink(subscription.kind, subscription.sink) or None,
        filters=[dict(one) for one in subscription.filters] or None,
        protocolsettings=_settings_view(subscription),
        sinkcredential=None if subscription.credential is None else subscription.credential.shown,
        config={**config, **shown_fields(subscription, "config")},
        state_since=subscription.state_since or subscription.created_at,
        next_probe_at=subscription.probe_at,
        declared=subscription.declared is not None,
        next_handshake_at=subscription.handshake_at,
    )


def _settings_view(subscription: core.Subscription) -> dict[str, Any]:
    if subscription.protocol != "HTTP":
        return dict(subscription.options.get(core.SETTINGS) or {})
    headers = {name: header_view(name, value) for name, value in subscription.headers}
    return {"headers": headers, "method": subscription.method}


class ProtocolSettings(Body, WithKindFields):
    """Settings of the protocol, as the CloudEvents Subscriptions API names them."""

    part: ClassVar[Part] = "protocolsettings"

    headers: Annotated[dict[str, str] | None, Cli("header", "NAME: VALUE")] = Field(
        default=None, description="HTTP: sent with every request.", examples=[{"X-Team": "sales"}]
    )
    method: Method = Field(default="POST", description="HTTP: `POST`, `PUT` or `PATCH`.")


class SubscriptionConfig(Body, WithKindFields):
    """Rendering, order and retries of events."""

    kind: str | None = Field(
        default=None,
        description="The kind of the sink. Default: inferred from the protocol and the sink's URL, else `webhook`.",
    )
    ordering: Literal["job", "none"] = Field(
        default="job",
        description="`job`: an event waits until the earlier events of its job are delivered, dead or cancelled.",
    )
    signature: core.Signature = Field(
        default="v1",
        description="`v1`: HMAC-SHA256 with the subscription's secret. `v1a`: ed25519 with the relay's key pair, whose "
        "public keys are at `/.well-known/webhook-keys.json`. `both`: a signature of each.",
    )
    start: Annotated[Start, Cli(creates=True)] = Field(
        default="now",
        description="The first events to send: `now`, `earliest` or an RFC 3339 time.",
        json_schema_extra={"anyOf": [{"enum": ["now", "earliest"]}, {"format": "date-time"}]},
    )
    timeout_seconds: Annotated[float | None, Cli("timeout")] = Field(
        default=None,
        gt=0,
        le=60,
        description="Maximum seconds per attempt. Default: `delivery.timeout_seconds`.",
        examples=[7.5],
    )
    retry_schedule: list[Duration] | None = Field(
        default=None,
        max_length=MAX_RETRIES,
        description="The pauses between attempts. Default: `delivery.retry_schedule`.",
        examples=[["5s", "5m", "2h"]],
    )
    rate_per_second: Annotated[float | None, Cli("rate")] = Field(
        default=None, gt=0, le=10_000, description="Maximum deliveries per second. Default: no maximum.", examples=[10]
    )
    concurrency: Annotated[Whole, Field(ge=1, le=1_000)] | None = Field(
        default=None, description="Maximum deliveries at the same time. Default: no maximum of its own.", examples=[4]
    )
    portal: Annotated[str | None, Cli(own=False)] = Field(
        default=None,
        json_schema_extra={"readOnly": True},
        description="Read-only: the account at the CRM, as the check of the credential found it. `PUT` ignores it.",
    )
    dry_run: bool = Field(
        default=False,
        description="Nothing is sent: an attempt shows the requests that would have been, and the delivery counts as "
        "delivered.",
    )
    handshake: Handshake = Field(
        default="off",
        description="`required`: the sink must agree before the first event. The setting `security.handshake` is the "
        "minimum.",
    )
    incidents: core.Incidents | None = Field(
        default=None,
        description="For chat kinds: `collapse` (their default): incidents instead of the failures in them. `both`: "
        "incidents and each failure. `off`: each failure.",
    )
    secret: Annotated[Annotated[str, checked(parse_secret, "invalid_secret")] | None, Cli(creates=True)] = Field(
        default=None,
        description="Your own signing secret, `whsec_…`. Default: a generated one.",
        json_schema_extra={"writeOnly": True},
    )


_FILTER: dict[str, Any] = {"type": "object", "minProperties": 1, "maxProperties": 1}


class SubscriptionCreate(Body):
    """A subscription, in the shape of the CloudEvents Subscriptions API."""

    read_only: ClassVar[frozenset[str]] = frozenset(SubscriptionWithSkipped.model_fields)

    sink: Annotated[Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)] | None, Cli(own=False)] = Field(
        default=None,
        description="Where events are sent to: an https URL, or a broker such as `kafkas://one.example:9093,"
        "two.example:9093`, `tls://nats.example:4222` or `amqps://rabbit.example/vhost`. Needed unless `protocol` is "
        "PULL, which has none.",
        examples=[_SINK],
    )
    types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Event types, full or short (`failed`). Default: all job events; for chat kinds what people "
        "act on or wait for: failures, incidents, trouble, finished groups.",
    )
    source: str | None = Field(default=None, description="Send only events with this CloudEvents `source`.")
    filters: Annotated[list[Annotated[Any, WithJsonSchema(_FILTER)]] | None, Cli(metavar="FILE-or-JSON")] = Field(
        default=None,
        max_length=MAX_COMPARISONS,
        description="Send only events for which all of these are true: filters of the CloudEvents Subscriptions API in "
        "the dialects `exact`, `prefix`, `suffix`, `all`, `any` and `not`, with names of attributes or JSON pointers "
        "into the event (`/data/metadata/deal`), and the dialects `in`, `contains`, `range` and `exists`.",
        examples=[[{"exact": {"channel": "linkedin"}}, {"not": {"prefix": {"group": "test-"}}}]],
    )
    protocol: Annotated[core.Protocol | None, Cli(own=False)] = Field(
        default=None,
        description="Default: that of the sink's scheme. KAFKA: `kafka://`, `kafkas://`. NATS: `nats://`, `tls://`. "
        "AMQP: `amqp://`, `amqps://`. PULL: a program asks for its events.",
    )
    protocolsettings: Annotated[ProtocolSettings | None, Cli(own=False)] = None
    sinkcredential: Annotated[SinkCredentialBody | None, Cli("credential", "FILE")] = Field(
        default=None,
        description="What the sink asks for besides the signature. Sent only to the sink's scheme, host and port, and "
        "never shown again. `PUT` keeps it if it is absent, and removes it if it is null.",
        examples=[{"credentialtype": "PLAIN", "identifier": "relay", "secret": "a password"}],
    )
    config: Annotated[SubscriptionConfig | None, Cli(own=False)] = Field(
        default=None, examples=[{"retry_schedule": ["5s", "5m", 1800]}]
    )
    description: str | None = Field(
        default=None, max_length=1_000, description="What people call it.", examples=["The CRM"]
    )


class DeclaredSubscription(SubscriptionCreate):
    """A subscription as `subscriptions` in relay.yaml declares it. What it omits has its default."""

    config: SubscriptionConfig | None = Field(
        default=None, examples=[{"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]
    )
    id: str = Field(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="The subscription's id, of your own choice: letters, digits, dots, dashes and underscores.",
        examples=["crm"],
    )
    owner: str | None = Field(
        default=None,
        max_length=MAX_ID_CHARACTERS,
        description="The only account whose events it gets, as source/account. Default: the account of the token, if "
        "it is bound to one.",
    )


_IGNORED: dict[str, Any] = {
    name: (Any, Field(default=None, description="Ignored."))
    for name in SubscriptionWithSkipped.model_fields
    if name not in SubscriptionCreate.model_fields
}
SubscriptionReplace = create_model(
    "SubscriptionReplace",
    __base__=SubscriptionCreate,
    __doc__="The new settings of a subscription; omitted fields return to their defaults. The answer of `GET` can be "
    "sent back: read-only fields are ignored, and a redacted sink or header keeps its value.",
    **_IGNORED,
)


@cache
def written_fields() -> tuple[WrittenField, ...]:
    """Every field that a person can write: of the subscription itself, of its parts, and of each kind and credential.
    The options of the command line and the fields of the dashboard's form are made from them."""
    return (
        *merged("", [("", SubscriptionCreate)], "".join),
        *merged("protocolsettings", [("", ProtocolSettings)], "".join),
        *kind_fields("protocolsettings"),
        *merged("config", [("", SubscriptionConfig)], "".join),
        *kind_fields("config"),
        *merged("sinkcredential", CREDENTIALS.items(), ", ".join),
    )
