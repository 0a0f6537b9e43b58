"""A subscription in JSON: the request bodies and the answer, with their examples.

`subscription_checks.py` reads the bodies, `subscription_views.py` makes the answers.
"""

from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from relay.api.deliveries.sink_credentials import (
    ShownCredential,
    SinkCredentialBody,
)
from relay.api.http.examples import SUBSCRIPTION_ID, TIME
from relay.api.http.fields import (
    MAX_ID_CHARACTERS,
    MAX_TYPES,
    MAX_URL_CHARACTERS,
    Body,
    Duration,
    NextCursor,
    Time,
)
from relay.api.http.problems import did_you_mean
from relay.clock import from_rfc3339, time_zones, zone_named
from relay.core.deliveries.bundles import BATCH_EVENTS, BATCH_SECONDS
from relay.core.deliveries.pulls import LAG_COUNTED, LAG_COUNTED_IN_ANSWERS
from relay.core.subscriptions import subscription as core
from relay.core.subscriptions.filters import MAX_COMPARISONS
from relay.core.subscriptions.signing import parse_secret
from relay.core.subscriptions.subscription import Handshake

_OF_CHATS = ("metadata_keys", "time_zone", "channel", "digest_seconds", "messages_per_minute")
_OF_CRMS = ("record", "attach", "unmatched", "object", "api_version", "create_properties")
OPTIONS = (*_OF_CHATS, *_OF_CRMS, "template", "strict", "content_mode", "batch", "dry_run")
"""Fields of `config` that belong to some kinds of sinks only, see `core.subscription.Subscription.options`."""
MAX_RETRIES = 50
MAX_METADATA_KEYS = 5
MAX_DIGEST_SECONDS = 1_800
MAX_BATCH_EVENTS = 1_000
MAX_BATCH_SECONDS = 900.0
MAX_RECORDS = 10
MAX_WORD = 100
_Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
_WORD_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_WORD}
_RECORD_SCHEMA: dict[str, Any] = {
    "anyOf": [_WORD_SCHEMA, {"type": "array", "items": _WORD_SCHEMA, "minItems": 1, "maxItems": MAX_RECORDS}]
}

