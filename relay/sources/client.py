"""Upstream client: one GET per poll, bounded in time and size, and a PollResult for every outcome."""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from relay.clock import Clock
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jobs.connect_accounts import Listing
from relay.core.jobs.job import Observation
from relay.core.values import value_class
from relay.http.exchange import Exchanges, Route
from relay.redaction import MIN_SECRET_CHARACTERS, without
from relay.sources.definition import MAX_ADDRESS_CHARACTERS, Resource, SourceDefinition
from relay.sources.mapping import (
    Document,
    Malformed,
    UpstreamError,
    observe,
    observe_item,
    read_answer,
    read_credits,
    read_error,
    read_listing,
    read_result,
)
from relay.sources.tokens import AccountTokens, NoAccessToken

if TYPE_CHECKING:
    from relay.http.sender import Transport

PollKind = Literal[
    "observed",
    "not_found",
    "forbidden",
    "unauthorized",
    "rate_limited",
    "unavailable",
    "malformed",
    "oversized",
    "loop",
]

NODE_HEADER = "Relay-Node"
"""Names the sending node. A node that receives its own name answers 508 (Loop Detected)."""

MAX_BODY_BYTES = 1 << 20
MAX_SEARCHED_BYTES = 64 * 1024
"""In an error up to this size the key is found however it is escaped: 1 MiB would hold up all others for seconds."""
MAX_CONNECTIONS = 100
MAX_HELD = MAX_CONNECTIONS // 4
"""Maximum concurrent requests that the upstream is asked to hold."""
HOLDS_AGAIN_SECONDS = 600.0
"""Pause of held requests after one that got no answer: something on the way may cut idle connections."""
NOT_MODIFIED = 304
_CUT = frozenset({None, 408, 502, 503, 504})

_MAX_HEADERS = 64
_MAX_HEADER_CHARACTERS = 512
_MAX_DETAIL_CHARACTERS = 300
_KEY = re.compile(r"[!-~]+")  # valid in a header
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters no stored text may hold. aiohttp decodes invalid UTF-8 in headers to lone surrogates."""


_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_KIND_BY_STATUS: Mapping[int, PollKind] = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "unavailable",
    410: "not_found",
    429: "rate_limited",
    508: "loop",
}


@value_class(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The result of one poll, probe or listing. Times are epoch seconds by the relay's clock.

    kind         observed: success; then `observation` is set after a poll, and `listing` after a listing
                 not_found, forbidden (this job), unauthorized (the key), rate_limited: as the upstream says
                 unavailable: 5xx, a redirect, a timeout, no connection; loop: the request came back to the relay
                 malformed, oversized: an unusable answer
    status_code  None if there was no answer
    headers      names lower-cased; the first 64, values truncated
    detail       one line for people, empty if observed; never contains the key
    held         the upstream held the answer: it shows the job as of `received_at`, not of `sent_at`
    document     JSON that a read of a result found, or the number that a read of credits found
    elsewhere    another origin than the base URL's answered: its answer says nothing of the account's budget
    moved_to     another address, at which the job is read from now on; None: as before
    """

    kind: PollKind
    observation: Observation | None = None
    listing: Listing | None = None
    status_code: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    error: UpstreamError | None = None
    sent_at: float
    received_at: float
    duration_ms: float
    request_id: str | None = None
    detail: str = ""
    held: bool = False
    document: Any = None
    elsewhere: bool = False
    moved_to: str | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a job is read, where its source knows more than one way.

    hold_seconds  how long the upstream may hold the answer until the job ends; 0: it answers at once
    etag          the ETag of the answer that showed `known`; None: nothing is known of it
    known         the job's item, which an answer 304 shows again
    address       the job's own address; None: it is read by its id
    """

    hold_seconds: float = 0.0
    etag: str | None = None
    known: Mapping[str, Any] | None = None
    address: str | None = None


PLAIN = Ways()


def problem_of(result: PollResult, now: float) -> dict[str, Any]:
    """A failed result as a job's `last_error`."""
    error = result.error or UpstreamError()
    return {
        "code": error.code or result.kind,
        "message": error.message or result.detail or result.kind,
        "request_id": result.request_id,
        "at": now,
    }


