"""Options that several kinds have."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from relay.clock import time_zones, zone_named
from subscribers.options import Cli, Options, Setting, Settings, Whole, Word, markers

MAX_METADATA_KEYS = 5
MAX_DIGEST_SECONDS = 1_800
DEFAULT_MESSAGES_PER_MINUTE = 20
"""Slack takes about one message a second."""

Unmatched = Literal["skip", "create", "fail"]


def _time_zone(value: str) -> str:
    try:
        zone_named(value)
    except ValueError as error:
        near = _zone_near(value.lower().replace(" ", "_"))
        why = str(error) if near is None else f"{value!r} is not a time zone: did you mean {near}?"
        raise PydanticCustomError("invalid_time_zone", "{why}", {"why": why}) from None
    return value


def _zone_near(name: str) -> str | None:
    """The zone of a city, else the one that is spelt nearly so, among those that begin alike."""
    named = {zone.lower(): zone for zone in time_zones()}
    of_city = [zone for lower, zone in named.items() if lower.rpartition("/")[2] == name]
    near = difflib.get_close_matches(name, [lower for lower in named if lower[:3] == name[:3]], n=1)
    return of_city[0] if of_city else named[near[0]] if near else None


class ChatOptions(Options):
    """Of kinds that people read."""

    metadata_keys: list[Word] | None = Field(
        default=None,
        max_length=MAX_METADATA_KEYS,
        description="The fields of a job's metadata to show. Default: the first five that contain no personal data.",
        examples=[["deal", "owner"]],
    )
    time_zone: Annotated[Word, AfterValidator(_time_zone)] | None = Field(
        default=None,
        description="The IANA time zone of the times in messages. Default: UTC.",
        examples=["Europe/Paris"],
    )


class DigestOptions(ChatOptions):
    """Of chats in which several events can be one message."""

    digest_seconds: Annotated[Annotated[Whole, Field(ge=1, le=MAX_DIGEST_SECONDS)] | None, Cli("digest")] = Field(
        default=None,
        description="One message for all events within this many seconds of the first one; "
        "incidents and finished groups are sent at once. Default: a message for each event.",
        examples=[300],
    )
    messages_per_minute: Annotated[Whole, Field(ge=1, le=60)] | None = Field(
        default=None,
        description="How many messages a minute are about one event each. What exceeds them comes as one digest. "
        f"Default: {DEFAULT_MESSAGES_PER_MINUTE}.",
        examples=[10],
    )


class StrictOptions(Options):
    """Of kinds that an owner's template makes a part of."""

    strict: bool | None = Field(
        default=None,
        description="An event that lacks a name in the template is not sent, and its delivery is `dead`. Default: such "
        "a name is empty text.",
        examples=[True],
    )


class TemplateOptions(StrictOptions):
    """Of kinds whose body a template can make."""

    template: Annotated[Any, Cli(metavar="FILE|JSON")] = Field(
        default=None,
        description="The body of each request, as a JSON document whose texts are Liquid. Needs the extra `templates`.",
        examples=[{"deal": "{{ metadata.deal }}"}],
    )


class CrmOptions(ChatOptions, StrictOptions):
    """Of all CRMs."""

    unmatched: Unmatched | None = Field(
        default=None,
        description="What follows if the CRM knows no person whom an event is about: `skip` (default), `create` or "
        "`fail`.",
        examples=["create"],
    )
    template: Annotated[dict[str, Any] | None, Cli(metavar="FILE|JSON")] = Field(
        default=None,
        description="Fields of the record, as a JSON object whose texts are Liquid. Needs the extra `templates`.",
        examples=[{"subject": "{{ sentence }}"}],
    )


class BrokerOptions(StrictOptions):
    """Of all brokers."""

    content_mode: Literal["structured", "binary"] = Field(
        default="structured",
        description="`structured`: an event as JSON. `binary`: its attributes as headers, and its data as the body.",
        examples=["binary"],
    )


MAY_BE_TEMPLATE = "Liquid"
Template = Annotated[Setting, MAY_BE_TEMPLATE]
"""A setting that may be Liquid."""


class BrokerSettings(Settings):
    """Of all brokers."""

    @classmethod
    def is_template(cls, name: str, text: str) -> bool:
        """True if the text of a setting contains Liquid."""
        return MAY_BE_TEMPLATE in markers(cls, name) and ("{{" in text or "{%" in text)
