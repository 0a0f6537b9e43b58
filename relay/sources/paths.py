"""Texts of a definition: paths, addresses and header names, checked for what cannot be sent and for secrets."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, StringConstraints

from relay.core.access.forwarding import path_refusal
from relay.redaction import redact_text

KEY_HERE = "has a secret: leave it out, `credential` says how the key is sent"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_ESCAPED_NAME = re.compile(r"\\\{(\\\+)?([a-z_]+)\\\}")
_SEGMENTS = re.compile(r"\{(?!key\})\+?[a-z_]+\}")
_CROWDED = re.compile(r"\}[^/]*\{")


def _path(text: str) -> str:
    """A path that goes to the base URL as it is written, and names what it says on every server."""
    if redact_text(text) != text or "{key}" in text:
        raise ValueError(KEY_HERE)
    if "#" in text or "{" in (left := _PLACEHOLDER.sub("x", text)) or "}" in left:
        raise ValueError("has a # or a brace too many: neither can be sent")
    refusal = path_refusal(left.partition("?")[0].encode(), ("/",))
    if refusal is not None:
        raise ValueError(f"names another place: {refusal}")
    return text


def _fixed(text: str) -> str:
    if "{" in _path(text):
        raise ValueError("has a placeholder: this path is sent as it is")
    return text


def _of_segments(text: str) -> str:
    if "{" in _SEGMENTS.sub("", _path(text)):
        raise ValueError("has a placeholder that is no name such as {owner}")
    names = [name.strip("{+}") for name in _SEGMENTS.findall(text)]
    if text.count("{+") > 1 or len(set(names)) < len(names):
        raise ValueError("has two placeholders of one kind: {+name} and each name may be there once")
    if _CROWDED.search(text):
        raise ValueError("has two placeholders in one segment: one of them stands for all of it")
    return text


def with_id(text: str) -> str:
    if len(_PLACEHOLDER.findall(_path(text))) != 1:
        raise ValueError("has another placeholder than {id}, which the id is put at: write the others out")
    return text


def _address(text: str) -> str:
    parts = urlsplit(text)
    if "@" in parts.netloc or redact_text(text) != text:
        raise ValueError(KEY_HERE)
    return text


def headers_without_secrets(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if redact_text(f"{name}: {value}") != f"{name}: {value}":
            raise ValueError(f"{name} {KEY_HERE}")
    return values


RawPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]
FixedPath = Annotated[RawPath, AfterValidator(_fixed)]
PathPattern = Annotated[RawPath, AfterValidator(_of_segments)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Url = Annotated[str, Field(pattern=r"^https?://[!-~]+$"), AfterValidator(_address)]
WithKey = Annotated[str, Field(pattern=r"^[ -~]*\{key\}[ -~]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
LowerHeader = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", to_lower=True)]
Scalar = StrictStr | StrictBool | StrictInt


@lru_cache(maxsize=256)
def pattern_of(path: str) -> re.Pattern[str]:
    """The pattern of the path, whose `{id}` is the group `id`, if the query does not have it. `{name}` stands for one
    segment, `{+name}` for several."""
    return re.compile(_ESCAPED_NAME.sub(_stands_for, re.escape(path.partition("?")[0])))


def _stands_for(name: re.Match[str]) -> str:
    text = r"[^\\?#]+" if name[1] else r"[^/\\?#]+"
    return f"(?P<id>{text})" if name[2] == "id" else text


def with_parameter(url: str, name: str, value: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"