@value_class(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A response. `secrets`: the API key or token as it was sent, which the upstream may echo."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool
    secrets: Sequence[str] = field(repr=False)


_Got = TypeVar("_Got", _Answer, Response)
_Reader = Callable[[bytes, int, float, str | None], Observation | Listing | Document | dict[str, Any] | Malformed]
"""Reads the body of an answer. Its other arguments: the status, when it was received, and its request id by the
headers."""


class UpstreamClient:
    """Client of one upstream. Usable again after `close`."""

    def __init__(
        self,
        definition: SourceDefinition,
        base_url: str,
        *,
        clock: Clock,
        timeout_seconds: float = 15,
        user_agent: str,
        node_id: str | None = None,
        sender: "Transport | None" = None,
    ) -> None:
        """`timeout_seconds` covers the whole request including the body. `node_id` is sent in NODE_HEADER. `sender`:
        for origins besides the base URL's; None: they are not asked. Raises ValueError if the source needs one."""
        self._definition = definition
        self._base_url = base_url
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "identity"}
        if node_id:
            self._headers[NODE_HEADER] = node_id
        self._exchanges: Exchanges | None = None
        self._base: Route | None = None
        self._sender = sender
        oauth = definition.credential.oauth
        if oauth is not None and sender is None:
            raise ValueError("a source with OAuth needs a guarded client for its token endpoint")
        self._tokens = None if oauth is None or sender is None else AccountTokens(oauth, sender, clock=clock)
        self._held = 0
        self._holds_at = 0.0

    async def poll(self, external_id: str, api_key: str, resource: str = "", ways: Ways = PLAIN) -> PollResult:
        """Polls one job of a resource. Raises only CancelledError."""
        definition = self._definition
        of_job, url, is_own = definition.resource_of(resource), "", True
        if ways.address is None:
            url = definition.job_url(self._base_url, external_id, resource)
        elif (found := definition.address(self._base_url, ways.address)) is not None:
            url, is_own = found
        else:
            why = "the job's address is on no origin that the definition lists"
            return replace(self._unsent("malformed", why), elsewhere=True)
        read = self._reader_of(external_id, resource)
        headers = _NO_HEADERS if ways.etag is None else {"If-None-Match": ways.etag}
        if not is_own:
            result = await self._get_elsewhere(url, api_key, read, of_job)
        elif not ways.hold_seconds or of_job.wait is None or not self._may_hold():
            result = await self._get(url, api_key, read, of_job, headers=headers)
        else:
            url, more = of_job.wait.asked(url, ways.hold_seconds)
            headers, seconds = {**headers, **more}, ways.hold_seconds
            self._held += 1
            try:
                result = await self._get(url, api_key, read, of_job, headers=headers, hold_seconds=seconds)
            finally:
                self._held -= 1
            if result.status_code in _CUT:
                self._holds_at = result.received_at + HOLDS_AGAIN_SECONDS
            result = replace(result, held=True)
        if result.status_code == NOT_MODIFIED and ways.etag is not None and ways.known is not None:
            seen = observe_item(
                definition,
                ways.known,
                now=result.received_at,
                resource=resource,
                request_id=result.request_id,
                external_id=external_id,
            )
            if isinstance(seen, Observation):  # the job is as it was
                return replace(result, kind="observed", observation=seen, error=None, detail="")
        return result if not of_job.follows else self._moved(result, of_job, url)

    async def token_of(self, api_key: str) -> str | None:
        """The access token that stands for a key; None: the key itself is sent. Raises NoAccessToken."""
        return None if self._tokens is None else await self._tokens.of(api_key)

    def token_refused(self, api_key: str, token: str, *, is_new: bool = False) -> None:
        """The upstream answered 401 to a token of `token_of`. `is_new`: the token before was refused too."""
        if self._tokens is not None:
            (self._tokens.refuse(api_key) if is_new else self._tokens.drop(api_key, token))

    def address(self, text: object) -> str | None:
        """The URL of an address at which a job is to be read; None if it is on no origin that the definition lists."""
        found = self._definition.address(self._base_url, text)
        return None if found is None else found[0]

    def may_register(self, external_id: str, address: str | None, resource: str) -> bool:
        """True if a registration may name this job of a resource: at an address, or by its id."""
        url = self.address(address) if address else self._definition.job_url(self._base_url, external_id, resource)
        return url is not None and self._definition.may_name(self._base_url, url, resource)

    def _moved(self, result: PollResult, resource: Resource, url: str) -> PollResult:
        """The result of a read of this URL, with the other address that its headers name for the next one."""
        seen, names = result.observation, resource.follows
        if seen is None or seen.terminal:
            return result
        if not resource.needs_status(seen.upstream):
            names = names[:-1] or names  # where the job tells its state, the last one of several names its result
        given = next((text for name in names if (text := result.headers.get(name))), None)
        found = self.address(given)
        return result if found in (None, url) else replace(result, moved_to=found)

    def _unsent(self, kind: PollKind, detail: str) -> PollResult:
        now = self._clock()
        return PollResult(kind=kind, sent_at=now, received_at=now, duration_ms=0.0, detail=detail)

    def _may_hold(self) -> bool:
        return self._held < MAX_HELD and not 0 < self._holds_at - self._clock() <= HOLDS_AGAIN_SECONDS

    async def probe(self, api_key: str) -> PollResult:
        """Makes the source's cheapest call: `observed` if the key works. Raises only CancelledError.

        `malformed`, and nothing is asked, if the definition has none.
        """
        if self._definition.probe is None:
            return self._unsent("malformed", "the definition has no `probe`")
        url = self._definition.root(self._base_url) + self._definition.probe
        return await self._get(url, api_key, lambda body, *_: read_answer(self._definition, body))

    async def list_accounts(self, api_key: str) -> PollResult:
        """Lists the connect accounts, of a source that has them. Raises only CancelledError."""
        listed = self._definition.connect_accounts
        assert listed is not None
        url = self._definition.root(self._base_url) + listed.path
        return await self._get(url, api_key, lambda body, *_: read_listing(self._definition, body))

    async def read_credits(self, api_key: str) -> PollResult:
        """Reads the account's credits, of a source that has them. Raises only CancelledError."""
        credits = self._definition.credits
        assert credits is not None
        url = self._definition.root(self._base_url) + credits.path
        return await self._get(url, api_key, lambda body, *_: read_credits(self._definition, body))

    async def result(self, address: object, api_key: str) -> PollResult:
        """Reads the result of a job at an address that its item gives. Raises only CancelledError.

        The key goes to the base URL and the listed origins only; another address is `forbidden`, and asked nothing.
        """
        found = self._definition.address(self._base_url, address)
        if found is None:
            return self._unsent("forbidden", "the address is on no origin that the definition lists")
        url, is_own = found
        return await (self._get if is_own else self._get_elsewhere)(url, api_key, _read_result)

    async def _get_elsewhere(
        self, url: str, api_key: str, read: _Reader, resource: Resource | None = None
    ) -> PollResult:
        """Reads from another origin, through the egress guard: the definition trusts its name, and the guard judges the
        address behind it. What it says of limits, and a refusal of the key, are not those of the account."""
        if self._sender is None or not _KEY.fullmatch(api_key):
            return replace(self._unsent("forbidden", "no request goes to other origins here"), elsewhere=True)
        sent_at, sender = self._clock(), self._sender
        key = api_key

        async def ask(sent: str) -> Response:
            nonlocal key
            key = sent
            headers = {**self._headers, **self._definition.send_headers, **self._definition.auth_headers(key)}
            request = OutboundRequest(
                url=self._definition.with_key(url, key),
                method="GET",
                headers=tuple(headers.items()),
                max_answer_bytes=MAX_BODY_BYTES + 1,
            )
            return await sender.send(request, timeout_seconds=self._timeout_seconds)

        try:
            response = await self._with_token(api_key, ask)
        except NoAccessToken as error:
            return self._unsent("unavailable", str(error))  # of the account, whatever the token is for
        duration_ms = round(response.duration_ms, 1)
        times: dict[str, Any] = {"sent_at": sent_at, "received_at": self._clock(), "duration_ms": duration_ms}
        times["elsewhere"] = True
        if response.status_code is None or response.detail is not None:
            kind: PollKind = "forbidden" if response.error == "refused" else "unavailable"
            detail = _fit(
                _redacted(f"{response.error or 'no whole answer'}: {response.detail}", self._definition.secrets_of(key))
            )
            return PollResult(kind=kind, detail=detail[:_MAX_DETAIL_CHARACTERS], **times)
        limits = self._definition.headers.limits
        given = {name: value for name, value in response.headers if name.lower() not in limits}
        answer = _Answer(
            status_code=response.status_code,
            headers=_bounded_headers(
                given, self._definition.secrets_of(key), () if resource is None else resource.follows
            ),
            body=response.excerpt,
            complete=len(response.excerpt) <= MAX_BODY_BYTES,
            secrets=self._definition.secrets_of(key),
        )
        result = self._judge(answer, read, times, resource)
        return replace(result, kind="forbidden") if result.kind == "unauthorized" else result

    def read(
        self,
        external_id: str,
        resource: str = "",
        *,
        status_code: int,
        headers: Mapping[str, str],
        body: bytes | None,
        api_key: str,
        sent_at: float,
    ) -> PollResult:
        """The answer to a caller's job read as a PollResult. `body` is None if it could not be decoded."""
        now = self._clock()
        answer = _Answer(
            status_code=status_code,
            headers=_bounded_headers(headers, self._definition.secrets_of(api_key)),
            body=body or b"",
            complete=body is not None,
            secrets=self._definition.secrets_of(api_key),
        )
        times = {"sent_at": sent_at, "received_at": now, "duration_ms": round((now - sent_at) * 1000, 1)}
        reader = self._reader_of(external_id, resource)
        return self._judge(answer, reader, times, self._definition.resource_of(resource))

    def _reader_of(self, external_id: str, resource: str) -> _Reader:
        job = {"external_id": external_id, "resource": resource}
        return lambda body, status_code, now, request_id: observe(
            self._definition, body, now=now, request_id_header=request_id, status_code=status_code, **job
        )

    async def close(self) -> None:
        """Closes all connections."""
        exchanges, self._exchanges = self._exchanges, None
        if exchanges is not None:
            await exchanges.close()

    async def _get(
        self,
        url: str,
        api_key: str,
        read: _Reader,
        resource: Resource | None = None,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        hold_seconds: float = 0.0,
    ) -> PollResult:
        """`resource`: whose job it reads; None: it reads none."""
        sent_at, began, seconds = self._clock(), time.perf_counter(), self._timeout_seconds + hold_seconds
        kind: PollKind = "unavailable"
        answer, detail = None, ""
        if not _KEY.fullmatch(api_key):
            kind, detail = "unauthorized", "the API key is empty or not valid in a header"
        else:
            try:
                with self._open().within(seconds):
                    answer = await self._fetch(url, api_key, resource, headers)
            except TimeoutError:
                detail = f"no complete answer within {seconds:g} s"
            except NoAccessToken as error:
                kind, detail = "unauthorized" if error.is_refused else "unavailable", str(error)
            except aiohttp.ClientPayloadError as error:
                detail = _line("the answer broke off", error, self._definition.secrets_of(api_key))
            except aiohttp.ClientConnectorError as error:
                detail = _unreachable(error)
            except Exception as error:  # whatever goes wrong, the job is polled again
                detail = _line("no answer", error, self._definition.secrets_of(api_key))
        duration_ms = round((time.perf_counter() - began) * 1000, 1)
        times: dict[str, Any] = {"sent_at": sent_at, "received_at": self._clock(), "duration_ms": duration_ms}
        if answer is None:
            return PollResult(kind=kind, detail=detail, **times)
        return self._judge(answer, read, times, resource)

    async def _fetch(self, url: str, api_key: str, resource: Resource | None, more: Mapping[str, str]) -> _Answer:
        return await self._with_token(api_key, lambda key: self._ask(url, key, resource, more))

    async def _with_token(self, api_key: str, ask: Callable[[str], Awaitable[_Got]]) -> _Got:
        """What `ask` gets with the key, or with the token that stands for it: after a 401 once more with a new one."""
        if self._tokens is None:
            return await ask(api_key)
        token = await self._tokens.of(api_key)
        answer = await ask(token)
        if answer.status_code == 401:
            self._tokens.drop(api_key, token)
            renewed = await self._tokens.of(api_key)
            if renewed != token:
                answer = await ask(renewed)
            if answer.status_code == 401:
                self._tokens.refuse(api_key)
        return answer

    async def _ask(self, url: str, key: str, resource: Resource | None, more: Mapping[str, str]) -> _Answer:
        headers = {**self._headers, **self._definition.send_headers, **more, **self._definition.auth_headers(key)}
        method = "GET" if resource is None else resource.method
        url = self._definition.with_key(url, key)
        answer = await self._open().begin(self._route(url), method, headers.items(), b"")
        try:
            body = bytearray()
            while len(body) <= MAX_BODY_BYTES and (chunk := await answer.content.readany()):
                body += chunk
            return _Answer(
                status_code=answer.status,
                headers=_bounded_headers(
                    answer.headers, self._definition.secrets_of(key), () if resource is None else resource.follows
                ),
                body=bytes(body[:MAX_BODY_BYTES]),
                complete=len(body) <= MAX_BODY_BYTES,
                secrets=self._definition.secrets_of(key),
            )
        finally:
            answer.close()

    def _route(self, url: str) -> Route:
        if self._base is None:
            self._base = Route.to(URL(self._base_url))
        return self._base.at("/" + url.partition("://")[2].partition("/")[2])

    def _open(self) -> Exchanges:
        if self._exchanges is None:
            self._exchanges = Exchanges(
                aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=30),
                connect_timeout_seconds=self._timeout_seconds,
                decompress=True,  # none is requested, but some upstreams compress anyway
            )
        return self._exchanges

    def _judge(
        self,
        answer: _Answer,
        read: _Reader,
        times: Mapping[str, Any],
        resource: Resource | None = None,
    ) -> PollResult:
        header_request_id = answer.headers.get(self._definition.headers.request_id or "")

        def result(kind: PollKind, **fields: Any) -> PollResult:
            fields.setdefault("request_id", header_request_id)
            return PollResult(kind=kind, status_code=answer.status_code, headers=answer.headers, **times, **fields)

        if not answer.complete:
            return result("oversized", detail=f"the answer is larger than {MAX_BODY_BYTES} bytes")
        shows_a_job, refused = resource is not None and answer.status_code in resource.statuses, ""
        if 200 <= answer.status_code < 300 or shows_a_job:
            body = without_key(answer.body, answer.secrets)
            seen = read(body, answer.status_code, times["received_at"], header_request_id)
            if isinstance(seen, Observation):
                return result("observed", observation=seen, request_id=seen.request_id)
            if isinstance(seen, Listing):
                return result("observed", listing=seen)
            if isinstance(seen, Document):
                return result("observed", document=seen.value)
            if not isinstance(seen, Malformed):
                return result("observed")
            if seen.reason != "refused":
                media_type = answer.headers.get("content-type", "no content type")
                return result("malformed", detail=f"{answer.status_code} {media_type}: {seen}")
            refused = f", where {seen.detail}"
        body = without_key(answer.body, answer.secrets)
        if len(body) <= MAX_SEARCHED_BYTES:
            body = _redacted(body.decode(errors="replace"), answer.secrets).encode()
        error = read_error(self._definition, body)
        return result(
            self._kind_of_error(answer, error.code),
            error=error if error != UpstreamError() else None,
            request_id=error.request_id or header_request_id,
            detail=" ".join(filter(None, (f"answered {answer.status_code}{refused}", error.code, error.message)))[
                :_MAX_DETAIL_CHARACTERS
            ],
        )

    def _kind_of_error(self, answer: _Answer, code: str) -> PollKind:
        status_code, codes, names = answer.status_code, self._definition.error.meanings, self._definition.headers
        none_left = answer.headers.get(names.remaining or "") == "0"
        by_code: tuple[tuple[frozenset[str], PollKind], ...] = (
            (codes.key_trouble, "unauthorized"),
            (codes.rate_limited, "rate_limited"),
            (codes.forbidden, "forbidden"),
            (codes.not_found, "not_found"),
            (codes.unavailable, "unavailable"),
        )
        if status_code not in (401, 429) and status_code < 500 and not 300 <= status_code < 400:
            for known, kind in by_code:
                if code in known:
                    return kind
        if status_code == 403 and (none_left or names.retry_after in answer.headers):
            return "rate_limited"  # some say it with this status
        if status_code in _KIND_BY_STATUS:
            return _KIND_BY_STATUS[status_code]
        return "unavailable" if status_code >= 500 or 300 <= status_code < 400 else "malformed"


