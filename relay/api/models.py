"""Bodies that the API takes: the same models validate them and document them."""

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

# No control, formatting, private or never assigned characters, and of the spaces only the plain one.
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
    # JSON has one kind of number: 4.0 is an integer there.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _signing_secret(value: str) -> str:
    try:
        parse_secret(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_secret", "{why}", {"why": str(error)}) from None
    return value


def start_seconds(start: str | None) -> float | None:
    """From when on a subscription gets events, in epoch seconds: 0 for all there are, None for new ones only."""
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
            "description": "Seconds, or a text such as 5s, 5m, 2h or 1d.",
        }
    ),
]


class Body(BaseModel):
    """What all bodies share: nothing unknown, nothing converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )


class Nothing(Body):
    """No body, or an empty object."""


class IntentResolution(Body):
    """What a person found out of a create whose fate was unknown."""

    fate: Literal["sent", "not_sent"] = Field(description="Whether it was carried out.")
    job_id: str | None = Field(
        default=None,
        pattern=ID_PATTERN,
        description="The job that it made, to be tracked with what the create attached; only with `sent`.",
    )


class JobRegistration(Body):
    """A job to track."""

    id: str = Field(pattern=ID_PATTERN, description="The job's id upstream: 1 to 200 printable characters.")
    source: str = Field(default="revor", description="Which configured source it is of.")
    account: str = Field(default="default", description="Which configured account of the source it is of.")
    callback_url: str | None = Field(
        default=None, max_length=MAX_URL_CHARACTERS, description="Where this job's events are sent, signed."
    )
    callback_types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Which of the job's events `callback_url` gets: full names (`ai.revor.job.failed`) or their last "
        "words (`failed`). Without it all of them; for a callback that the job has already, those of before.",
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="Yours: it comes back in every event of the job. At most 16 KiB as JSON."
    )
    priority: Priority | None = Field(
        default=None,
        description="How much its delay counts where the request budget is short: `low` a quarter of `normal`, `high` "
        "four times as much. Without it a new job is `normal`, and a job that is tracked already keeps its own.",
    )
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_SECONDS,
        description="How long after its scheduled time (else after now) the job is `overdue`.",
    )


class UpstreamItem(BaseModel):
    """A job as the upstream shows it; everything that it says is kept."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    id: str = Field(pattern=ID_PATTERN)


class UpstreamAnswer(Body):
    """The upstream's own answer to a create, as it came; what else a registration takes may stand beside it, but for a
    priority."""

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
    """Jobs to track, each as for `POST /v1/jobs`. One that is wrong does not keep the others from being tracked."""

    jobs: list[Any] = Field(
        max_length=MAX_BATCH_JOBS,
        json_schema_extra={
            "items": {
                "description": "As the body of `POST /v1/jobs`; what is none is listed in `rejected`.",
                "anyOf": [{"$ref": "#/components/schemas/JobRegistration"}, {}],
            }
        },
    )


class ProtocolSettings(Body):
    """How the sink wants its requests."""

    headers: dict[str, str] | None = Field(default=None, description="Sent with every request.")
    method: Literal["POST", "PUT", "PATCH"] = "POST"


class SubscriptionConfig(Body):
    """How events are rendered, ordered and retried."""

    kind: str | None = Field(default=None, description="Without it the sink's host decides; else `webhook`.")
    content_mode: Literal["structured"] = "structured"
    ordering: Literal["job", "none"] = Field(
        default="job", description="`job`: an event waits until the earlier ones of its job have ended."
    )
    start: Annotated[str, AfterValidator(_start)] = Field(
        default="now",
        description="From when on events are sent: `now`, `earliest` or an RFC 3339 time.",
        json_schema_extra={"anyOf": [{"enum": ["now", "earliest"]}, {"format": "date-time"}]},
    )
    timeout_seconds: float | None = Field(default=None, gt=0, le=60)
    retry_schedule: list[Duration] | None = Field(
        default=None, max_length=MAX_RETRIES, description="The pauses between attempts."
    )
    rate_per_second: float | None = Field(default=None, gt=0, le=10_000)
    concurrency: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000)] | None = None
    metadata_keys: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        default=None,
        max_length=MAX_METADATA_KEYS,
        description="Of kind `slack`: the fields of a job's metadata that a message shows. Without it: the first ones "
        "whose keys and values speak of no person.",
    )
    secret: Annotated[str, AfterValidator(_signing_secret)] | None = Field(
        default=None, description="Your own signing secret, `whsec_…`; one is made without it."
    )


class SubscriptionCreate(Body):
    """A subscription, in the shape of the CloudEvents Subscriptions API."""

    sink: str = Field(min_length=1, max_length=MAX_URL_CHARACTERS, description="Where events are sent: an https URL.")
    types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description="Event types, whole or short, such as `failed`. Without it: all job events (chat kinds: only "
        "trouble).",
    )
    source: str | None = Field(default=None, description="Only events of this CloudEvents source.")
    protocol: Literal["HTTP"] = "HTTP"
    protocolsettings: ProtocolSettings | None = None
    config: SubscriptionConfig | None = None
    description: str | None = Field(default=None, max_length=1_000)


class SubscriptionReplace(SubscriptionCreate):
    """A subscription's new settings; what is left out goes back to its default. What `GET` shows can be sent back:
    the read-only fields are passed over, and a redacted sink or header keeps its value."""

    id: Any = Field(default=None, description="Passed over.")
    state: Any = Field(default=None, description="Passed over.")
    disabled_reason: Any = Field(default=None, description="Passed over.")
    state_since: Any = Field(default=None, description="Passed over.")
    state_reason: Any = Field(default=None, description="Passed over.")
    failing_since: Any = Field(default=None, description="Passed over.")
    failing_reason: Any = Field(default=None, description="Passed over.")
    paused_until: Any = Field(default=None, description="Passed over.")
    next_probe_at: Any = Field(default=None, description="Passed over.")
    created_at: Any = Field(default=None, description="Passed over.")


class TestRequest(Body):
    """Which sample to send."""

    __test__: ClassVar[bool] = False  # pytest would collect it

    type: str | None = Field(default=None, description="An event type; `relay.test` without it.")


class SecretRotation(Body):
    """How long the old secret signs too."""

    overlap_seconds: float = Field(default=86_400, ge=0, le=MAX_OVERLAP_SECONDS)


class ReplayCreate(Body):
    """Which events are to be sent again."""

    since: Moment = Field(description="Recorded then or later.")
    until: Moment | None = Field(default=None, description="Recorded before; now, at the latest and without it.")
    types: list[str] | None = Field(
        default=None, min_length=1, max_length=MAX_TYPES, description="Only these types; all it gets without it."
    )
    only: Literal["undelivered", "all"] = Field(
        default="undelivered", description="`all`: also what was delivered. Receivers know it by its id."
    )


class DeliveryFilter(Body):
    """Deliveries that all this is true of."""

    subscription: str | None = Field(default=None, pattern=ID_PATTERN, description="To this subscription.")
    state: Literal["pending", "dead", "cancelled", "delivered"] = Field(
        default="dead", description="How they ended; pending: those that wait for a later attempt are tried now."
    )
    type: str | None = Field(default=None, description="Of events of this type.")
    since: Moment | None = Field(default=None, description="Of events recorded then or later.")
    until: Moment | None = Field(default=None, description="Of events recorded before.")
    reason: str | None = Field(default=None, pattern=ID_PATTERN, description="Their `reason`, exactly.")


class DeliveriesRetry(Body):
    """Which deliveries are to be sent again."""

    filter: DeliveryFilter
