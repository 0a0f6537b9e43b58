"""The options of kind `hubspot`."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from subscribers.common.options import CrmOptions

PROPERTIES, NOTE, TASK = "properties", "note", "task"
RECORDS = (PROPERTIES, NOTE, TASK)
"""Values of `record`, and parts of a template."""
_ONE: dict[str, Any] = {"type": "string", "enum": list(RECORDS)}
_SCHEMA: dict[str, Any] = {"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1, "maxItems": len(RECORDS)}]}


def _record(value: object) -> object:
    # A union would name its types in the pointers to mistakes.
    given = value if isinstance(value, list) else [value]
    if 0 < len(given) <= len(RECORDS) and all(isinstance(one, str) and one in RECORDS for one in given):
        return value
    raise PydanticCustomError("invalid", "{why}", {"why": f"one or a list of {', '.join(RECORDS)} is expected"})


class HubSpotOptions(CrmOptions):
    """Of kind `hubspot`."""

    places: ClassVar[tuple[str, ...]] = ("record",)
    checked: ClassVar[tuple[str, ...]] = ("create_properties",)

    record: Annotated[str | list[str], PlainValidator(_record), WithJsonSchema(_SCHEMA)] | None = Field(
        default=None,
        description="What is written: `properties`, `note`, `task`, or several. Default: all of them.",
        examples=[["note", "task"]],
    )
    create_properties: bool = Field(
        default=False,
        description="The check of the credential makes the properties that the relay needs.",
        examples=[True],
    )

    @property
    def of_records(self) -> Sequence[str]:
        """The kinds of record that a subscription writes."""
        given = self.record or RECORDS
        return (given,) if isinstance(given, str) else given
