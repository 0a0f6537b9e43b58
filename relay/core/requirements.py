"""The requirement for a value in words, in place of pydantic's own ("Input should be a valid dictionary")."""

from collections.abc import Mapping
from typing import Any

_TYPES = {
    "string": "text",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "list": "a list",
    "tuple": "a list",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
_LIMITS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "string_too_short": "is too short: its length must be at least {min_length}",
    "string_too_long": "is too long: its length must be at most {max_length}",
    "too_short": "has too few entries: at least {min_length}",
    "too_long": "has too many entries: at most {max_length}",
}
_FAULTS = ("_type", "_parsing", "_from_float", "_parsing_size")


def requirement(kind: str, context: Mapping[str, Any]) -> str | None:
    """What a value must be, as the rest of a sentence about it: "must be a number". `kind` and `context`: the type and
    `ctx` of pydantic's error. None for a kind that has words of its own."""
    if kind in _LIMITS:
        limits = {name: int(value) if str(value).endswith(".0") else value for name, value in context.items()}
        return _LIMITS[kind].format_map(limits)
    for fault in _FAULTS:
        name = kind.removesuffix(fault)
        if name != kind and name in _TYPES:
            return f"must be {_TYPES[name]}"
    return None
