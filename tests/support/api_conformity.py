"""Validates responses against the OpenAPI description: status, media type, headers and body."""

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import httpx2
import orjson
from jsonschema_rs import Draft202012, Draft202012Validator, Registry

from relay.api.app import openapi_json
from tests.support.api_world import SETTINGS, TOKENS

DOCUMENT: dict[str, Any] = orjson.loads(openapi_json(SETTINGS))
METHODS = ("get", "put", "post", "delete")

_PATHS = [
    (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path)
    for path in sorted(DOCUMENT["paths"], key=lambda path: path.count("{"))
]
_REGISTRY = Registry([("urn:openapi", DOCUMENT)], draft=Draft202012)


@lru_cache(maxsize=512)
def validator(pointer: str) -> Draft202012Validator:
    """A validator for the schema at a JSON Pointer of the description."""
    return Draft202012Validator({"$ref": f"urn:openapi#{pointer}"}, registry=_REGISTRY, validate_formats=True)


def pointer_to(*parts: str) -> str:
    """A JSON Pointer as a URI fragment."""
    replacements = (("~", "~0"), ("/", "~1"), ("{", "%7B"), ("}", "%7D"))
    pointer = ""
    for part in parts:
        for old, new in replacements:
            part = part.replace(old, new)
        pointer += "/" + part
    return pointer


def operation_of(method: str, path: str) -> tuple[str, str] | None:
    """The documented path and method of a request; None if there is none."""
    name = "get" if method == "HEAD" else method.lower()
    template = next((path_ for pattern, path_ in _PATHS if pattern.fullmatch(path)), None)
    return (template, name) if template is not None and name in DOCUMENT["paths"][template] else None


async def check_answer(answer: httpx2.Response) -> None:
    """Raises AssertionError if a response differs from its documentation."""
    await answer.aread()
    assert answer.headers["x-request-id"]
    found = operation_of(answer.request.method, answer.request.url.path)
    documented = {} if found is None else DOCUMENT["paths"][found[0]][found[1]]["responses"]
    if answer.status_code in (404, 405) and str(answer.status_code) not in documented:
        problem = validator("/components/schemas/Problem")
        assert answer.request.method == "HEAD" or not list(problem.iter_errors(answer.json()))
        return
    if found is None:
        # unknown paths are only refused after authentication and the check of the path
        assert answer.status_code in (400, 401, 403, 429, 508)
        return
    path, method = found
    responses = DOCUMENT["paths"][path][method]["responses"]
    status = str(answer.status_code)
    assert status in responses, f"{method} {path}: {status} is not documented"
    for name in responses[status].get("headers", {}):
        required = name == "X-Request-Id" or (name, status) in (("Location", "201"), ("Retry-After", "429"))
        assert not required or name in answer.headers, f"{method} {path} {status}: header {name}"
    content = responses[status].get("content", {})
    if answer.request.method == "HEAD" or not content:
        assert answer.content == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in content, f"{method} {path} {status}: {media_type} is not documented"
    if media_type.endswith("json"):
        pointer = pointer_to("paths", path, method, "responses", status, "content", media_type, "schema")
        errors = [error.message for error in validator(pointer).iter_errors(answer.json())]
        assert not errors, f"{method} {path} {status}: {errors[:3]}"


def with_tokens() -> dict[str, Any]:
    """The description with configured tokens."""
    document: dict[str, Any] = orjson.loads(openapi_json(replace(SETTINGS, tokens=TOKENS)))
    return document
