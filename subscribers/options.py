"""The options of a kind of sink: a model in the kind's folder, which declares each field once, with its words.

From it come the checks of a request, the schema in the OpenAPI description, the options of the command line, the fields
of the dashboard's form and the tables of the documents. A field that several kinds have stands in `common/`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from relay.core.subscriptions.subscription import SETTINGS, Subscription

MAX_WORD = 100
MAX_SETTING_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Cli:
    """The form in which a field is written: its option, where it has another name, and the placeholder of its value.

    own      False: it has no option, and no field in the form: something else says its value
    creates  it is set when a subscription is made, and stays
    """

    option: str = ""
    metavar: str | None = None
    own: bool = True
    creates: bool = False


def _whole(value: object) -> object:
    # JSON has one number type, so 4.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
Setting = Annotated[str, Field(min_length=1, max_length=MAX_SETTING_CHARACTERS)]


class Options(BaseModel):
    """The fields of `config` besides those of every kind. A kind without options has this one.

    places   fields with the destination in the sink: the same sink with another value is another place
    checked  switches that have the sink checked again
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )
    places: ClassVar[tuple[str, ...]] = ()
    checked: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, subscription: Subscription) -> Self:
        """The stored options, which were checked when they were stored."""
        return cls.stored(subscription.options)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """The stored or shown values, with the defaults; the fields of others are left out."""
        if not values:  # most subscriptions have none, and a model costs as much as a signature
            return cast("Self", _defaults(cls))
        fields = cls.model_fields
        return cast("Self", cls.model_construct(**{name: value for name, value in values.items() if name in fields}))

    def shown(self) -> Self:
        """The values in force, for an answer."""
        return self

    def given(self) -> dict[str, Any]:
        """The values that are not the defaults, as they are stored."""
        return {name: value for name, value in self.model_dump().items() if value != type(self).default_of(name)}

    @classmethod
    def needed(cls) -> str:
        """The field that a subscription needs; empty if it needs none."""
        return next((name for name, field in cls.model_fields.items() if field.is_required()), "")

    @classmethod
    def default_of(cls, name: str) -> Any:
        """The default of a field; None if it is needed."""
        field = cls.model_fields[name]
        return None if field.is_required() else field.default


class Settings(Options):
    """The fields of `protocolsettings`, for a protocol other than HTTP."""

    @classmethod
    def of(cls, subscription: Subscription) -> Self:
        """The stored settings."""
        return cls.stored(subscription.options.get(SETTINGS) or {})


@cache
def _defaults(model: type[Options]) -> Options:
    return model.model_construct()


def annotations_of(field: FieldInfo) -> Iterator[object]:
    """The annotations of a field besides its type, also inside of `… | None`."""
    inside = (one for part in get_args(field.annotation) for one in getattr(part, "__metadata__", ()))
    for one in (*field.metadata, *inside):
        yield one
        if isinstance(one, FieldInfo):
            yield from one.metadata


@cache
def markers(model: type[BaseModel], name: str) -> tuple[object, ...]:
    """See `annotations_of`."""
    return tuple(annotations_of(model.model_fields[name]))
