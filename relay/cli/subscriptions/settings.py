"""The settings of a subscription as command-line options, for `relay subscriptions add` and `edit`."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from relay.cli.options import full_types, given, split_names
from relay.core.jsontext import dumps, loads
from relay.errors import UsageError

if TYPE_CHECKING:
    from subscribers.fields import KindField, Shape

Body = dict[str, Any]
PARTS = ("protocolsettings", "config")
MAX_CREDENTIAL_BYTES = 65_536
MAX_JSON_BYTES = 1_048_576
_TOKEN = re.compile(r"[A-Za-z0-9][!-~]{7,}")
"""A token by itself, which is no JSON."""
KEPT = ("sinkcredential",)
"""Fields that the API keeps where a body does not have them; null removes them."""


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    if not lines:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header has no colon. Write it like 'X-Team: sales'")
        headers[name.strip()] = value.strip()
    return headers


def _read(path: str, size: int) -> bytes:
    """The beginning of a file; "-" is the input, which stays open for the questions of a terminal. Raises OSError and
    ValueError."""
    if path == "-":
        return sys.stdin.buffer.read(size)
    with Path(path).open("rb") as file:
        return file.read(size)


def _credential(path: str | None) -> Any:
    """From a file, because others can read the arguments of a process."""
    if path is None:
        return None
    try:
        given = _read(path, MAX_CREDENTIAL_BYTES)
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


def _json(option: str, text: str, example: str) -> Any:
    """JSON, from the argument itself or from the file that it names. Raises UsageError."""
    inline = text.lstrip().startswith(("[", "{", '"'))
    if inline:
        body = text.encode(errors="surrogateescape")
    else:
        try:
            body = _read(text, MAX_JSON_BYTES)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no name of a file"
            raise UsageError(f"{option} {text:.200}: {why}. It takes JSON such as {example}, or a file") from None
    try:
        return loads(body)
    except ValueError as error:
        where = "" if inline else f" {text:.200}"
        raise UsageError(f"{option}{where} is not JSON ({error}). Write it like {example}") from None


def filters_given(text: str | None) -> Any:
    """The filters of --filters; a single one may stand alone. Raises UsageError."""
    if text is None:
        return None
    found = _json("--filters", text, '[{"exact": {"channel": "linkedin"}}]')
    return [found] if isinstance(found, dict) else found


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its option, and the field of the API that it sets. `part` is "" for a field of the object itself."""

    option: str
    type: Any
    help: str
    part: str = "config"
    field: str = ""
    metavar: str | None = None
    read: Callable[[Any], Any] = lambda value: value

    @property
    def name(self) -> str:
        """The name of the field in the API."""
        return self.field or self.option

    def parameter(self) -> inspect.Parameter:
        """The parameter that Typer makes an option of."""
        option = typer.Option(None, f"--{self.option.replace('_', '-')}", metavar=self.metavar, help=self.help)
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.option, kind, default=option, annotation=self.type | None)


COMMON = (
    Setting("types", str, "Event types, such as failed,overdue.", part="", read=full_types),
    Setting("source", str, "Only events of this CloudEvents source.", part=""),
    Setting(
        "filters",
        str,
        "Only events that pass these filters: JSON, or a file with it. - reads it from the input.",
        part="",
        metavar="FILE-or-JSON",
        read=filters_given,
    ),
    Setting(
        "kind",
        str,
        "The kind of the sink. By default the one that the URL is known for.",
    ),
    Setting(
        "header",
        list[str],
        "A header of each request. Can be given several times.",
        part="protocolsettings",
        field="headers",
        metavar="NAME: VALUE",
        read=_headers,
    ),
    Setting("method", str, "POST or PUT.", part="protocolsettings"),
    Setting(
        "credential",
        str,
        "A file with the sink's sinkcredential as JSON, or with an access token alone. - reads it from the input.",
        part="",
        field="sinkcredential",
        metavar="FILE",
        read=_credential,
    ),
    Setting("ordering", str, "job: in order within a job. none: in any order."),
    Setting("signature", str, "v1: with the subscription's secret. v1a: with the relay's key pair. Or both."),
    Setting("timeout", float, "Maximum seconds per attempt.", field="timeout_seconds"),
    Setting(
        "retry_schedule",
        str,
        "Pauses between attempts, such as 5s,5m,2h.",
        read=lambda text: split_names(text, "--retry-schedule", "5s,5m,2h"),
    ),
    Setting("rate", float, "Maximum deliveries per second.", field="rate_per_second"),
    Setting("handshake", str, "Whether the sink must agree first: off or required."),
    Setting("incidents", str, "Chats: collapse (incidents instead of the failures in them), both, or off."),
    Setting("concurrency", int, "Maximum deliveries at the same time."),
    Setting("dry_run", bool, "Send nothing: attempts show the requests that would have been sent."),
    Setting("description", str, "A description of your own.", part=""),
)
"""Those of every kind."""

