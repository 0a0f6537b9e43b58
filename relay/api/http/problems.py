"""Errors as RFC 9457 problems."""

import difflib
import http
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from relay.api.http.shown import Shown
from relay.core.jsontext import dumps
from relay.errors import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPE_PREFIX,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    RequestError,
    StaleSequence,
    StoreError,
    Unavailable,
)

Value = TypeVar("Value")

RETRY_AFTER = "5"

MAX_ERRORS = 20
"""Mistakes named in one answer."""
MAX_SUGGESTIONS = 500
"""Mistakes of a batch for which the nearest known word is looked up."""
MAX_WORD = 100
"""Characters of a word that are compared with known ones, which are shorter."""

_suggestions_left: ContextVar[list[int] | None] = ContextVar("suggestions_left", default=None)
_KNOWN_SHOWN = 50
_SHOWN_IN_DETAIL = 3
_HTTP_ERRORS = {
    404: ("not_found", "there is nothing at this path: see /openapi.json"),
    405: ("method_not_allowed", "this path does not support the method: see the Allow header"),
}


class Mistake(Shown):
    """One error in a request."""

    pointer: str = Field(description="A JSON Pointer into the body, or the name of a parameter or header.")
    code: str
    detail: str


class Problem(Shown):
    """The reason why a request failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, in a sentence.")
    code: str = Field(description="For programs. Stable across versions.")
    errors: list[Mistake]
    request_id: str = Field(default="", description="Only if the relay's log has more about the error.")


def problem_response(error: RequestError, *, request_id: str | None = None) -> Response:
    """The response for a RequestError. It ends there, and lets go of the frames that it went through: if one of them
    names it, they would keep each other and the request's body in memory until a full garbage collection."""
    error.with_traceback(None)
    more: dict[str, Any] = {} if request_id is None else {"request_id": request_id}
    document = Problem.of(error, type=PROBLEM_TYPE_PREFIX + error.code, detail=str(error), **more)
    return Response(dumps(document), status_code=error.status, media_type=PROBLEM_MEDIA_TYPE, headers=error.headers)


def store_problem(error: StoreError) -> RequestError:
    """The error for a request that failed in the database. It may be sent again."""
    if isinstance(error, StaleSequence):
        return Conflict(f"{error}: try again", code=error.code)
    return Unavailable(f"{error}: try again later", code=error.code, headers={"Retry-After": RETRY_AFTER})


def internal_error(request_id: str) -> Response:
    """The response to an unexpected exception. It names the log and the request id, and no details."""
    error = RequestError(
        f"the relay could not answer this request: its log says why, under request id {request_id}",
        code="internal_error",
        status=500,
    )
    error.title = "Internal error"
    return problem_response(error, request_id=request_id)


def http_problem(error: HTTPException) -> Response:
    """Starlette's own error as a problem."""
    phrase = http.HTTPStatus(error.status_code).phrase
    code, detail = _HTTP_ERRORS.get(error.status_code, ("http_error", error.detail))
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    problem = RequestError(detail, code=code, status=error.status_code, headers=headers)
    problem.title = phrase.capitalize()
    return problem_response(problem)


def known(value: Value | None, what: str, id: str) -> Value:
    """The value with this id. Raises NotFound if there is none."""
    if value is None:
        raise NotFound(f"there is no {what} {id[:200]!r}", code=f"{what}_not_found")
    return value


def invalid_detail(errors: Iterable[FieldError]) -> str:
    """One sentence about the first few of several errors."""
    all_errors = list(errors)
    shown = "; ".join(f"{error.pointer or 'the body'}: {error.detail}" for error in all_errors[:_SHOWN_IN_DETAIL])
    more = len(all_errors) - _SHOWN_IN_DETAIL
    return shown if more <= 0 else f"{shown}; and {more} more"


def invalid_parameter(name: str, detail: str, *, code: str, field_code: str | None = None) -> InvalidRequest:
    """The error for one wrong query parameter, header or field. `field_code`: its code in `errors`, if another one."""
    return InvalidRequest(detail, code=code, errors=[FieldError(pointer=name, code=field_code or code, detail=detail)])


def did_you_mean(word: str, known: Iterable[str], *, lists: bool = True) -> str:
    """`: did you mean x?` with the nearest known word, else `: known are …` if it `lists`; empty without any."""
    words = tuple(sorted(known))
    near = suggested(_nearest, word[:MAX_WORD].lower(), words)
    return f": did you mean {near}?" if near else known_are(words) if lists else ""


def known_are(words: Sequence[str]) -> str:
    """`: known are …` with the first of these words; empty without any."""
    more = f" and {len(words) - _KNOWN_SHOWN} more" if len(words) > _KNOWN_SHOWN else ""
    return f": known are {', '.join(words[:_KNOWN_SHOWN])}{more}" if words else ""


def suggested(nearest: Callable[[str, tuple[str, ...]], str | None], word: str, known: tuple[str, ...]) -> str | None:
    """The result of `nearest`; None once a batch has had MAX_SUGGESTIONS of them, since each takes up to
    milliseconds."""
    left = _suggestions_left.get()
    if left is not None:
        if left[0] == 0:
            return None
        left[0] -= 1
    return nearest(word, known)


@contextmanager
def few_suggestions() -> Iterator[None]:
    """For what is checked inside, at most MAX_SUGGESTIONS mistakes get the nearest known word."""
    token = _suggestions_left.set([MAX_SUGGESTIONS])
    try:
        yield
    finally:
        _suggestions_left.reset(token)


@lru_cache(maxsize=1024)
def _nearest(word: str, words: tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return near[0] if near else None
