"""The options of kind `salesforce`."""

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from subscribers.common.options import CrmOptions
from subscribers.options import Word
from subscribers.salesforce.answers import NEWEST_VERSION, OLDEST_VERSION
from subscribers.salesforce.render import JOB_EVENT, TASK

_WORDS = {"job_event": JOB_EVENT, "task": TASK}
_OBJECT = re.compile(rf"{TASK}|[A-Za-z](?:_?[A-Za-z0-9]){{0,60}}(?:__[A-Za-z][A-Za-z0-9_]{{0,40}})?__c")
_VERSION = re.compile(r"(\d{2,3})\.0", re.ASCII)


def _object(value: str) -> str:
    if _OBJECT.fullmatch(_WORDS.get(value, value)):
        return value
    why = f"{value!r} is not {JOB_EVENT}, {TASK} or the API name of another custom object, such as My_Event__c"
    raise PydanticCustomError("invalid", "{why}", {"why": why})


def _version(value: str) -> str:
    number = _VERSION.fullmatch(value)
    if number is not None and OLDEST_VERSION <= int(number[1]) <= NEWEST_VERSION:
        return value
    why = f"{value!r} is not a version from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0, such as 62.0"
    raise PydanticCustomError("invalid", "{why}", {"why": why})


class SalesforceOptions(CrmOptions):
    """Of kind `salesforce`."""

    places: ClassVar[tuple[str, ...]] = ("object",)

    object: Annotated[Word, AfterValidator(_object)] | None = Field(
        default=None,
        description=f"The object of the records: `{JOB_EVENT}` (default), `{TASK}`, or one with the fields of the "
        "former.",
        examples=["Task"],
    )
    api_version: Annotated[Word, AfterValidator(_version)] | None = Field(
        default=None,
        description="The version of its API. Default: the newest one that the instance and the relay know when the "
        "subscription is checked.",
        examples=["62.0"],
    )

    @property
    def of_records(self) -> str:
        """The API name of the object of the records."""
        return _WORDS.get(self.object or JOB_EVENT, self.object or JOB_EVENT)
