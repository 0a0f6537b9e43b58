"""`Idempotency-Key`: a repeated POST gets the status of the first one, and nothing is done twice.

Of an answer its status is stored, and what `Repeats.keep` of the operation leaves of it; the rest is made again. A
refused request did nothing: its status and code are stored. One that was refused for its body is validated again,
which gives the same reasons. So nothing is stored that an erasure would have to find.

A request holds its key by a lease that it renews. If it is cut off by a crash, or its response cannot be stored, the
lease expires, and the same request then runs again.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response

from relay.api.http.limits import MAX_BODY_BYTES
from relay.api.http.problems import invalid_parameter, problem_response
from relay.core.jsontext import dumps, loads
from relay.core.records import StoredAnswer
from relay.errors import Conflict, Gone, InvalidRequest, NotFound, RequestError, StoreError

if TYPE_CHECKING:
    from relay.api.http.operations import Call

HEADER = "Idempotency-Key"
KEPT_SECONDS = 86_400.0
RENEW_SECONDS = 3.0
MAX_KEY_CHARACTERS = 255
REPLAYED = {"Idempotency-Replayed": "true"}
KEY_PATTERN = "^[!-~](?:[ -~]{0,253}[!-~])?$"

_KEY = re.compile(KEY_PATTERN)

log = structlog.get_logger("relay.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSent:
    """Time of the first request with this Idempotency-Key, and a digest of caller, path and key."""

    at: float
    digest: str


@dataclass(frozen=True, slots=True)
class Repeats:
    """The two functions that answer a repeated POST with the same Idempotency-Key.

    keep   what is stored of its answer: ids, counts, and a secret that is shown once. Nothing that a person could ask
           to have erased. Applied to its own result, it changes nothing
    again  makes the answer from what was kept, and the rest from the row. Raises NotFound if the row is gone
    """

    keep: Callable[[Any], Any]
    again: Callable[["Call", Any], Awaitable[object]]


def members(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Keeps these members of an answer."""
    return lambda answer: {name: answer[name] for name in names}


def stored(keep: Callable[[Any], Any]) -> Repeats:
    """A repeated request gets what was stored of the answer."""

    async def again(_call: "Call", kept: Any) -> object:
        return kept

    return Repeats(keep, again)


STORED = stored(lambda answer: answer)
"""For answers of ids, counts and secrets alone."""
REFUSED_BEFORE = (
    "the answer to the first request with this Idempotency-Key has the reason: send it again with another key"
)
"""Detail of a refused item in a repeated answer to a batch."""


def _without_reasons(answer: Mapping[str, Any]) -> dict[str, Any]:
    rejected = [{"index": one["index"], "code": one["code"], "detail": REFUSED_BEFORE} for one in answer["rejected"]]
    return {**{name: value for name, value in answer.items() if name != "warnings"}, "rejected": rejected}


STORED_BATCH = stored(_without_reasons)
"""Stores of the answer to a batch the ids, the counts and the codes of refused entries."""


def key_of(headers: Headers) -> str:
    """The request's key. Raises InvalidRequest if it is malformed or repeated."""
    key, *others = headers.getlist(HEADER)
    if others or not _KEY.fullmatch(key):
        detail = f"{HEADER} must be given once, as 1 to {MAX_KEY_CHARACTERS} printable ASCII characters"
        raise invalid_parameter(HEADER, detail, code="invalid_idempotency_key")
    return key


async def once(
    call: "Call", key: str, repeats: Repeats, run: Callable[[], Awaitable[Response]], described: tuple[str, ...] = ()
) -> Response:
    """The response of `run`, or that of the first request again. Raises Conflict while the first request is in
    progress, InvalidRequest if the key was used with another body, Gone if what the first request made is gone, and
    RequestError if it was refused. `described`: beginnings of the names of headers that are part of the body."""
    scope = call.request.scope
    store = call.dependencies.store.idempotency
    caller = call.identity.key if call.identity is not None else ""
    id = _digest(caller, scope["method"], scope["path"], key)
    parts = [f"{name}: {value}" for name, value in call.request.headers.items() if name.startswith(described)]
    body_digest = _digest(scope["query_string"].decode("latin-1"), await _sha256(call.body), *sorted(parts))
    holder = token_hex(8)
    now = call.dependencies.clock()
    begun = await store.begin(id, body_digest, holder, now, now - KEPT_SECONDS)
    if isinstance(begun, StoredAnswer):
        return await _again(call, repeats, begun, body_digest)
    call.first = FirstSent(at=begun, digest=id)
    renewing = asyncio.get_running_loop().create_task(_renewing(call, id, holder))
    try:
        response = await run()
    except RequestError as error:
        if error.kept and error.status < 500:
            kept = dumps({"code": error.code, "title": error.title})
            await _tried(store.end(id, holder, error.status, kept, {}), "kept")
        else:
            await _tried(store.forget(id, holder), "freed")
        return problem_response(error)
    except BaseException:
        await _tried(store.forget(id, holder), "freed")
        raise
    else:
        headers = {name: value for name, value in response.headers.items() if name == "location"}
        kept = dumps(repeats.keep(loads(bytes(response.body))))
        await _tried(store.end(id, holder, response.status_code, kept, headers), "kept")
        return response
    finally:
        renewing.cancel()


async def _renewing(call: "Call", id: str, holder: str) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await _tried(call.dependencies.store.idempotency.renew(id, holder, call.dependencies.clock()), "renewed")


async def _tried(change: Awaitable[None], what: str) -> None:
    """Changes the stored key. If that fails the caller still gets its response, and the key's lease expires."""
    try:
        await change
    except StoreError as error:
        log.warning(f"idempotency_key_not_{what}", error=str(error))


async def _again(call: "Call", repeats: Repeats, kept: StoredAnswer, body_digest: str) -> Response:
    if kept.body_digest != body_digest:
        detail = f"this {HEADER} was used for another request to this path: use a new key for a new request"
        raise InvalidRequest(detail, code="idempotency_conflict")
    if kept.status_code is None:
        detail = f"the first request with this {HEADER} is still in progress: try again in a moment"
        raise Conflict(detail, code="idempotency_in_flight", headers={"Retry-After": "1"})
    found = loads(kept.body)
    if kept.status_code >= 400:
        detail = f"the first request with this {HEADER} was refused, and so is this one. To try again, use a new key"
        error = RequestError(detail, code=found["code"], status=kept.status_code, headers=dict(REPLAYED))
        error.title = found["title"]
        raise error
    try:
        document = await repeats.again(call, found)
    except NotFound:
        detail = f"the first request with this {HEADER} was carried out, but what it made or changed was removed since"
        raise Gone(detail, headers=dict(REPLAYED)) from None
    headers = {**kept.headers, **REPLAYED}
    return Response(dumps(document), kept.status_code, headers, media_type="application/json")


async def _sha256(body: bytes) -> str:
    """In a thread if the body is large: it would hold up all other requests."""
    if len(body) <= MAX_BODY_BYTES:
        return hashlib.sha256(body).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
