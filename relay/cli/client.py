"""The relay's HTTP API from a terminal: RELAY_URL says where it is, RELAY_TOKEN who we are.

Without RELAY_TOKEN a relay on this machine, and no other, gets the token that its start has kept in a file here.
"""

import difflib
import http.client
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from relay.cli.output import note
from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.errors import RelayError, UsageError

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 30.0
STREAM_SILENCE_SECONDS = 90.0
MAX_PAGE = 500
MAX_LINE_BYTES = 4 << 20
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 30.0
JOB_EVENTS = (
    *("queued", "scheduled", "running", "succeeded", "failed", "cancelled"),
    *("retrying", "overdue", "not_found", "status_unknown"),
)


class ApiError(RelayError):
    """The relay refused a request; `problem` is its own code for why, `retry_after` the header as it came."""

    code = "api"

    def __init__(self, detail: str, *, status: int, problem: str | None = None, retry_after: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem
        self.retry_after = retry_after


class Unreachable(RelayError):
    """No relay answers at RELAY_URL."""

    code = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful answer."""

    status: int
    document: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One server-sent event; `data` are the very bytes of the CloudEvent."""

    id: str
    data: bytes


class Api:
    """A small client of the HTTP API: one connection a request, which a terminal does not notice."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises UsageError when `url` is no http URL."""
        self.url = url.rstrip("/")
        self._parts = _parts(self.url)
        self._headers = {"Accept": "application/json", "User-Agent": "revor-relay-cli"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise UsageError("RELAY_TOKEN has characters that no token has: copy it again")
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The document at `path`."""
        return self.send("GET", path, query=query, **options).document

    def get_if_there(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The document at `path`, None where there is none."""
        try:
            return self.get(path, query)
        except ApiError as error:
            if error.status == 404 and error.problem is not None:
                return None
            raise

    def post(self, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """The answer's document."""
        return self.send("POST", path, query=query, body={} if body is None else body).document

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        accepted: int = 0,
    ) -> Answer:
        """One request. Raises ApiError for an answer that is an error, unless it has the status `accepted`, and
        Unreachable when there is none."""
        sent = {**self._headers, **(headers or {})}
        data = None
        if body is not None:
            data = dumps(body)
            sent["Content-Type"] = "application/json"
        connection = self._connect(timeout)
        try:
            connection.request(method, self._target(path, query), body=data, headers=sent)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 300 and response.status != accepted:
            raise _refusal(response.status, raw, response.headers.get("Retry-After"))
        return Answer(status=response.status, document=_document(raw, self.url))

    def items(self, path: str, query: Mapping[str, Any], limit: int) -> list[Any]:
        """The first `limit` items of a list, page by page."""
        found: list[Any] = []
        cursor = None
        while len(found) < limit:
            size = min(limit - len(found), MAX_PAGE)
            page = self.get(path, {**query, "limit": size, "cursor": cursor})
            found += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return found[:limit]

    def stream(self, last_event_id: str | None, connected: Callable[[], None]) -> Iterator[ServerEvent]:
        """The events from now on, or after `last_event_id`, until the connection ends. Raises like `send`.

        `connected` is called when the relay has begun to answer.
        """
        headers = {**self._headers, "Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        connection = self._connect(STREAM_SILENCE_SECONDS)
        try:
            connection.request("GET", self._target("/v1/events/stream", None), headers=headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise _refusal(response.status, response.read())
            connected()
            yield from _server_events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _target(self, path: str, query: Mapping[str, Any] | None) -> str:
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        return self._parts.path + path + (f"?{urlencode(given)}" if given else "")

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, TimeoutError):
            reason = "does not answer in time"
        else:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(f"no relay at {self.url} ({reason}): start one with `relay serve`, or set RELAY_URL")


class Follower:
    """The stream of events for ever: it connects again, and goes on after the last event it gave."""

    def __init__(self, api: Api, ready: Callable[[], None] = lambda: None) -> None:
        """`ready` is called once, when the first connection stands: no event after that is missed."""
        self._api = api
        self._ready = ready
        self._is_ready = False
        self._last_event_id: str | None = None

    def events(self) -> Iterator[ServerEvent]:
        """Raises Unreachable only while it has never been connected, ApiError when the relay refuses."""
        newest = self._api.get("/v1/events", {"limit": 1})["items"]
        if newest:  # so that what happens before the first event is not lost with a connection either
            self._last_event_id = newest[0]["id"]
        pause = FIRST_PAUSE_SECONDS
        while True:
            reason = "the stream ended"
            try:
                for event in self._api.stream(self._last_event_id, self._connected):
                    pause = FIRST_PAUSE_SECONDS
                    self._last_event_id = event.id or self._last_event_id
                    yield event
            except Unreachable as error:
                if not self._is_ready:
                    raise
                reason = str(error)
            except ApiError as error:
                if error.status < 500 and error.status != 429:
                    raise
                reason = str(error)
            note(f"relay: {reason}; connecting again in {pause:g} s")
            time.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    def _connected(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._ready()


def api() -> Api:
    """The client that the variables describe."""
    url = os.environ.get("RELAY_URL") or DEFAULT_URL
    return Api(url, os.environ.get("RELAY_TOKEN") or _token_of_this_machine(url))


def _token_of_this_machine(url: str) -> str | None:
    """The token that a relay on this machine takes; None for a URL that leads elsewhere."""
    from relay.core.urls import is_loopback_host

    if not is_loopback_host(_parts(url).hostname or ""):
        return None
    from relay.node.local_token import token_here

    return token_here(os.environ)


def segment(text: str) -> str:
    """An id as one segment of a path."""
    return quote(text, safe="")


def full_types(text: str | None) -> list[str] | None:
    """The types of a list like `failed,relay.test`: a name without a dot is a job event's."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--types is empty: name types such as failed,overdue")
    return [name if "." in name else _job_type(name) for name in names]


def _job_type(name: str) -> str:
    if name not in JOB_EVENTS:
        near = difflib.get_close_matches(name.lower(), JOB_EVENTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(JOB_EVENTS)}"
        raise UsageError(f"{name!r:.40} is no event type: {hint}")
    return f"ai.revor.job.{name}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"RELAY_URL is no http URL: write it like {DEFAULT_URL}")
    return parts


def _document(raw: bytes, url: str) -> Any:
    if not raw:
        return None
    try:
        return loads(raw)
    except JSONDecodeError:
        raise RelayError(f"what answers at {url} is no relay: set RELAY_URL to the relay's address") from None


def _refusal(status: int, raw: bytes, retry_after: str | None = None) -> ApiError:
    try:
        problem = loads(raw)
    except JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        text = f"answered {status}, which is no answer of a relay: check RELAY_URL"
        return ApiError(text, status=status, retry_after=retry_after)
    errors = problem.get("errors")
    said = [_field_error(error) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    text = "; ".join(filter(None, said)) or str(problem.get("detail") or problem.get("title") or f"answered {status}")
    text = in_cli_words(text)
    if status == 401:
        # in front: what follows `Authorization:` is redacted wherever it is printed
        text = f"set RELAY_TOKEN to a token of the relay: {text}"
    return ApiError(text, status=status, problem=_word(problem.get("code")), retry_after=retry_after)


def _field_error(error: Mapping[str, Any]) -> str:
    """A field's mistake, with its place behind it: `secret: …` in front would be redacted as a secret's value."""
    detail, pointer = str(error.get("detail") or ""), str(error.get("pointer") or "")
    place = pointer.strip("/").replace("/", ".")
    return f"{detail} (in {place})" if detail and place else detail


_QUERY = re.compile(r"\?(?=\w+=)[^\s,:;]+")
_COMMANDS = {
    "GET /v1/signing-secret": "`relay signing-secret`",
    "POST …/rotate-secret": "`relay subscriptions rotate-secret`",
    "GET /v1/sources": "`relay sources`",
    "GET /v1/intents": "`relay intents list`",
}


def in_cli_words(text: str) -> str:
    """A message of the API in the words of the command line: `?account=acme` becomes `--account acme`."""
    for request, command in _COMMANDS.items():
        text = text.replace(request, command)
    return _QUERY.sub(lambda query: _options(query[0]), text)


def _options(query: str) -> str:
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in parse_qsl(query[1:]))


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _server_events(response: http.client.HTTPResponse) -> Iterator[ServerEvent]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as a relay sends it."""
    event_id, data = "", list[bytes]()
    while line := response.readline(MAX_LINE_BYTES):
        line = line.rstrip(b"\r\n")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                yield ServerEvent(id=event_id, data=b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value)
        elif name == b"id":
            event_id = value.decode(errors="replace")