Method = Literal["POST", "PUT", "PATCH"]
ContentMode = Literal["structured", "binary", "batch"]
AckMode = Literal["all"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
SettlementMode = Literal["unsettled"]
HTTP_SETTINGS = frozenset(("headers", "method"))
MAX_SETTING_CHARACTERS = 1_000
_Setting = Annotated[str, Field(min_length=1, max_length=MAX_SETTING_CHARACTERS)]


def start_seconds(start: str | None) -> float | None:
    """When a subscription starts, in epoch seconds: 0 for all events, None for new ones only. Raises ValueError."""
    if start is None or start == "now":
        return None
    return 0.0 if start == "earliest" else from_rfc3339(start)


def _start(value: str) -> str:
    try:
        start_seconds(value)
    except ValueError:
        raise PydanticCustomError("invalid_start", "now, earliest or an RFC 3339 time is expected") from None
    return value


def _whole(value: object) -> object:
    # JSON has one number type, so 4.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ack_mode(value: object) -> object:
    return "all" if value == -1 and not isinstance(value, bool) else value


def _record(value: object) -> object:
    # A union would name its types in the pointers to mistakes.
    words = value if isinstance(value, list) else [value]
    if 0 < len(words) <= MAX_RECORDS and all(isinstance(one, str) and 0 < len(one) <= MAX_WORD for one in words):
        return value
    raise PydanticCustomError("invalid", f"a word or a list of 1 to {MAX_RECORDS} words is expected")


def _signing_secret(value: str) -> str:
    try:
        parse_secret(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_secret", "{why}", {"why": str(error)}) from None
    return value


def _time_zone(value: str) -> str:
    try:
        zone_named(value)
    except ValueError as error:
        city = value[:100].lower().replace(" ", "_")
        cities = [zone for zone in time_zones() if zone.lower().rpartition("/")[2] == city]
        near = f": did you mean {cities[0]}?" if cities else did_you_mean(value, time_zones(), lists=False)
        why = f"{value[:100]!r} is not a time zone{near}" if near else str(error)
        raise PydanticCustomError("invalid_time_zone", "{why}", {"why": why}) from None
    return value


class ShownProtocolSettings(TypedDict):
    """Settings of the protocol; credentials are redacted. HTTP has `headers` and `method`, a broker those that were
    given, PULL none."""

    headers: NotRequired[dict[str, str]]
    method: NotRequired[Method]
    topicname: NotRequired[str]
    partitionkeyextractor: NotRequired[str]
    clientid: NotRequired[str]
    ackmode: NotRequired[AckMode]
    saslmechanism: NotRequired[SaslMechanism]
    subject: NotRequired[str]
    address: NotRequired[str]
    linkname: NotRequired[str]
    sendersettlementmode: NotRequired[SettlementMode]


class ShownBatch(TypedDict):
    """The limits of a batch."""

    max_events: int
    max_seconds: float


class ShownConfig(TypedDict):
    """How events are rendered, ordered and retried."""

    kind: str
    content_mode: ContentMode
    batch: ShownBatch | None
    ordering: Literal["job", "none"]
    signature: core.Signature
    start: str
    timeout_seconds: float
    retry_schedule: list[float]
    rate_per_second: float | None
    concurrency: int | None
    metadata_keys: list[str] | None
    time_zone: str | None
    channel: str | None
    digest_seconds: int | None
    messages_per_minute: int | None
    template: Any
    strict: bool | None
    record: str | list[str] | None
    attach: str | None
    unmatched: str | None
    object: str | None
    api_version: str | None
    create_properties: bool
    portal: Annotated[str | None, Field(description="The account at the CRM, as the check of the credential found it.")]
    dry_run: bool
    handshake: Handshake
    incidents: core.Incidents
    secret: NotRequired[
        Annotated[
            str,
            Field(description="Only in the answer to the request that created it.", json_schema_extra={"default": ""}),
        ]
    ]


class ShownConsent(TypedDict):
    """The result of the handshake with the sink."""

    origin: str
    rate_per_minute: int | None
    at: Time


class Lag(TypedDict):
    """What the programs that pull have not acknowledged yet, deliveries under a lease included."""

    count: Annotated[
        int, Field(description=f"At most {LAG_COUNTED:,} are counted, {LAG_COUNTED_IN_ANSWERS:,} when they are pulled.")
    ]
    oldest_seconds: Annotated[float | None, Field(description="Age of the oldest one; null if there is none.")]


class Subscription(TypedDict):
    """A subscription. Secret parts of its sink are redacted."""

    id: str
    sink: Annotated[str | None, Field(description="null: protocol PULL.")]
    types: list[str] | None
    source: str | None
    filters: list[dict[str, Any]] | None
    protocol: core.Protocol
    protocolsettings: ShownProtocolSettings
    sinkcredential: ShownCredential | None
    config: ShownConfig
    description: str | None
    state: Literal["enabled", "paused", "disabled", "pending"]
    disabled_reason: str | None
    state_since: Time
    state_reason: str | None
    failing_since: Time | None
    failing_reason: str | None
    paused_until: Time | None
    next_probe_at: Time | None
    owner: Annotated[
        str | None,
        Field(
            description="The account that it is limited to, as source/account: a token bound to that account made it. "
            "null: it is not limited."
        ),
    ]
    declared: Annotated[
        bool, Field(description="Whether `POST /v1/subscriptions/apply` declared it, and may remove it.")
    ]
    next_handshake_at: Time | None
    consent: ShownConsent | None
    lag: NotRequired[Annotated[Lag, Field(description="Of protocol PULL, in lists and where one is read.")]]
    created_at: Time


class Skipped(TypedDict):
    """Deliveries that were not sent because no contact in the CRM matches, or more than one."""

    count: Annotated[int, Field(description="At most a million.")]
    since: Annotated[Time | None, Field(description="When the oldest of them was made; null: there is none.")]


class RemovedSubscription(Subscription):
    """A removed subscription."""

    cancelled: Annotated[int, Field(description="The number of deliveries that were cancelled, counted up to 10,000.")]


class SubscriptionWithSkipped(Subscription):
    """A subscription, with the number of its skipped deliveries. Secret parts of its sink are redacted."""

    skipped: Skipped


class SubscriptionPage(TypedDict):
    """One page of subscriptions."""

    items: list[Subscription]
    next_cursor: NextCursor


class ProtocolSettings(Body):
    """Settings of the protocol, as the CloudEvents Subscriptions API names them."""

    headers: dict[str, str] | None = Field(default=None, description="HTTP: sent with every request.")
    method: Method = Field(default="POST", description="HTTP.")
    topicname: _Setting | None = Field(default=None, description="KAFKA, needed: the topic. It may be a template.")
    partitionkeyextractor: _Setting | None = Field(
        default=None, description="KAFKA: a template of the key of each record. Default: the event's `partitionkey`."
    )
    clientid: _Setting | None = Field(default=None, description="KAFKA: the name of the client. Default: revor-relay.")
    ackmode: Annotated[AckMode, BeforeValidator(_ack_mode)] | None = Field(
        default=None,
        description="KAFKA: `all` or -1, the only one: an event is delivered once all in-sync replicas have it.",
        json_schema_extra={"anyOf": [{"enum": ["all", -1]}, {"type": "null"}]},
    )
    saslmechanism: SaslMechanism | None = Field(
        default=None, description="KAFKA, for a credential of type PLAIN. Default: PLAIN."
    )
    subject: _Setting | None = Field(
        default=None, description="NATS, needed: the subject, which a stream of JetStream has. It may be a template."
    )
    address: _Setting | None = Field(
        default=None,
        description="AMQP, needed: `/queues/NAME` or `/exchanges/NAME/ROUTING-KEY`, percent-encoded. It may be a "
        "template.",
    )
    linkname: _Setting | None = Field(
        default=None, description="AMQP: the name of the connection. Default: revor-relay."
    )
    sendersettlementmode: SettlementMode | None = Field(
        default=None, description="AMQP: `unsettled`, the only one: an event is delivered once it is confirmed."
    )


class Batch(Body):
    """The limits of a batch."""

    max_events: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_BATCH_EVENTS)] = BATCH_EVENTS
    max_seconds: float = Field(
        default=BATCH_SECONDS,
        ge=0,
        le=MAX_BATCH_SECONDS,
        description="The longest time that an event waits for others.",
    )