_TYPES = {"switch": bool, "number": int, "decimal": float}
"""By the shape of a field's value; of others it is text."""


@cache
def settings() -> tuple[Setting, ...]:
    """Those of every kind, and those that the kinds declare. The first call imports the kinds."""
    from subscribers.fields import kind_fields

    fields = (*kind_fields("protocolsettings"), *kind_fields("config"))
    return (*COMMON, *(_declared(field) for field in fields if field.has_choice))


def _declared(field: "KindField") -> Setting:
    option = field.cli.option or field.name
    given = field.example
    example = _as_option(list(given.values()) if field.shape == "object" else given)
    more = {"switch": "", "json": f" Example: {example}. - reads it from the input."}
    return Setting(
        option,
        _TYPES.get(field.shape, str),
        field.words.replace("`", "") + more.get(field.shape, f" Example: {example}"),
        part=field.part,
        field=field.name,
        metavar=field.cli.metavar,
        read=partial(_read_declared, field.shape, f"--{option.replace('_', '-')}", example),
    )


def _as_option(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        return ",".join(str(one) for one in value)
    return value if isinstance(value, str) else dumps(value).decode()


def _read_declared(shape: "Shape", option: str, example: str, given: Any) -> Any:
    """The value of an option that was given. Raises UsageError."""
    if given is None:
        return None
    if shape == "json":
        return _json(option, given, example)
    if shape in ("words", "word or words"):
        words = split_names(given, option, example) or []
        return words[0] if shape == "word or words" and len(words) == 1 else words
    return _batch(option, given) if shape == "object" else given


def _batch(option: str, text: str) -> Body:
    events, _, seconds = text.partition(",")
    try:
        return {"max_events": int(events), **({"max_seconds": float(seconds)} if seconds else {})}
    except ValueError:
        raise UsageError(f"{option} {text!r:.40}: write the events and seconds like 100,5") from None


class WithSettings(TyperCommand):
    """A command whose context has, as its `obj`, the settings that were given, in the shape of the API. Its options are
    made when they are asked for, since other commands do without the kinds of sinks."""

    _parameters: list[Any]
    _is_complete: bool

    @property
    def params(self) -> list[Any]:
        """Its own parameters, and an option for each setting. The list stays the same: Typer adds to it."""
        if not self._is_complete:
            self._parameters += _options()
            self._is_complete = True
        return self._parameters

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._parameters, self._is_complete = own, False

    def invoke(self, context: Any) -> Any:
        """Raises UsageError for an invalid setting."""
        body: Body = {part: {} for part in PARTS}
        for setting in settings():
            value = setting.read(context.params.pop(setting.option))
            (body[setting.part] if setting.part else body)[setting.name] = value
        context.obj = {**body, **{part: given(body[part]) for part in PARTS}}
        return super().invoke(context)


@cache
def _options() -> Sequence[Any]:
    """The options that Typer makes of the settings."""

    def command(**_: Any) -> None: ...

    command.__signature__ = inspect.Signature([one.parameter() for one in settings()])  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return typer.main.get_command(app).params


def without_empty(body: Body) -> Body:
    """The body without absent fields and empty parts."""
    return given({name: value if name not in PARTS else value or None for name, value in body.items()})


def place_of(option: str) -> tuple[str, str]:
    """The part and the field of the setting that --unset names. Raises UsageError if there is none."""
    name = option.lstrip("-").replace("-", "_")
    for setting in settings():
        if name in (setting.option, setting.name):
            return setting.part, setting.name
    known = sorted(setting.option for setting in settings())
    raise UsageError(f"--unset {option!r:.40} is not known. It takes {', '.join(known)}")
