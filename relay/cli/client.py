"""A client of the relay's HTTP API for the commands.

RELAY_URL is the relay's address and RELAY_TOKEN the API token. Without RELAY_TOKEN, the token
that a relay's first start stored on this machine is sent to a relay on this machine only.
"""

import http.client
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.errors import RelayError, UsageError

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 30.0
MAX_PAGE = 500
CHECK_URL = f"Set RELAY_URL to the address of a relay, such as {DEFAULT_URL}"
PATIENCE_SECONDS = 60.0
"""A relay that is waited for may be away this long."""


class ApiError(RelayError):
    """The relay refused a request. `problem` is the problem's code, `retry_after` the Retry-After header, `errors` are
    the pointers and details of its mistakes. What is refused with 4xx a user can fix, unless it only came too early."""

    code = "api"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        problem: str | None = None,
        retry_after: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)
        self.exit_code = 2 if 400 <= status < 500 and status not in (408, 429) else 1
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


class Items(list[Any]):
    """The first `limit` items of a list. `more`: it has others, which the limit left out. `ids`: of events, the relay's
    ids."""

    def __init__(self, found: Sequence[Any], limit: int, *, more: bool = False, ids: Sequence[str] = ()) -> None:
        super().__init__(found[:limit])
        self.ids = tuple(ids)
        self.more = more or len(found) > limit


