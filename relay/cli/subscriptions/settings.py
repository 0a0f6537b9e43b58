"""The settings of a subscription as command-line options, for `relay subscriptions add` and `edit`."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from relay.cli.options import given, read_bytes, time_or_age, type_names
from relay.core.jsontext import JSONDecodeError, loads
from relay.errors import UsageError

if TYPE_CHECKING:
    from subscribers.fields import WrittenField

Body = dict[str, Any]
PARTS = ("protocolsettings", "config")
MAX_CREDENTIAL_BYTES = 65_536
MAX_JSON_BYTES = 1_048_576
_TOKEN = re.compile(r"[A-Za-z0-9][!-~]{7,}")
"""A token by itself, which is no JSON."""
KEPT = ("sinkcredential",)
"""Fields that the API keeps where a body does not have them; null removes them."""


def _credential(path: str | None) -> Any:
    """From a file, because others can read the arguments of a process."""
    if path is None:
        return None
    try:
        given = read_bytes(path, MAX_CREDENTIAL_BYTES)
    except OSError as error:
        # It may be the token itself, so it is not repeated.
        raise UsageError(f"--credential: {error.strerror}. Name a file that has it, not the token") from None
    token = given.decode(errors="replace").strip()
    if _TOKEN.fullmatch(token):
        return {"credentialtype": "ACCESSTOKEN", "accesstoken": token}
    try:
        return loads(given)
    except ValueError:
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "…"}'
        raise UsageError(f"--credential {path:.200} is not JSON. Write it like {example}") from None


def _is_inline(text: str) -> bool:
    """True if an argument is JSON itself, not the name of a file."""
    return text.lstrip().startswith(("[", "{", '"'))


def _json(option: str, text: str, example: str) -> bytes:
    """JSON, from the argument itself or from the file that it names. Raises UsageError."""
    if _is_inline(text):
        return text.encode(errors="surrogateescape")
    try:
        return read_bytes(text, MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise UsageError(f"{option} {text:.200}: {why}. It takes JSON such as {example}, or a file") from None


def filters_given(text: str | None) -> Any:
    """The filters of --filters; a single one may stand alone. Raises UsageError."""
    return None if text is None else _value(next(one for one in settings() if one.path == "filters"), text)


def _start(text: str) -> str | None:
    return text if text in ("now", "earliest") else time_or_age(text)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "types": type_names,
    "sinkcredential": _credential,
    "config.start": _start,
}
"""Of options that take more than a value of the API."""
_OR_FILE = "JSON, or a file with it. - reads it from the input."
_NOTES = {
    "sinkcredential": "Here a file with it as JSON, or with an access token alone. - reads it from the input.",
    "config.start": "Here also an age such as 1d.",
    "json": _OR_FILE,
    "list": _OR_FILE,
    "pairs": "Can be given several times.",
}
"""Words that options add to those of a field, by its path or shape."""
_TYPES = {"switch": bool, "number": int, "decimal": float, "pairs": list[str]}
"""By the shape of a field's value; of others it is text."""


@cache
def settings() -> tuple["WrittenField", ...]:
    """The fields that have an option. The first call imports the kinds of sinks."""
    from relay.api.subscriptions.models import written_fields

    return tuple(one for one in written_fields() if one.part != "sinkcredential" and one.cli.own and one.has_choice)


def _option(field: "WrittenField") -> str:
    return f"--{field.short.replace('_', '-')}"


def _parameter(field: "WrittenField") -> inspect.Parameter:
    """The type that Typer makes an option of."""
    has_example = field.example and field.shape != "switch" and field.path != "sinkcredential"
    note = _NOTES.get(field.path, _NOTES.get(field.shape, ""))
    example = f"Example: {field.example}" if has_example else ""
    help = " ".join(filter(None, (field.words.replace("`", ""), note, example)))
    option = typer.Option(None, _option(field), metavar=field.cli.metavar, help=help)
    annotation = _TYPES.get(field.shape, str) | None
    return inspect.Parameter(field.short, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def _value(field: "WrittenField", given: Any) -> Any:
    """The value of an option; None if it was not given. Raises UsageError."""
    if given is None or (field.shape == "pairs" and not given):
        return None
    if field.path in _READERS:
        return _READERS[field.path](given)
    if isinstance(given, bool | int | float):
        return given
    option, where = _option(field), ""
    try:
        if field.shape in ("json", "list"):
            where = "" if _is_inline(given) else f" {given:.200}"
            return field.read(_json(option, given, field.example))
        return field.read(given)
    except JSONDecodeError as error:
        raise UsageError(f"{option}{where} is not JSON ({error}). Write it like {field.example}") from None
    except ValueError as error:
        raise UsageError(f"{option} {error}. Write it like {field.example}") from None


class WithSettings(TyperCommand):
    """A command whose context has, as its `obj`, the settings that were given, in the shape of the API. Its options are
    made when they are asked for, since other commands do without the kinds of sinks."""

    creates = False
    _parameters: list[Any]
    _is_complete: bool

    @property
    def params(self) -> list[Any]:
        """Its own parameters, and an option for each setting. The list stays the same: Typer adds to it."""
        if not self._is_complete:
            self._parameters += _options(self.creates)
            self._is_complete = True
        return self._parameters

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._parameters, self._is_complete = own, False

    def invoke(self, context: Any) -> Any:
        """Raises UsageError for an invalid setting."""
        body: Body = {part: {} for part in PARTS}
        for field in settings():
            value = _value(field, context.params.pop(field.short, None))
            (body[field.part] if field.part else body)[field.name] = value
        context.obj = {**body, **{part: given(**body[part]) for part in PARTS}}
        return super().invoke(context)


class WithAllSettings(WithSettings):
    """With those too that only a new subscription can have."""

    creates = True


@cache
def _options(creates: bool) -> Sequence[Any]:
    """The options that Typer makes of the settings."""

    def command(**_: Any) -> None: ...

    parameters = [_parameter(one) for one in settings() if creates or not one.cli.creates]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return typer.main.get_command(app).params


def without_empty(body: Body) -> Body:
    """The body without absent fields and empty parts."""
    return given(**{name: value if name not in PARTS else value or None for name, value in body.items()})


def place_of(option: str) -> tuple[str, str]:
    """The part and the field of the setting that --unset names. Raises UsageError if there is none."""
    name = option.lstrip("-").replace("-", "_")
    changeable = [one for one in settings() if not one.cli.creates]
    for field in changeable:
        if name in (field.short, field.name):
            return field.part, field.name
    known = sorted(field.short for field in changeable)
    raise UsageError(f"--unset {option!r:.40} is not known. It takes {', '.join(known)}")
