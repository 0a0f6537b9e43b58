"""Request bodies. The same models validate them and document them in the OpenAPI description."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from relay.clock import from_rfc3339
from relay.core.durations import DURATION_PATTERN, MAX_DURATION_SECONDS, duration_seconds
from relay.core.job import Priority
from relay.core.signing import parse_secret

MAX_ID_CHARACTERS = 200
MAX_METADATA_BYTES = 16_384
MAX_BATCH_JOBS = 10_000
MAX_URL_CHARACTERS = 2_048
MAX_RETRIES = 50
MAX_OVERLAP_SECONDS = 30 * 86_400.0
MAX_TYPES = 100
MAX_METADATA_KEYS = 5

# Excludes control, formatting, private-use and unassigned characters, and every space except U+0020.
PRINTABLE = (
    "[^\\x00-\\x1f\\x7f-\\xa0\\xad\\u200b-\\u200f\\u2028-\\u202f\\u2060-\\u206f"
    "\\ue000-\\uf8ff\\ufdd0-\\ufdef\\ufeff\\ufff0-\\uffff]"
)
ID_PATTERN = f"^{PRINTABLE}{{1,{MAX_ID_CHARACTERS}}}$"
is_printable_id = re.compile(f"{PRINTABLE}{{1,{MAX_ID_CHARACTERS}}}").fullmatch


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return duration_seconds(value)
    except ValueError:
        expected = "a duration such as 5s, 5m, 2h or 1d, or seconds, is expected"
        raise PydanticCustomError("invalid_duration", expected) from None


def _whole(value: object) -> object:
    # JSON has one number type, so 4.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _signing_secret(value: str) -> str:
    try:
        parse_secret(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_secret", "{why}", {"why": str(error)}) from None
    return value


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


def _moment(value: str) -> str:
    try:
        from_rfc3339(value)
    except ValueError:
        raise PydanticCustomError("invalid_time", "an RFC 3339 time such as 2026-05-20T10:00:08Z is expected") from None
    return value


Moment = Annotated[str, AfterValidator(_moment), Field(json_schema_extra={"format": "date-time"})]
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=MAX_DURATION_SECONDS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": MAX_DURATION_SECONDS},
                {"type": "string", "pattern": DURATION_PATTERN},
            ],
            "description": "Seconds, or a string such as 5s, 5m, 2h or 1d.",
        }
    ),
]


class Body(BaseModel):
    """Base of all request bodies: unknown fields are refused, and types are not converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )


class Nothing(Body):
    """An empty object, or no body."""


class IntentResolution(Body):
    """The outcome of a create, as checked with the upstream."""

    fate: Literal["sent", "not_sent"] = Field(description="Whether the upstream carried it out.")
    job_id: str | None = Field(
        default=None,
        pattern=ID_PATTERN,
        description="The id of the job it created; only with `sent`. The job is tracked with the callback and metadata "
        "of the create.",
    )


class JobRegistration(Body):
    """A job to track."""

    id: str = Field(pattern=ID_PATTERN, description="The upstream's id of the job: 1 to 200 printable characters.")
    source: str = Field(default="revor", description="A configured source.")
    account: str = Field(default="default", description="A configured account of the source.")
    callback_url: str | None = Field(
        default=None, max_length=MAX_URL_CHARACTERS, description="The URL that this job's events are sent to, signed."
    )
    callback_types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="The event types to send to `callback_url`: full names (`ai.revor.job.failed`) or short ones "
        "(`failed`). Default: all, or the current types if the job already has this callback.",
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="Your own data, included in every event of the job. At most 16 KiB of JSON."
    )
    priority: Priority | None = Field(
        default=None,
        description="The weight of the job's delay while the request budget is short: `low` is a quarter of `normal`, "
        "`high` four times. Default: `normal` for a new job; a job that is already tracked keeps its priority.",
    )
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_SECONDS,
        description="Seconds from the job's scheduled time, or else from now, until it is `overdue`.",
    )


class UpstreamItem(BaseModel):
    """A job as the upstream returns it. All fields are kept."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    id: str = Field(pattern=ID_PATTERN)


class UpstreamAnswer(Body):
    """The upstream's answer to a create, unchanged. Fields of a registration can be added, except `priority`."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"additionalProperties": True, "not": {"required": ["id"]}}
    )

    ok: Literal[True]
    item: UpstreamItem
    source: str = JobRegistration.model_fields["source"].default
    account: str = JobRegistration.model_fields["account"].default
    callback_url: str | None = Field(default=None, max_length=MAX_URL_CHARACTERS)
    callback_types: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TYPES)
    metadata: dict[str, Any] | None = None
    deadline_seconds: float | None = Field(default=None, gt=0, le=MAX_DURATION_SECONDS)


