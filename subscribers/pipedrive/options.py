"""The options of kind `pipedrive`."""

from typing import ClassVar, Literal

from pydantic import Field

from subscribers.common.options import CrmOptions


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