class SubscriptionConfig(Body):
    """How events are rendered, ordered and retried."""

    kind: str | None = Field(
        default=None, description="Default: inferred from the protocol and the sink's URL, else `webhook`."
    )
    content_mode: ContentMode = Field(
        default="structured",
        description="For kind `webhook` and brokers. `structured`: one event, as JSON. `binary`: its attributes as "
        "headers, which the signature does not cover, and its data as the body. `batch`, for `webhook` only: a JSON "
        "array of events.",
    )
    batch: Batch | None = Field(default=None, description="For content mode `batch`: when a batch is sent.")
    ordering: Literal["job", "none"] = Field(
        default="job",
        description="`job`: an event waits until the earlier events of its job are delivered, dead or cancelled.",
    )
    signature: core.Signature = Field(
        default="v1",
        description="`v1`: HMAC-SHA256 with the subscription's secret. `v1a`: ed25519 with the relay's key pair, whose "
        "public keys are at `/.well-known/webhook-keys.json`. `both`: a signature of each.",
    )
    start: Annotated[str, AfterValidator(_start)] = Field(
        default="now",
        description="The first events to send: `now`, `earliest` or an RFC 3339 time.",
        json_schema_extra={"anyOf": [{"enum": ["now", "earliest"]}, {"format": "date-time"}]},
    )
    timeout_seconds: float | None = Field(default=None, gt=0, le=60)
    retry_schedule: list[Duration] | None = Field(
        default=None,
        max_length=MAX_RETRIES,
        description="The pauses between attempts. Default: `delivery.retry_schedule`.",
    )
    rate_per_second: float | None = Field(default=None, gt=0, le=10_000)
    concurrency: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000)] | None = None
    metadata_keys: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        default=None,
        max_length=MAX_METADATA_KEYS,
        description="For chat kinds: the metadata fields to show in a message. Default: the first five that contain "
        "no personal data.",
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_time_zone)] | None = Field(
        default=None, description="For chat kinds: the IANA time zone of the times in messages. Default: UTC."
    )
    channel: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="For kind `slack` with a bot token, which needs it: the id or the name of the channel to post to.",
    )
    digest_seconds: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_DIGEST_SECONDS)] | None = Field(
        default=None,
        description="For `slack`, `teams` and `discord`: one message for all events that came within this time, "
        "which the first one starts; incidents and finished groups come at once. Default: a message for each event.",
    )
    messages_per_minute: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=60)] | None = Field(
        default=None,
        description="For `slack`, `teams` and `discord`: how many messages a minute are about one event each. What "
        "exceeds them comes as one digest. Default: 20.",
    )
    template: Any = Field(
        default=None,
        description="For the kinds `webhook` and `flat`: the body of each request, as a JSON document whose texts are "
        "Liquid. Needs the extra `templates`.",
    )
    strict: bool | None = Field(
        default=None,
        description="With a template: an event that lacks a name in it is not sent, and its delivery is `dead`. "
        "Default: such a name is empty text.",
    )
    record: Annotated[str | list[str], PlainValidator(_record), WithJsonSchema(_RECORD_SCHEMA)] | None = Field(
        default=None,
        description="For CRMs: what is written. `hubspot`: `properties`, `note`, `task`, or a list of these. "
        "`pipedrive`: `note` or `activity`.",
    )
    attach: _Word | None = Field(
        default=None,
        description="For `pipedrive`: what a record of a person is attached to: their newest open `deal`, their newest "
        "`lead`, or the `person`.",
    )
    unmatched: _Word | None = Field(
        default=None,
        description="For CRMs: what follows if the CRM knows no person whom an event is about: `skip` (default), "
        "`create` or `fail`.",
    )
    object: _Word | None = Field(
        default=None, description="For `salesforce`: the object of the records, such as `Job_Event__c` or `Task`."
    )
    api_version: _Word | None = Field(
        default=None,
        description="For `salesforce`: the version of its API, such as `62.0`. Default: the newest one that the "
        "instance and the relay know when the subscription is checked.",
    )
    create_properties: bool = Field(
        default=False,
        description="For `hubspot`: the check of the credential makes the properties that the relay needs.",
    )
    portal: _Word | None = Field(
        default=None,
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
    secret: Annotated[str, AfterValidator(_signing_secret)] | None = Field(
        default=None, description="Your own signing secret, `whsec_…`. Default: a generated one."
    )


_FILTER: dict[str, Any] = {"type": "object", "minProperties": 1, "maxProperties": 1}


class SubscriptionCreate(Body):
    """A subscription, in the shape of the CloudEvents Subscriptions API."""

    read_only: ClassVar[frozenset[str]] = frozenset(SubscriptionWithSkipped.__annotations__)

    sink: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)] | None = Field(
        default=None,
        description="Where events are sent to: an https URL, or a broker such as `kafkas://one.example:9093,"
        "two.example:9093`, `tls://nats.example:4222` or `amqps://rabbit.example/vhost`. Needed unless `protocol` is "
        "PULL, which has none.",
    )
    types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Event types, full or short (`failed`). Default: all job events; for chat kinds what people "
        "act on or wait for: failures, incidents, trouble, finished groups.",
    )
    source: str | None = Field(default=None, description="Send only events with this CloudEvents `source`.")
    filters: list[Annotated[Any, WithJsonSchema(_FILTER)]] | None = Field(
        default=None,
        max_length=MAX_COMPARISONS,
        description="Send only events for which all of these are true: filters of the CloudEvents Subscriptions API in "
        "the dialects `exact`, `prefix`, `suffix`, `all`, `any` and `not`, with names of attributes or JSON pointers "
        "into the event (`/data/metadata/deal`), and the dialects `in`, `contains`, `range` and `exists`.",
    )
    protocol: core.Protocol | None = Field(
        default=None,
        description="Default: that of the sink's scheme. KAFKA: `kafka://`, `kafkas://`. NATS: `nats://`, `tls://`. "
        "AMQP: `amqp://`, `amqps://`. PULL: a program asks for its events.",
    )
    protocolsettings: ProtocolSettings | None = None
    sinkcredential: SinkCredentialBody | None = Field(
        default=None,
        description="What the sink asks for besides the signature. Sent only to the sink's scheme, host and port, and "
        "never shown again. `PUT` keeps it if it is absent, and removes it if it is null.",
    )
    config: SubscriptionConfig | None = None
    description: str | None = Field(default=None, max_length=1_000)


