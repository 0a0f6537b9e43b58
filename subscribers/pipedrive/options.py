"""The options of kind `pipedrive`."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from relay.core.subscriptions.subscription import Subscription
from subscribers.common.options import CrmOptions

NOTE, ACTIVITY = "note", "activity"
FIELDS: Mapping[str, tuple[str, ...]] = {
    NOTE: ("content", *(f"pinned_to_{kind}_flag" for kind in ("deal", "lead", "person"))),
    ACTIVITY: (
        *("subject", "type", "note", "owner_id", "due_date", "due_time", "duration", "done", "busy", "priority"),
        "public_description",
    ),
}
"""The fields that a template may set. They do not attach a record to anything."""


class PipedriveOptions(CrmOptions):
    """Of kind `pipedrive`."""

    places: ClassVar[tuple[str, ...]] = ("record",)

    record: Literal["note", "activity"] | None = Field(
        default=None, description="What is written: `note` (default) or `activity`.", examples=["activity"]
    )
    attach: Literal["deal", "person", "lead"] | None = Field(
        default=None,
        description="What a record of a person is attached to: their newest open `deal`, their newest `lead`, or the "
        "`person` (default).",
        examples=["deal"],
    )


def record_of(subscription: Subscription) -> str:
    """The kind of record that a subscription writes."""
    return PipedriveOptions.of(subscription).record or NOTE
