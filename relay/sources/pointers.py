"""JSON pointers (RFC 6901), with which a definition says where a value stands in an answer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_POINTER_CHARACTERS = 500
_UNESCAPED = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


def parse(pointer: object) -> tuple[str, ...]:
    """The names in a pointer; none for "", which is the whole document. Raises ValueError."""
    if not isinstance(pointer, str) or len(pointer) > MAX_POINTER_CHARACTERS:
        raise ValueError("a JSON pointer is expected, such as /data/status")
    if not pointer:
        return ()
    if not pointer.startswith("/") or _UNESCAPED.search(pointer):
        raise ValueError(f"{pointer!r} is no JSON pointer: it begins with / and has ~ only as ~0 or ~1 (RFC 6901)")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/"))


def written(names: Sequence[str]) -> str:
    """A parsed pointer as text."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


_Written = Annotated[str, Field(pattern=r"^(/([^~]|~[01])*)?$", max_length=MAX_POINTER_CHARACTERS)]
Pointer = Annotated[tuple[str, ...], BeforeValidator(parse, json_schema_input_type=_Written)]
"""A pointer, parsed."""


def at(document: Any, names: Sequence[str], default: Any = None) -> Any:
    """The value at a parsed pointer; `default` if there is none."""
    for name in names:
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and _INDEX.fullmatch(name) and int(name) < len(document):
            document = document[int(name)]
        else:
            return default
    return document


def document_of(values: Iterable[tuple[Sequence[str], Any]]) -> Any:
    """The document that has these values at their pointers: names of objects, or 0 for the first of a list. A later
    value stands beside the earlier ones, or in their place."""
    whole: Any = {"": {}}
    for names, value in values:
        inner, places = whole, ("", *names)
        for name, below in pairwise(places):
            inner = _set(inner, name, [] if below == "0" else {})
        _set(inner, places[-1], dict(value) if isinstance(value, Mapping) else value, replaces=True)
    return whole[""]


def _set(inner: Any, name: str, value: Any, *, replaces: bool = False) -> Any:
    """Puts a value into an object or a list, in place of an object or a list that is there only if it replaces that."""
    if isinstance(inner, list):
        inner[:1] = inner[:1] if inner and not replaces and isinstance(inner[0], dict | list) else [value]
        return inner[0]
    if replaces or not isinstance(inner.get(name), dict | list):
        inner[name] = value
    return inner[name]
