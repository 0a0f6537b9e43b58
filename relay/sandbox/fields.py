"""Validates the fields of JSON request bodies. Pure.

Every function returns the value, or raises Refused (400 `invalid_request`) with a message that names the field.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

Fields = Mapping[str, Any]


class Refused(Exception):
    """An error answer: HTTP status, Revor's code, and a message, which defaults to the code."""

    def __init__(self, status: int, code: str, message: str | None = None) -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.message = message or code


def invalid(message: str) -> Refused:
    """The refusal of a request body."""
    return Refused(400, "invalid_request", message)


def json_object(value: object, name: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(f"{name} must be a JSON object")
    return value


def refuse_unknown(fields: Fields, known: Collection[str]) -> None:
    """Refuses a field that is not in `known`."""
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise invalid(f"unknown field {unknown[0]!r}")


def required_text(fields: Fields, name: str, label: str | None = None) -> str:
    """A text that is not blank. Messages call the field `label`."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"{label or name} is required and must be a text")
    return value


def text(fields: Fields, name: str, label: str | None = None, *, max_characters: int | None = None) -> str | None:
    """A text, or None if absent. With a maximum, an empty text is refused too."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(f"{label or name} must be a text")
    if max_characters is not None and not 0 < len(value) <= max_characters:
        raise invalid(f"{label or name} must be a text of 1 to {max_characters} characters")
    return value


def number(fields: Fields, name: str, least: float, most: float) -> float | None:
    """A finite number within the range, or None if absent."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"{name} must be a number")
    if not least <= value <= most:
        raise invalid(f"{name} must be {least:g} to {most:g}")
    return float(value)


def whole_number(fields: Fields, name: str, least: int, most: int) -> int | None:
    """A whole number within the range, or None if absent."""
    value = number(fields, name, least, most)
    if value is not None and value != int(value):
        raise invalid(f"{name} must be a whole number")
    return None if value is None else int(value)


def one_of(fields: Fields, name: str, allowed: Collection[str | None]) -> Any:
    """One of the allowed values, or None if absent."""
    value = fields.get(name)
    if value is not None and value not in allowed:
        raise invalid(f"{name} must be one of {', '.join(map(str, allowed))}")
    return value


def flag(fields: Fields, name: str) -> bool | None:
    """True or false, or None if absent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value