class DeclaredSubscription(SubscriptionCreate):
    """A subscription as `subscriptions` in relay.yaml declares it. What it omits has its default."""

    id: str = Field(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="The subscription's id, of your own choice: letters, digits, dots, dashes and underscores.",
    )
    owner: str | None = Field(
        default=None,
        max_length=MAX_ID_CHARACTERS,
        description="The only account whose events it gets, as source/account. Default: the account of the token, if "
        "it is bound to one.",
    )


_IGNORED: dict[str, Any] = {
    name: (Any, Field(default=None, description="Ignored."))
    for name in SubscriptionWithSkipped.__annotations__
    if name not in SubscriptionCreate.model_fields
}
SubscriptionReplace = create_model(
    "SubscriptionReplace",
    __base__=SubscriptionCreate,
    __doc__="The new settings of a subscription; omitted fields return to their defaults. The answer of `GET` can be "
    "sent back: read-only fields are ignored, and a redacted sink or header keeps its value.",
    **_IGNORED,
)


_EXAMPLE: Subscription = {
    "id": SUBSCRIPTION_ID,
    "sink": "https://receiver.example/hooks",
    "types": ["ai.revor.job.failed"],
    "source": None,
    "filters": [{"exact": {"channel": "linkedin"}}],
    "protocol": "HTTP",
    "protocolsettings": {"headers": {}, "method": "POST"},
    "sinkcredential": None,
    "config": {
        "kind": "webhook",
        "content_mode": "structured",
        "batch": None,
        "ordering": "job",
        "signature": "v1",
        "start": "now",
        "timeout_seconds": 15.0,
        "retry_schedule": [5.0, 300.0, 1800.0],
        "rate_per_second": None,
        "concurrency": None,
        "metadata_keys": None,
        "time_zone": None,
        "channel": None,
        "digest_seconds": None,
        "messages_per_minute": None,
        "template": None,
        "strict": None,
        "record": None,
        "attach": None,
        "unmatched": None,
        "object": None,
        "api_version": None,
        "create_properties": False,
        "portal": None,
        "dry_run": False,
        "handshake": "off",
        "incidents": "off",
    },
    "description": "The CRM",
    "state": "enabled",
    "disabled_reason": None,
    "state_since": TIME,
    "state_reason": None,
    "failing_since": None,
    "failing_reason": None,
    "paused_until": None,
    "next_probe_at": None,
    "owner": None,
    "declared": False,
    "next_handshake_at": None,
    "consent": None,
    "created_at": TIME,
}
EXAMPLES: dict[str, Any] = {
    "SubscriptionCreate": {
        "sink": "https://receiver.example/hooks",
        "filters": [{"exact": {"channel": "linkedin"}}, {"not": {"prefix": {"group": "test-"}}}],
        "sinkcredential": {"credentialtype": "PLAIN", "identifier": "relay", "secret": "a password"},
        "config": {"retry_schedule": ["5s", "5m", 1800]},
        "description": "The CRM",
    },
    "DeclaredSubscription": {
        "id": "crm",
        "sink": "https://receiver.example/hooks",
        "config": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    },
    "SubscriptionReplace": {"sink": "https://receiver.example/hooks", "description": "The new CRM"},
    "Subscription": _EXAMPLE,
    "RemovedSubscription": {**_EXAMPLE, "cancelled": 5},
    "SubscriptionWithSkipped": {**_EXAMPLE, "skipped": {"count": 0, "since": None}},
    "SubscriptionPage": {"items": [_EXAMPLE], "next_cursor": None},
}
