"""Types of fields, and small models, that several resources share.

Request bodies derive from `Body`: pydantic validates and documents them. Answers: `shown.py`.
"""

import re
from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from relay.clock import from_rfc3339
from relay.core.values import DURATION_PATTERN, MAX_DURATION_SECONDS, duration_seconds
from relay.redaction import REDACTED, is_credential, redact_text

MAX_ID_CHARACTERS = 200
MAX_URL_CHARACTERS = 2_048
MAX_TYPES = 100

# Excludes control, formatting, private-use and unassigned characters, and every space except U+0020.
PRINTABLE = (
    "[^\\x00-\\x1f\\x7f-\\xa0\\xad\\u200b-\\u200f\\u2028-\\u202f\\u2060-\\u206f"
    "\\ue000-\\uf8ff\\ufdd0-\\ufdef\\ufeff\\ufff0-\\uffff]"
)
ID_PATTERN = f"^{PRINTABLE}{{1,{MAX_ID_CHARACTERS}}}$"
_OF_NAME, _NO_DOT = f"{PRINTABLE[:-1]}/]", f"{PRINTABLE[:-1]}/.]"
# No slash, and neither "." nor "..": the name is a segment of a path, from which clients remove these.
GROUP_PATTERN = f"^({_NO_DOT}{_OF_NAME}{{0,199}}|\\.{_NO_DOT}{_OF_NAME}{{0,198}}|\\.\\.{_OF_NAME}{{1,198}})$"
GROUP_EXPECTED = "1 to 200 printable characters without / are expected, but not . or .. alone"
is_group_name = re.compile(GROUP_PATTERN).fullmatch


class Body(BaseModel):
    """Base of all request bodies: unknown fields are refused, and types are not converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )
    read_only: ClassVar[frozenset[str]] = frozenset({"id", "uid"})
    """Fields that an answer has and a body cannot set; the error says so."""


class Nothing(Body):
    """An empty object, or no body."""


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return duration_seconds(value)
    except ValueError:
        expected = "a duration such as 5s, 5m, 2h or 1d, or seconds, is expected"
        raise PydanticCustomError("invalid_duration", expected) from None


def checked(check: Callable[[str], object], code: str, expected: str = "") -> AfterValidator:
    """Refuses text for which `check` returns False or raises ValueError, which says why unless `expected` does."""

    def checked_text(value: str) -> str:
        why = expected
        try:
            if check(value) is not False:
                return value
        except ValueError as error:
            why = expected or str(error)
        raise PydanticCustomError(code, "{why}", {"why": why})

    return AfterValidator(checked_text)


GroupName = Annotated[
    str,
    checked(lambda value: is_group_name(value) is not None, "invalid_group", GROUP_EXPECTED),
    WithJsonSchema({"type": "string", "pattern": GROUP_PATTERN}),
]
"""The name of a group of jobs."""
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
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Moment = Annotated[
    Time, checked(from_rfc3339, "invalid_time", "an RFC 3339 time such as 2026-05-20T10:00:08Z is expected")
]
"""A time in a request body."""
NextCursor = Annotated[str | None, Field(description="The value for `cursor`; null on the last page.")]


def header_view(name: str, value: str) -> str:
    """A custom header's value; REDACTED if its name or form suggests a credential."""
    return REDACTED if is_credential(name) or redact_text(value) != value else value


# --- values that examples share

SOURCE = "revor"
FAILED = "ai.revor.job.failed"
JOB_ID = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70"
JOB_UID = "job_01jvpq3m8n0000000000000001"
SUBSCRIPTION_ID = "sub_01jvpq3m8n0000000000000002"
EVENT_ID = "evt_01jvpq3m8n0000000000000003"
DELIVERY_ID = "dlv_01jvpq3m8n0000000000000004"
INTENT_ID = "int_01jvpq3m8n0000000000000005"
REPLAY_ID = "rpl_01jvpq3m8n0000000000000006"
TOKEN_ID = "tok_01jvpq3m8n0000000000000007"  # noqa: S105 (an id)
INCIDENT_ID = "inc_01jvpq3m8n0000000000000008"
TIME = "2026-05-20T10:00:00.000Z"

PATHS = {
    "Intents": INTENT_ID,
    "Incidents": INCIDENT_ID,
    "Jobs": JOB_ID,
    "Groups": "Q4 campaign",
    "Subscriptions": SUBSCRIPTION_ID,
    "Events": EVENT_ID,
    "Deliveries": DELIVERY_ID,
    "Replays": REPLAY_ID,
    "Tokens": TOKEN_ID,
    "Audit": "aud_01jvpq3m8n0000000000000007",
    "System": "job-status.v1",
}
"""The example of `{id}`, by tag."""
