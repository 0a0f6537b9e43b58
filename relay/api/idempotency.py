"""`Idempotency-Key`: a POST that is sent again gets the answer that it got, and nothing happens twice."""

import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import Response

from relay.api.operations import Call
from relay.api.problems import problem_response
from relay.core.records import StoredAnswer
from relay.errors import Conflict, FieldError, InvalidRequest, RequestError

HEADER = "Idempotency-Key"
KEPT_SECONDS = 86_400.0
MAX_KEY_CHARACTERS = 255
KEY_PATTERN = "^[!-~](?:[ -~]{0,253}[!-~])?$"

_KEY = re.compile(KEY_PATTERN)


def key_of(headers: Headers) -> str | None:
    """The request's key, None without. Raises InvalidRequest for one that is none."""
    given = headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0]
    if len(given) > 1 or not _KEY.fullmatch(key):
        detail = f"{HEADER} must be given once, as 1 to {MAX_KEY_CHARACTERS} printable ASCII characters"
        errors = [FieldError(pointer=HEADER, code="invalid_idempotency_key", detail=detail)]
        raise InvalidRequest(detail, code="invalid_idempotency_key", errors=errors)
    return key


async def once(call: Call, key: str, run: Callable[[], Awaitable[Response]]) -> Response:
    """The answer of `run`, or the one kept from the first time. Raises Conflict while the first is in flight, and
    InvalidRequest where the key was used for something else."""
    scope = call.request.scope
    store = call.ports.idempotency
    caller = call.identity.name if call.identity is not None else ""
    id = _digest(caller, scope["method"], scope["path"], key)
    body_digest = _digest(scope["query_string"].decode("latin-1"), hashlib.sha256(call.body).hexdigest())
    now = call.ports.clock()
    kept = await store.begin(id, body_digest, now, now - KEPT_SECONDS)
    if kept is not None:
        return _replayed(kept, body_digest)
    try:
        try:
            response = await run()
        except RequestError as error:
            response = problem_response(error)
        if response.status_code >= 500:
            await store.forget(id)
            return response
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        await store.end(id, response.status_code, bytes(response.body), headers)
    except BaseException:
        await store.forget(id)
        raise
    return response


def _replayed(kept: StoredAnswer, body_digest: str) -> Response:
    if kept.body_digest != body_digest:
        detail = f"this {HEADER} was used for another request to this path: take a new key for a new request"
        raise InvalidRequest(detail, code="idempotency_conflict")
    if kept.status_code is None:
        detail = f"the first request with this {HEADER} is still being worked on: try again in a moment"
        raise Conflict(detail, code="idempotency_in_flight", headers={"Retry-After": "1"})
    headers = {**kept.headers, "Idempotency-Replayed": "true"}
    return Response(kept.body, status_code=kept.status_code, headers=headers)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