class Api:
    """The HTTP API of one relay. Opens a connection for each request."""

    def __init__(self, url: str, token: str | None, stored: Callable[[], str | None] = lambda: None) -> None:
        """Raises UsageError if `url` is not an http URL, or the token has invalid characters.

        `stored`: reads the token to send without a `token`, again after a 401: a relay's next start may have made it.
        """
        self.url = url.rstrip("/")
        self._parts = _parts(self.url)
        self._headers = {"Accept": "application/json", "User-Agent": "revor-relay-cli"}
        self._stored = (lambda: None) if token else stored
        self._send_token(token or stored())

    def _send_token(self, token: str | None) -> bool:
        """Sends this token from now on. Returns False if there is none, or it was sent already."""
        if not token:
            return False
        if not token.isascii() or not token.isprintable():
            raise UsageError("RELAY_TOKEN contains invalid characters. Copy it again")
        before, self._headers["Authorization"] = self._headers.get("Authorization"), f"Bearer {token}"
        return before != self._headers["Authorization"]

    @property
    def host(self) -> str:
        """The host of the relay."""
        return self._parts.hostname or ""

    def get(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The document at `path`. Raises and takes options like `send`, as do `post` and `delete`."""
        return self.send("GET", path, query=query, **options).document

    def get_if_there(self, path: str) -> Any:
        """The document at `path`, or None if it does not exist."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404 and error.problem is not None:
                return None
            raise

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """The document in the answer to a POST."""
        return self.send("POST", path, body={} if body is None else body, **options).document

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The document in the answer to a DELETE."""
        return self.send("DELETE", path, query=query).document

    def send(self, method: str, path: str, *, accepted: int = 0, **options: Any) -> Answer:
        """Sends one request; takes the options of `open`. The error status `accepted` counts as success.

        Raises ApiError for an error answer, and Unreachable if there is none.
        """
        with self.open(method, path, accepted=accepted, **options) as response:
            raw = response.read()
        return Answer(status=response.status, document=_document(raw, self.url))

    def items(self, path: str, query: Mapping[str, Any], limit: int) -> "Items":
        """The first `limit` items of a list, read page by page."""
        found: list[Any] = []
        ids: list[str] = []
        cursor = None
        while len(found) < limit:
            page = self.get(path, {**query, "limit": min(limit - len(found), MAX_PAGE), "cursor": cursor})
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise not_a_relay(self.url)
            found += page["items"]
            ids += page.get("ids", ())
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return Items(found, limit, more=cursor is not None, ids=ids)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        accepted: int = 0,
    ) -> Iterator[http.client.HTTPResponse]:
        """A response to read from while inside. `timeout`: seconds. Raises like `send`."""
        if body is not None:
            headers = {"Content-Type": "application/json", **(headers or {})}
        connection = connection_to(self._parts, timeout)
        try:
            data = None if body is None else dumps(body)
            while True:
                sent = {**self._headers, **(headers or {})}
                connection.request(method, self._target(path, query), body=data, headers=sent)
                response = connection.getresponse()
                if response.status != 401 or not self._send_token(self._stored()):
                    break
                response.read()
            if response.status >= 300 and response.status != accepted:
                raise _refusal(self.url, response.status, response.read(), response.headers.get("Retry-After"))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _target(self, path: str, query: Mapping[str, Any] | None) -> str:
        present = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        return self._parts.path + path + (f"?{urlencode(present)}" if present else "")

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = "timed out" if isinstance(error, TimeoutError) else reason_of(error)
        return Unreachable(f"no relay answers at {self.url} ({reason}). Start one with `relay serve`, or set RELAY_URL")


def api(default_url: str = DEFAULT_URL) -> Api:
    """The client for RELAY_URL and RELAY_TOKEN."""
    url = os.environ.get("RELAY_URL") or default_url
    token = os.environ.get("RELAY_TOKEN", "").rstrip("\r\n")  # a key of a Kubernetes Secret often ends with a newline
    return Api(url, token, lambda: _local_token(url))


def _local_token(url: str) -> str | None:
    """The stored token of a relay on this machine, or None for any other URL."""
    from relay.core.access.netguard import is_loopback_host

    if not is_loopback_host(_parts(url).hostname or ""):
        return None
    from relay.node.local_token import token_here

    return token_here(os.environ)


def ended(
    read: Callable[[], Any],
    has_ended: Callable[[Any], bool],
    show: Callable[[Any], None],
    *,
    pause_seconds: float,
    again: str,
) -> Any:
    """Reads something once it has ended, also across a restart of the relay. `again`: the command that continues."""
    asked_at = answered_at = time.monotonic()
    found = read()
    while True:
        show(found)
        if has_ended(found):
            return found
        time.sleep(max(0.0, pause_seconds - (time.monotonic() - asked_at)))
        asked_at = time.monotonic()
        try:
            found, answered_at = read(), time.monotonic()
        except Unreachable as error:
            if time.monotonic() - answered_at > PATIENCE_SECONDS:
                raise RelayError(f"{error}. Continue with `{again}`") from None


def path_of(collection: str, id: str, action: str = "") -> str:
    """The path of one resource: `/v1/jobs/ID`, or of an action on it."""
    return f"/v1/{collection}/{quote(id, safe='')}" + (f"/{action}" if action else "")


def reason_of(error: Exception) -> str:
    """The cause of a failed connection, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def not_a_relay(url: str) -> RelayError:
    """The error for an answer that no relay gives."""
    return RelayError(f"the server at {url} is not a relay. {CHECK_URL}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def connection_to(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """A connection to the host of a URL, which is opened by its first request. `timeout`: seconds."""
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return made(parts.hostname or "", parts.port, timeout=timeout)


def http_url(url: str) -> SplitResult | None:
    """The parts of an http or https URL; None for any other text."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _parts(url: str) -> SplitResult:
    parts = http_url(url)
    if parts is None or parts.query or parts.fragment:
        raise UsageError(f"RELAY_URL is not an http URL. Write it like {DEFAULT_URL}")
    return parts


def _document(raw: bytes, url: str) -> Any:
    if not raw:
        return None
    try:
        return loads(raw)
    except JSONDecodeError:
        raise not_a_relay(url) from None


def _refusal(url: str, status: int, raw: bytes, retry_after: str | None = None) -> ApiError:
    try:
        problem = loads(raw)
    except JSONDecodeError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        text = f"the server at {url} answered {status}, but not as a relay does. {CHECK_URL}"
        return ApiError(text, status=status, retry_after=retry_after)
    listed = problem.get("errors")
    errors = [error for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []
    details = [_field_error(error) for error in errors]
    text = "; ".join(filter(None, details)) or str(
        problem.get("detail") or problem.get("title") or f"answered {status}"
    )
    text = in_cli_words(text)
    if status == 401:
        # Before the detail: the log redaction hides whatever follows `Authorization:`.
        text = f"set RELAY_TOKEN to a token of the relay: {text}"
    return ApiError(
        text,
        status=status,
        problem=problem["code"],
        retry_after=retry_after,
        errors=[(str(error.get("pointer") or ""), in_cli_words(str(error.get("detail") or ""))) for error in errors],
    )


def _field_error(error: Mapping[str, Any]) -> str:
    """A field's error followed by its place. `secret: …` in front would be redacted as the value of a secret."""
    detail, pointer = str(error.get("detail") or ""), str(error.get("pointer") or "")
    place = pointer.strip("/").replace("/", ".")
    return f"{detail} (in {place})" if detail and place else detail


_QUERY = re.compile(r"\?(?=\w+=)[^\s,:;]+")
_COMMANDS = {
    "?check=false": "`--no-check`",
    "GET /v1/signing-secret": "`relay signing-secret`",
    "POST …/rotate-secret": "`relay subscriptions rotate-secret`",
    "GET /v1/sources": "`relay sources list`",
    "GET /v1/intents": "`relay intents list`",
    "GET /v1/deliveries?state=uncertain": "`relay deliveries list --state uncertain`",
}


def in_cli_words(text: str) -> str:
    """An API message in terms of the command line: `?account=acme` becomes `--account acme`."""
    for request, command in _COMMANDS.items():
        text = text.replace(request, command)
    return _QUERY.sub(lambda query: _options(query[0]), text)


def _options(query: str) -> str:
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in parse_qsl(query[1:]))
