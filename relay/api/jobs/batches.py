"""Reads the jobs of a batch, which may be 48 MiB, without holding up other requests.

A large body is cut into pieces of whole entries (`relay/core/json_pieces.py`). Each is parsed and checked by itself, so
no step takes long, and what a client sends instead of jobs is never in memory as objects all at once.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field

from relay.api.http import limits
from relay.api.http.fields import Body
from relay.api.http.problems import few_suggestions, invalid_parameter
from relay.api.http.validation import validate
from relay.api.jobs.registration import ReadAnswer, Rules, read_registration, rejection
from relay.core.json_pieces import SLICE_BYTES, Unbalanced, array_pieces
from relay.core.polling.tracking import TrackRequest
from relay.errors import InvalidRequest, RequestError
from relay.turns import Turns

MAX_JOBS = 10_000
MAX_CONTAINERS = 1_000_000
"""Objects and lists of a whole batch."""
MOST_MISTAKES = 3
"""Mistakes named for one entry."""

_BEFORE = re.compile(rb'\{[ \t\r\n]*"jobs"[ \t\r\n]*:[ \t\r\n]*\[')
_AFTER = re.compile(rb"\][ \t\r\n]*\}\Z")
_LONGEST_END = 1_000


class JobBatch(Body):
    """Jobs to track, each as for `POST /v1/jobs`. An invalid job does not affect the others."""

    jobs: list[Any] = Field(
        max_length=MAX_JOBS,
        json_schema_extra={
            "items": {
                "description": "A body of `POST /v1/jobs`. Invalid ones are listed in `rejected`.",
                "anyOf": [{"$ref": "#/components/schemas/JobRegistration"}, {}],
            }
        },
        examples=[[{"id": "job-1", "priority": "high"}, {"id": "job-2", "metadata": {"deal": 43}}]],
    )


async def read_batch(
    body: bytes, settings: Rules, read_answer: ReadAnswer, caller: str
) -> tuple[list[tuple[int, TrackRequest]], list[dict[str, Any]]]:
    """The valid jobs of a batch with their indexes, and the others. Raises InvalidRequest if the body is no batch.

    Nothing is tracked before the whole body has been read.
    """
    requests: list[tuple[int, TrackRequest]] = []
    rejected: list[dict[str, Any]] = []
    turns, index = Turns(), 0
    with few_suggestions():
        async for entries in _pieces(body, turns):
            if index + len(entries) > MAX_JOBS:
                detail = f"a batch can have at most {MAX_JOBS:,} jobs, this one has more: send several"
                raise invalid_parameter("/jobs", detail, code="batch_too_long", field_code="too_long")
            for entry in entries:
                if isinstance(entry, RequestError):  # raising it here would make a cycle that keeps the body in memory
                    rejected.append(rejection(index, entry))
                else:
                    try:
                        request = read_registration(entry, settings, read_answer, MOST_MISTAKES)
                        if request.callback_url is not None:
                            request = request._replace(caller=caller)
                        requests.append((index, request))
                    except RequestError as error:
                        rejected.append(rejection(index, error))
                index += 1
                if turns.over:
                    await turns.next()
    return requests, rejected


async def _pieces(body: bytes, turns: Turns) -> AsyncIterator[list[Any]]:
    body = body.strip(b" \t\r\n")
    before = _BEFORE.match(body)
    after = _AFTER.search(body, max(len(body) - _LONGEST_END, 0))
    if len(body) <= SLICE_BYTES or before is None or after is None or after.start() < before.end():
        yield _plain(body)
        return
    async for values in elements(body, before.end(), after.start(), depth=2, turns=turns):
        yield values


async def elements(
    body: bytes, start: int, end: int, *, depth: int | None = None, turns: Turns
) -> AsyncIterator[list[Any]]:
    """The elements of a JSON array, whose inside is from `start` to `end` of a body, some at a time; the error in place
    of one that is too large to be parsed. Raises InvalidRequest.

    depth  levels of the array below the body's top, which count for its elements; None: each has its own, and one that
           is nested too deep has an error in its place
    """
    try:
        for piece in array_pieces(body, start, end):
            if isinstance(piece, int):
                if piece > MAX_CONTAINERS:
                    raise limits.too_complex(MAX_CONTAINERS)
            elif piece.is_long and piece.end - piece.start > limits.MAX_BODY_BYTES:
                detail = f"it is larger than {limits.MAX_BODY_BYTES:,} bytes"
                yield [InvalidRequest(detail, code="too_large")]
            elif piece.is_long and piece.containers > limits.MAX_CONTAINERS:
                yield [limits.too_complex(limits.MAX_CONTAINERS)]
            else:
                values = (
                    limits.parse_apart(body, piece.start, piece.end)
                    if depth is None
                    else limits.parse_part(body, piece.start, piece.end, depth=depth)
                )
                if not values and (piece.start, piece.end) != (start, end):
                    raise limits.not_json("an entry is missing", body, piece.start)
                yield values
            if turns.over:
                await turns.next()
    except Unbalanced as error:
        raise limits.not_json(str(error), body, error.position) from None


def _plain(body: bytes) -> list[Any]:
    """The entries of a small body, or of one that has another shape."""
    if len(body) > limits.MAX_BODY_BYTES:
        detail = f'a body of more than {limits.MAX_BODY_BYTES:,} bytes must be {{"jobs": […]}} and nothing else'
        raise InvalidRequest(detail, code="not_json", status=400)
    document = limits.parse_json(body)
    entries = document.get("jobs") if type(document) is dict and len(document) == 1 else None
    if type(entries) is list and len(entries) > MAX_JOBS:
        detail = f"a batch can have at most {MAX_JOBS:,} jobs, this one has {len(entries):,}: send several"
        raise invalid_parameter("/jobs", detail, code="batch_too_long", field_code="too_long")
    return entries if type(entries) is list else validate(JobBatch, document).jobs
