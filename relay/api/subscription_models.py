"""A subscription in JSON: the request bodies, the answer, and both conversions to and from the core value."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NotRequired, cast

from pydantic import AfterValidator, BeforeValidator, Field, create_model
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from relay.api.examples import SUBSCRIPTION_ID, TIME
from relay.api.fields import (
    MAX_TYPES,
    MAX_URL_CHARACTERS,
    Body,
    Duration,
    NextCursor,
    Time,
    header_view,
)
from relay.api.names import event_types
from relay.api.operations import Context
from relay.api.ports import ApiSettings
from relay.api.problems import did_you_mean
from relay.api.registration import check_sink
from relay.api.sink_credentials import (
    ShownCredential,
    SinkCredentialBody,
    credential_errors,
    credential_view,
    is_shown,
    kept_credential,
    made_credential,
)
from relay.api.validation import invalid, pointer_of, validate
from relay.clock import from_rfc3339, optional_rfc3339, to_rfc3339
from relay.core import handshake
from relay.core import subscription as core
from relay.core.credentials import SinkCredential
from relay.core.events import INCIDENT_EVENTS
from relay.core.netguard import check_custom_headers, origin_of
from relay.core.signing import parse_secret
from relay.core.subscription import Handshake
from relay.errors import FieldError
from relay.ids import new_id
from relay.redaction import REDACTED, url_without_path

MAX_RETRIES = 50
MAX_METADATA_KEYS = 5

Method = Literal["POST", "PUT", "PATCH"]


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


def _signing_secret(value: str) -> str:
    try:
        parse_secret(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_secret", "{why}", {"why": str(error)}) from None
    return value


class ShownProtocolSettings(TypedDict):
    """Settings of the requests to the sink; credentials are redacted."""

    headers: dict[str, str]
    method: Method


class ShownConfig(TypedDict):
    """How events are rendered, ordered and retried."""

    kind: str
    content_mode: Literal["structured"]
    ordering: Literal["job", "none"]
    signature: core.Signature
    start: str
    timeout_seconds: float
    retry_schedule: list[float]
    rate_per_second: float | None
    concurrency: int | None
    metadata_keys: list[str] | None
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

    granted: bool
    origin: str
    rate_per_minute: int | None
    at: Time


class Subscription(TypedDict):
    """A subscription. Secret parts of its sink are redacted."""

    id: str
    sink: str
    types: list[str] | None
    source: str | None
    protocol: Literal["HTTP"]
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
    next_handshake_at: Time | None
    consent: ShownConsent | None
    created_at: Time


class SubscriptionPage(TypedDict):
    """One page of subscriptions."""

    items: list[Subscription]
    next_cursor: NextCursor


class ProtocolSettings(Body):
    """Settings of the requests to the sink."""

    headers: dict[str, str] | None = Field(default=None, description="Sent with every request.")
    method: Method = "POST"


class SubscriptionConfig(Body):
    """How events are rendered, ordered and retried."""

    kind: str | None = Field(default=None, description="Default: inferred from the sink's host, else `webhook`.")
    content_mode: Literal["structured"] = "structured"
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
        description="For kind `slack`: the metadata fields to show in a message. Default: the first five that contain "
        "no personal data.",
    )
    handshake: Handshake = Field(
        default="off",
        description="Whether the sink must agree before the first event: `required`, or `optional` (it is asked, and "
        "gets its events in any case). The setting `security.handshake` is the minimum.",
    )
    incidents: core.Incidents | None = Field(
        default=None,
        description="For chat kinds: `collapse` (their default): incidents instead of the failures in them. `both`: "
        "incidents and each failure. `off`: each failure.",
    )
    secret: Annotated[str, AfterValidator(_signing_secret)] | None = Field(
        default=None, description="Your own signing secret, `whsec_…`. Default: a generated one."
    )


class SubscriptionCreate(Body):
    """A subscription, in the shape of the CloudEvents Subscriptions API."""

    read_only: ClassVar[frozenset[str]] = frozenset(Subscription.__annotations__)

    sink: str = Field(min_length=1, max_length=MAX_URL_CHARACTERS, description="The https URL that events are sent to.")
    types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Event types, full or short (`failed`). Default: all job events; for chat kinds what people "
        "act on or wait for: failures, incidents, trouble, finished groups.",
    )
    source: str | None = Field(default=None, description="Send only events with this CloudEvents `source`.")
    protocol: Literal["HTTP"] = "HTTP"
    protocolsettings: ProtocolSettings | None = None
    sinkcredential: SinkCredentialBody | None = Field(
        default=None,
        description="What the sink asks for besides the signature. Sent only to the sink's scheme, host and port, and "
        "never shown again. `PUT` keeps it if it is absent, and removes it if it is null.",
    )
    config: SubscriptionConfig | None = None
    description: str | None = Field(default=None, max_length=1_000)


_IGNORED: dict[str, Any] = {
    name: (Any, Field(default=None, description="Ignored."))
    for name in Subscription.__annotations__
    if name not in SubscriptionCreate.model_fields
}
SubscriptionReplace = create_model(
    "SubscriptionReplace",
    __base__=SubscriptionCreate,
    __doc__="The new settings of a subscription; omitted fields return to their defaults. The answer of `GET` can be "
    "sent back: read-only fields are ignored, and a redacted sink or header keeps its value.",
    **_IGNORED,
)


def subscription_view(
    subscription: core.Subscription,
    shown_sink: Callable[[str, str], str],
    settings: ApiSettings,
    *,
    secret: str | None = None,
) -> Subscription:
    """A subscription, with the defaults of the settings filled in. `secret` is only shown once, on creation."""
    own_timeout, own_schedule = subscription.timeout_seconds, subscription.retry_schedule_seconds
    config: ShownConfig = {
        "kind": subscription.kind,
        "content_mode": "structured",
        "ordering": subscription.ordering,
        "signature": "both" if subscription.callback else subscription.signature,
        "start": start_view(subscription.start_at),
        "timeout_seconds": settings.default_timeout_seconds if own_timeout is None else own_timeout,
        "retry_schedule": list(settings.default_retry_schedule_seconds if own_schedule is None else own_schedule),
        "rate_per_second": subscription.rate_per_second,
        "concurrency": subscription.concurrency,
        "metadata_keys": subscription.options.get("metadata_keys"),
        "handshake": subscription.handshake,
        "incidents": subscription.incidents,
    }
    if secret is not None:
        config["secret"] = secret
    return {
        "id": subscription.id,
        "sink": shown_sink(subscription.kind, subscription.sink),
        "types": None if subscription.types is None else list(subscription.types),
        "source": subscription.source,
        "protocol": "HTTP",
        "protocolsettings": {
            "headers": {name: header_view(name, value) for name, value in subscription.headers},
            "method": cast("Method", subscription.method),
        },
        "sinkcredential": credential_view(subscription.credential),
        "config": config,
        "description": subscription.description,
        "state": subscription.state,
        "disabled_reason": subscription.disabled_reason,
        "state_since": to_rfc3339(subscription.state_since or subscription.created_at),
        "state_reason": subscription.state_reason,
        "failing_since": optional_rfc3339(subscription.failing_since),
        "failing_reason": subscription.failing_reason,
        "paused_until": optional_rfc3339(subscription.paused_until),
        "next_probe_at": optional_rfc3339(subscription.probe_at),
        "owner": subscription.owner,
        "next_handshake_at": optional_rfc3339(subscription.handshake_at),
        "consent": _consent_view(subscription.consent),
        "created_at": to_rfc3339(subscription.created_at),
    }


def _consent_view(consent: core.Consent | None) -> ShownConsent | None:
    if consent is None:
        return None
    return {
        "granted": consent.granted,
        "origin": consent.origin,
        "rate_per_minute": consent.rate_per_minute,
        "at": to_rfc3339(consent.at),
    }


def awaits_consent(subscription: core.Subscription, context: Context) -> bool:
    """Whether nothing may be sent to the sink before a handshake."""
    return handshake.awaits_consent(subscription, context.settings.handshake, context.ports.kinds.infer)


def start_view(start_at: float | None) -> str:
    """The value of `config.start`."""
    if start_at is None:
        return "now"
    return to_rfc3339(start_at) if start_at else "earliest"


def read_create(document: Any, context: Context, *, id: str, now: float) -> tuple[core.Subscription, str | None]:
    """A new subscription without secrets, and the secret in the body. Raises InvalidRequest."""
    body = validate(SubscriptionCreate, document)
    _refuse_placeholder(body.sink)
    config = body.config or SubscriptionConfig()
    subscription = _subscription(body, config, context, core.Subscription(id=id, sink=body.sink, created_at=now))
    return replace(subscription, start_at=start_seconds(config.start)), config.secret


def read_replace(document: Any, context: Context, before: core.Subscription) -> core.Subscription:
    """The subscription with new settings; state, secrets and start are kept. Raises InvalidRequest."""
    if is_shown(document, before.credential):
        document = {name: value for name, value in document.items() if name != "sinkcredential"}
    body = validate(SubscriptionReplace, document)
    config = body.config or SubscriptionConfig()
    errors = []
    if config.secret is not None:
        detail = "a secret cannot be replaced here: use POST …/rotate-secret, which keeps the old one valid for a while"
        errors.append(FieldError(pointer="/config/secret", code="not_replaceable", detail=detail))
    if "start" in config.model_fields_set and config.start != start_view(before.start_at):
        detail = f"it cannot be changed; it is {start_view(before.start_at)!r}"
        errors.append(FieldError(pointer="/config/start", code="not_replaceable", detail=detail))
    if errors:
        raise invalid(*errors)
    if body.sink in (context.ports.kinds.redacted_url(before.kind, before.sink), url_without_path(before.sink)):
        body = body.model_copy(update={"sink": before.sink})
        _refuse_showing_more(config, context, before)
    else:
        _refuse_placeholder(body.sink)
    # A default that is sent back as shown keeps following the settings.
    settings = context.settings
    if before.timeout_seconds is None and config.timeout_seconds == settings.default_timeout_seconds:
        config = config.model_copy(update={"timeout_seconds": None})
    if before.retry_schedule_seconds is None and config.retry_schedule == list(settings.default_retry_schedule_seconds):
        config = config.model_copy(update={"retry_schedule": None})
    if config.incidents == before.incidents == context.ports.kinds.default_incidents(before.kind):
        config = config.model_copy(update={"incidents": None})
    return _subscription(body, config, context, before)


def _refuse_showing_more(config: SubscriptionConfig, context: Context, before: core.Subscription) -> None:
    """Raises InvalidRequest if the new kind would show a part of the stored URL that the old kind redacts."""
    kinds = context.ports.kinds
    kind = kinds.infer(before.sink) if config.kind is None else config.kind
    if kind in kinds.names and kinds.redacted_url(kind, before.sink) != kinds.redacted_url(before.kind, before.sink):
        shows = f"kind {kind} shows another part of the stored URL than {before.kind} does"
        detail = f"{shows}: send the whole sink, or config.kind {before.kind}"
        raise invalid(FieldError(pointer="/sink", code="redacted", detail=detail))


def _refuse_placeholder(sink: str) -> None:
    """Raises InvalidRequest for a shortened sink (`https://host/…`): events sent to it would be lost."""
    if sink.endswith("…"):
        detail = "this is a shortened sink, which no stored one is shown as: send the whole URL"
        raise invalid(FieldError(pointer="/sink", code="redacted", detail=detail))


def _subscription(
    body: SubscriptionCreate, config: SubscriptionConfig, context: Context, before: core.Subscription
) -> core.Subscription:
    settings, kinds = context.settings, context.ports.kinds
    kind = kinds.infer(body.sink) if config.kind is None else config.kind
    errors = _name_errors(body, kind, context)
    given_types, type_errors = event_types(body.types or (), context.known_types, "/types")
    errors += type_errors
    headers, header_errors = _headers(body, before)
    errors += header_errors
    if errors:
        raise invalid(*errors)
    check_sink(body.sink, settings, "/sink")
    credential = _credential(body, context, before)
    errors = credential_errors(credential, headers)
    if errors:
        raise invalid(*errors)
    incidents = kinds.default_incidents(kind) if config.incidents is None else config.incidents
    types = default_types = kinds.default_types(kind)
    if body.types is not None and given_types != default_types:
        types = given_types
    elif default_types is not None and incidents == "off":
        types = tuple(type for type in default_types if type not in INCIDENT_EVENTS)
    schedule = config.retry_schedule
    subscription = replace(
        before,
        sink=body.sink,
        kind=kind,
        types=types,
        incidents=incidents,
        source=body.source,
        method="POST" if body.protocolsettings is None else body.protocolsettings.method,
        headers=headers,
        credential=credential,
        ordering=config.ordering,
        signature=config.signature,
        timeout_seconds=config.timeout_seconds,
        retry_schedule_seconds=None if schedule is None else tuple(schedule),
        rate_per_second=config.rate_per_second,
        concurrency=config.concurrency,
        handshake=config.handshake,
        description=body.description,
        options={} if config.metadata_keys is None else {"metadata_keys": config.metadata_keys},
    )
    kinds.check(subscription)
    return subscription


def _credential(body: SubscriptionCreate, context: Context, before: core.Subscription) -> SinkCredential | None:
    """The credential that was given or, if none was, the stored one. Raises InvalidRequest."""
    given = body.sinkcredential
    if given is not None:
        now = context.ports.clock()
        return made_credential(given, body.sink, context.settings, id=new_id("crd", now), now=now)
    if before.credential is None or "sinkcredential" in body.model_fields_set:
        return None
    return kept_credential(before.credential, body.sink)


def _name_errors(body: SubscriptionCreate, kind: str, context: Context) -> list[FieldError]:
    """Errors for an unknown kind or source."""
    errors = []
    if kind not in context.ports.kinds.names:
        detail = f"{kind[:100]!r} is not a kind of subscription{did_you_mean(kind, context.ports.kinds.names)}"
        errors.append(FieldError(pointer="/config/kind", code="unknown_kind", detail=detail))
    sources = context.settings.event_sources
    if body.source is not None and body.source not in sources:
        detail = f"no event has the source {body.source[:200]!r}{did_you_mean(body.source, sources)}"
        errors.append(FieldError(pointer="/source", code="unknown_source", detail=detail))
    return errors


def _headers(
    body: SubscriptionCreate, before: core.Subscription
) -> tuple[tuple[tuple[str, str], ...], list[FieldError]]:
    """The custom headers, and errors. A redacted value that is sent back keeps the stored value, but only for the same
    origin (scheme, host and port)."""
    given = (body.protocolsettings.headers if body.protocolsettings is not None else None) or {}
    shown = {name: header_view(name, value) for name, value in before.headers}
    origin = origin_of(body.sink)  # None: refused
    elsewhere = origin is not None and origin != origin_of(before.sink)
    headers = tuple(
        (name, value if elsewhere or value != shown.get(name) else dict(before.headers)[name])
        for name, value in given.items()
    )
    again = "the sink has another scheme, host or port, so the stored value is not used: send the value again"
    placeholder = f"{REDACTED} is a placeholder: send the value itself"
    errors = [
        FieldError(
            pointer=pointer_of("protocolsettings", "headers", name),
            code="redacted",
            detail=again if name in shown else placeholder,
        )
        for name, value in headers
        if value == REDACTED
    ]
    why = check_custom_headers(headers)
    if why is not None:
        errors.append(FieldError(pointer="/protocolsettings/headers", code="invalid_header", detail=why))
    return headers, errors


_EXAMPLE: Subscription = {
    "id": SUBSCRIPTION_ID,
    "sink": "https://receiver.example/hooks",
    "types": ["ai.revor.job.failed"],
    "source": None,
    "protocol": "HTTP",
    "protocolsettings": {"headers": {}, "method": "POST"},
    "sinkcredential": None,
    "config": {
        "kind": "webhook",
        "content_mode": "structured",
        "ordering": "job",
        "signature": "v1",
        "start": "now",
        "timeout_seconds": 15.0,
        "retry_schedule": [5.0, 300.0, 1800.0],
        "rate_per_second": None,
        "concurrency": None,
        "metadata_keys": None,
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
    "next_handshake_at": None,
    "consent": None,
    "created_at": TIME,
}
EXAMPLES: dict[str, Any] = {
    "SubscriptionCreate": {
        "sink": "https://receiver.example/hooks",
        "sinkcredential": {"credentialtype": "PLAIN", "identifier": "relay", "secret": "a password"},
        "config": {"retry_schedule": ["5s", "5m", 1800]},
        "description": "The CRM",
    },
    "SubscriptionReplace": {"sink": "https://receiver.example/hooks", "description": "The new CRM"},
    "Subscription": _EXAMPLE,
    "SubscriptionPage": {"items": [_EXAMPLE], "next_cursor": None},
}
