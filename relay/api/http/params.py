"""Query parameters. Unknown ones are refused: ignoring a misspelt filter would show too much."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import Request

from relay.api.http.fields import PRINTABLE
from relay.api.http.problems import did_you_mean, invalid_detail
from relay.clock import from_rfc3339
from relay.errors import FieldError, InvalidRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_TEXT = 256
TEXT_PATTERN = f"^{PRINTABLE}{{1,{MAX_TEXT}}}$"
CURSOR_PATTERN = "^[A-Za-z0-9_-]{1,200}$"

_MAX_FIELDS = 50
_TEXT = re.compile(TEXT_PATTERN)
_CURSOR = re.compile(CURSOR_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter. `read` raises ValueError with a text that completes "name: …"."""

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    default: Any = None


def _read_text(value: str) -> str:
    if _TEXT.fullmatch(value) is None:
        raise ValueError(f"1 to {MAX_TEXT} printable characters are expected")
    return value


def _read_boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{value[:40]!r} is neither true nor false")
    return value == "true"


def _read_time(value: str) -> float:
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        return from_rfc3339(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        raise ValueError(f"{value[:40]!r} is not an RFC 3339 time such as 2026-05-20T10:00:08Z") from None


def _read_cursor(value: str) -> str:
    if _CURSOR.fullmatch(value) is None:
        raise ValueError("not a valid cursor; use next_cursor unchanged")
    return value


def text(name: str, description: str) -> Parameter:
    """Text that is compared exactly."""
    schema = {"type": "string", "pattern": TEXT_PATTERN}
    return Parameter(name=name, description=description, schema=schema, read=_read_text)


def boolean(name: str, description: str, default: bool | None = None) -> Parameter:
    """`true` or `false`."""
    return Parameter(
        name=name, description=description, schema={"type": "boolean"}, read=_read_boolean, default=default
    )


def time(name: str, description: str) -> Parameter:
    """An RFC 3339 time, read as epoch seconds."""
    schema = {"type": "string", "format": "date-time"}
    return Parameter(name=name, description=description, schema=schema, read=_read_time)


def choice(name: str, description: str, *choices: str) -> Parameter:
    """One of a few words."""

    def read(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value[:40]!r} is unknown{did_you_mean(value, choices)}")
        return value

    return Parameter(name=name, description=description, schema={"type": "string", "enum": list(choices)}, read=read)


def choices(name: str, description: str, *words: str) -> Parameter:
    """Some of a few words, separated by commas. The value is a tuple in the order of `words`, without repeats."""
    one = "|".join(words)
    schema = {"type": "string", "pattern": f"^({one})(,({one})){{0,{len(words) - 1}}}$"}

    def read(value: str) -> tuple[str, ...]:
        given = value.split(",")
        if len(given) > len(words):
            raise ValueError(f"at most {len(words)} words are expected")
        for word in given:
            if word not in words:
                raise ValueError(f"{word[:40]!r} is unknown{did_you_mean(word, words)}")
        return tuple(word for word in words if word in given)

    return Parameter(name=name, description=description, schema=schema, read=read, default=())


def whole_number(name: str, description: str, most: int, default: int) -> Parameter:
    """A whole number from 1 to `most`."""

    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 6 and 1 <= int(value) <= most):
            raise ValueError(f"{value[:40]!r} is not a whole number from 1 to {most}")
        return int(value)

    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return Parameter(name=name, description=description, schema=schema, read=read, default=default)


PAGE = (
    whole_number("limit", "The maximum number of items on a page.", MAX_LIMIT, DEFAULT_LIMIT),
    Parameter(
        name="cursor",
        description="The `next_cursor` of the previous page.",
        schema={"type": "string", "pattern": CURSOR_PATTERN},
        read=_read_cursor,
    ),
)


def read_query(query_string: bytes, parameters: Sequence[Parameter]) -> Mapping[str, Any]:
    """The value or default of every parameter. Raises InvalidRequest with every mistake."""
    values = {parameter.name: parameter.default for parameter in parameters}
    if not query_string:
        return values
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=False,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        detail = f"the query is not percent-encoded UTF-8, or has more than {_MAX_FIELDS} parameters"
        raise InvalidRequest(detail, code="invalid_query") from None
    known = {parameter.name: parameter for parameter in parameters}
    seen: set[str] = set()
    errors: list[FieldError] = []
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None:
            near = did_you_mean(name, known) or ": this takes none"
            detail = f"there is no parameter {name[:100]!r}{near}"
            errors.append(FieldError(pointer=name[:100], code="unknown_parameter", detail=detail))
        elif name in seen:
            errors.append(FieldError(pointer=name, code="repeated", detail="it is given more than once"))
        else:
            seen.add(name)
            try:
                values[name] = parameter.read(value)
            except ValueError as error:
                errors.append(FieldError(pointer=name, code="invalid_parameter", detail=str(error)))
    if errors:
        raise InvalidRequest(invalid_detail(errors), code="invalid_parameter", errors=errors)
    return values


def next_link(request: Request, cursor: str) -> str:
    """The `Link` header for the next page of this request's list."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f'<{quote(request.scope["path"])}?{urlencode([*pairs, ("cursor", cursor)])}>; rel="next"'