def _read_result(body: bytes, *_: object) -> Document | Malformed:
    return read_result(body)


def _bounded_headers(
    headers: Mapping[str, str], secrets: Sequence[str], addresses: Collection[str] = ()
) -> Mapping[str, str]:
    """`addresses`: the names of those that hold one; a longer one is cut too, but never to one that is valid."""
    kept: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        if name != "set-cookie" and name not in kept and len(kept) < _MAX_HEADERS:
            kept[name] = value
    every = " ".join((*kept, *kept.values()))  # one look at all of them: few have anything to change
    if _fit(_redacted(every, secrets)) != every:
        kept = {_fit(name): _fit(_redacted(value, secrets)) for name, value in kept.items()}
    longest = _MAX_HEADER_CHARACTERS
    found = {name[:longest]: value[:longest] for name, value in kept.items()}
    if addresses:
        found |= {name: value[: MAX_ADDRESS_CHARACTERS + 1] for name, value in kept.items() if name in addresses}
    return MappingProxyType(found)


def _unreachable(error: aiohttp.ClientConnectorError) -> str:
    """The reason why no connection was made, as a sentence."""
    cause = error.os_error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host name {error.host} does not resolve"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", None)
        return f"its TLS certificate does not verify{f': {why}' if why else ''}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"the TLS handshake failed: {getattr(cause, 'reason', None) or type(cause).__name__}"
    if isinstance(cause, ConnectionRefusedError):
        return f"{error.host} refuses connections at port {error.port}"
    return f"no connection: {cause.strerror or type(cause).__name__}"


def _line(what: str, error: Exception, secrets: Sequence[str]) -> str:
    text = f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"
    return _fit(_redacted(text, secrets)[:_MAX_DETAIL_CHARACTERS])


def _fit(text: str) -> str:
    return text if text.isascii() and text.isprintable() else _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


def without_key(body: bytes, secrets: Iterable[str]) -> bytes:
    """A body without the key, which some upstreams repeat in the addresses of a job: its item goes into events."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARACTERS and not secret.isdigit():  # digits may be a number
            for form in _forms(secret):
                body = body.replace(form, b"[redacted]")
    return body


@lru_cache(maxsize=1000)
def _forms(secret: str) -> tuple[bytes, ...]:
    """A key as it stands in JSON, and in the query of a URL there."""
    forms = {secret, secret.replace("/", "\\/"), quote(secret, safe=""), quote(secret, safe="/")}
    return tuple(form.encode() for form in sorted(forms, key=len, reverse=True))


def _redacted(text: str, secrets: Sequence[str]) -> str:
    """The text without the key, in case the upstream echoes it. Apply before truncating."""
    return without(text, tuple(one for one in secrets if len(one) >= MIN_SECRET_CHARACTERS))