class JobBatch(Body):
    """Jobs to track, each as for `POST /v1/jobs`. An invalid job does not affect the others."""

    jobs: list[Any] = Field(
        max_length=MAX_BATCH_JOBS,
        json_schema_extra={
            "items": {
                "description": "A body of `POST /v1/jobs`. Invalid ones are listed in `rejected`.",
                "anyOf": [{"$ref": "#/components/schemas/JobRegistration"}, {}],
            }
        },
    )


class ProtocolSettings(Body):
    """Settings of the requests to the sink."""

    headers: dict[str, str] | None = Field(default=None, description="Sent with every request.")
    method: Literal["POST", "PUT", "PATCH"] = "POST"


class SubscriptionConfig(Body):
    """How events are rendered, ordered and retried."""

    kind: str | None = Field(default=None, description="Default: inferred from the sink's host, else `webhook`.")
    content_mode: Literal["structured"] = "structured"
    ordering: Literal["job", "none"] = Field(
        default="job",
        description="`job`: an event waits until the earlier events of its job are delivered, dead or cancelled.",
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
    secret: Annotated[str, AfterValidator(_signing_secret)] | None = Field(
        default=None, description="Your own signing secret, `whsec_…`. Default: a generated one."
    )


class SubscriptionCreate(Body):
    """A subscription, in the shape of the CloudEvents Subscriptions API."""

    sink: str = Field(min_length=1, max_length=MAX_URL_CHARACTERS, description="The https URL that events are sent to.")
    types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Event types, full or short (`failed`). Default: all job events; for chat kinds only failures and "
        "source trouble.",
    )
    source: str | None = Field(default=None, description="Send only events with this CloudEvents `source`.")
    protocol: Literal["HTTP"] = "HTTP"
    protocolsettings: ProtocolSettings | None = None
    config: SubscriptionConfig | None = None
    description: str | None = Field(default=None, max_length=1_000)


class SubscriptionReplace(SubscriptionCreate):
    """The new settings of a subscription; omitted fields return to their defaults. The answer of `GET` can be sent
    back: read-only fields are ignored, and a redacted sink or header keeps its value."""

    id: Any = Field(default=None, description="Ignored.")
    state: Any = Field(default=None, description="Ignored.")
    disabled_reason: Any = Field(default=None, description="Ignored.")
    state_since: Any = Field(default=None, description="Ignored.")
    state_reason: Any = Field(default=None, description="Ignored.")
    failing_since: Any = Field(default=None, description="Ignored.")
    failing_reason: Any = Field(default=None, description="Ignored.")
    paused_until: Any = Field(default=None, description="Ignored.")
    next_probe_at: Any = Field(default=None, description="Ignored.")
    created_at: Any = Field(default=None, description="Ignored.")


class TestRequest(Body):
    """The sample event to send."""

    __test__: ClassVar[bool] = False  # pytest would collect it

    type: str | None = Field(default=None, description="An event type. Default: `relay.test`.")


class SecretRotation(Body):
    """How long the old secret keeps signing."""

    overlap_seconds: float = Field(default=86_400, ge=0, le=MAX_OVERLAP_SECONDS)


class ReplayCreate(Body):
    """The events to send again."""

    since: Moment = Field(description="Events recorded at or after this time.")
    until: Moment | None = Field(
        default=None, description="Events recorded before this time. Default and maximum: now."
    )
    types: list[str] | None = Field(
        default=None, min_length=1, max_length=MAX_TYPES, description="Default: all types of the subscription."
    )
    only: Literal["undelivered", "all"] = Field(
        default="undelivered", description="`all` includes delivered events, which receivers recognise by `id`."
    )


class DeliveryFilter(Body):
    """Deliveries that match all of these conditions."""

    subscription: str | None = Field(default=None, pattern=ID_PATTERN, description="Deliveries to this subscription.")
    state: Literal["pending", "dead", "cancelled", "delivered"] = Field(
        default="dead", description="Their state. With `pending`, deliveries that wait for a retry are tried now."
    )
    type: str | None = Field(default=None, description="Events of this type, full or short.")
    since: Moment | None = Field(default=None, description="Events recorded at or after this time.")
    until: Moment | None = Field(default=None, description="Events recorded before this time.")
    reason: str | None = Field(default=None, pattern=ID_PATTERN, description="Deliveries with exactly this `reason`.")


class DeliveriesRetry(Body):
    """The deliveries to send again."""

    filter: DeliveryFilter
