"""The requests and decisions of `Relay` and `AsyncRelay`. Reads and writes nothing itself.

A verb is a generator: it yields a `Send` or a `Pause`, gets an `Answer` or a `Failure` back, and returns a value. What
carries them out is `client.py`. A create gets its `Idempotency-Key` once, before the first attempt.
"""

import base64
import contextlib
import hmac
import json
import logging
import os
import random
import re
import secrets
import time
import uuid
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, ValidationError

from revor_relay_client import models
from revor_relay_client._inbox import Inbox, is_loopback
from revor_relay_client._version import __version__
from revor_relay_client.errors import EventsRejected, RelayError, UnfitAnswer, Unreachable, WaitTimeout
from revor_relay_client.verification import Event

DEFAULT_URL = "http://127.0.0.1:8080"
MAX_ANSWER_BYTES = 32 << 20
"""A pull has at most 8 MiB of events."""
MAX_EVENT_BYTES = 4 << 20
MAX_TEXT = 2_000
WAIT_SECONDS = 50
"""Duration of one request of a wait. Many proxies end a request after a minute."""
FIRST_WAIT_SECONDS = 5
"""Duration of the first request of a wait: a failing poll is reported soon."""
PULL_SECONDS = 20.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 10.0
MAX_TRIES = 20
SILENCE_SECONDS = 60.0
"""Maximum silence of a stream. The relay sends a heartbeat every 15 s."""
WELL_SECONDS = 10.0
"""A stream that lasted this long was healthy before it was cut."""
BEFORE_ALL = f"evt_{'0' * 26}"
"""An event id that no event has: a stream after it begins with the oldest event."""
ENDS = ("succeeded", "failed", "cancelled", "not_found")
NOWHERE = "https://inbox.invalid/"
"""A sink that never agrees to the handshake: its deliveries wait, and can be read."""

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")
log = logging.getLogger("revor_relay_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A request. `seconds`: the time limit of its answer."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no complete answer. `is_unconnected`: the request was not sent."""

    why: str
    is_unconnected: bool = False


Steps = Generator[Send | Pause, Answer | Failure | None, Value]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription. `secret` verifies its requests. `action`: `add`, `change` or `unchanged`."""

    id: str
    secret: str | None = field(repr=False)
    action: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed request as a webhook gets it: the raw body, the headers, and the secret that verifies them."""

    body: bytes
    headers: Mapping[str, str]
    secret: str = field(repr=False)


class Body:
    """The bytes of an answer, bounded in size and time."""

    def __init__(self, seconds: float) -> None:
        self._ends, self._seconds, self._chunks, self._size = time.monotonic() + seconds, seconds, list[bytes](), 0

    def add(self, chunk: bytes) -> None:
        """Adds a chunk. Raises UnfitAnswer."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise unfit(f"the answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > self._ends:
            raise unfit(f"the answer did not end within {self._seconds:g} s")

    @property
    def bytes(self) -> bytes:
        return b"".join(self._chunks)


class Patience:
    """Limits the retries of one request, in time and number."""

    def __init__(self, seconds: float) -> None:
        self._ends, self._tries = time.monotonic() + seconds, 0

    def pause(self, outcome: Answer | Failure, error: RelayError) -> float | None:
        """Seconds until the next attempt; None: there is none. A `Retry-After` beyond the time limit ends the
        retries. A first attempt without an answer or with a 5xx is logged: the log says why a program waits."""
        self._tries += 1
        if self._tries >= MAX_TRIES or not _may_repeat(outcome, "" if isinstance(error, UnfitAnswer) else error.code):
            return None
        pause: float = min(FIRST_PAUSE_SECONDS * 2 ** (self._tries - 1), MAX_PAUSE_SECONDS) * random.uniform(0.5, 1)
        asked = _retry_after(outcome.headers) if isinstance(outcome, Answer) else 0.0
        pause = max(pause, asked)
        left = self._ends - time.monotonic()
        if pause > left:
            return None
        if self._tries == 1 and (isinstance(outcome, Failure) or outcome.status >= 500):
            log.warning("%s. Trying again for up to %.0f s", error, left)
        return pause


def _may_repeat(outcome: Answer | Failure, code: str) -> bool:
    """True if the same request can be sent again, with its key. A 500 may have been carried out: its key is not kept. A
    502 with a code is the relay's, about a sink that does not answer."""
    if isinstance(outcome, Failure):
        return True
    if outcome.status == 409:
        return code == "idempotency_in_flight"
    return outcome.status in (408, 425, 429, 503, 504) or (outcome.status == 502 and not code)


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "").strip()[:40]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


class Core:
    """The address, the token and the time limits of a client, and its requests."""

    def __init__(
        self, url: str | None, token: str | None, *, timeout_seconds: float = 30.0, retry_seconds: float = 60.0
    ) -> None:
        """Raises ValueError if the URL is not one of http, or the token has invalid characters."""
        given = url or os.environ.get("RELAY_URL", "").strip()
        self.url = (given or DEFAULT_URL).rstrip("/")
        self.token = token or os.environ.get("RELAY_TOKEN", "").strip()  # a file often ends with a newline
        self._is_guess = not given
        self.timeout_seconds, self.retry_seconds = timeout_seconds, retry_seconds
        parts = urlsplit(self.url)
        is_http = parts.scheme in ("http", "https") and not re.search(r"\s", self.url)
        if not is_http or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"RELAY_URL is not an http URL. Write it like {DEFAULT_URL}")
        if not re.fullmatch(r"[!-~]*", self.token):
            raise ValueError("RELAY_TOKEN contains invalid characters. Copy it again")
        self.is_local = is_loopback(parts.hostname)

    # --- one request

    def send(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        creates: bool = False,
    ) -> Send:
        """A request. `creates`: with a new Idempotency-Key."""
        # Nothing is decompressed: a small answer stays small.
        known = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"revor-relay/{__version__}",
        }
        if self.token:
            known["Authorization"] = f"Bearer {self.token}"
        if document is not None:
            known["Content-Type"] = "application/json"
        if creates:
            known["Idempotency-Key"] = str(uuid.uuid4())
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        return Send(
            method=method,
            url=self.url + path + (f"?{urlencode(asked)}" if asked else ""),
            headers={**known, **(headers or {})},
            body=None if document is None else json.dumps(document, allow_nan=False).encode(),
            seconds=self.timeout_seconds if seconds is None else seconds,
        )

    def answered(self, send: Send, *, patience_seconds: float | None = None) -> Steps[Answer]:
        """The successful answer to a request, which is sent again while that is safe. Raises RelayError."""
        patience = Patience(self.retry_seconds if patience_seconds is None else patience_seconds)
        while True:
            outcome = yield send
            assert outcome is not None
            if isinstance(outcome, Answer) and outcome.status < 300:
                self.heard()
                return outcome
            yield self.pause(patience, outcome)

    def heard(self) -> None:
        """Notes that a server has answered at this address: refused connections are retried from now on."""
        self._is_guess = False

    def pause(self, patience: Patience, outcome: Answer | Failure) -> Pause:
        """The time until the next attempt. Raises RelayError if there is none. The default address is not tried again
        before a server has answered there: RELAY_URL was probably forgotten."""
        error = self.error_of(outcome)
        if isinstance(outcome, Answer):
            self.heard()
        is_absent = isinstance(outcome, Failure) and outcome.is_unconnected and self._is_guess
        seconds = None if is_absent else patience.pause(outcome, error)
        if seconds is None:
            raise error
        return Pause(seconds)

    def error_of(self, outcome: Answer | Failure) -> RelayError:
        """The error of a failed request."""
        if isinstance(outcome, Failure):
            fix = "Start it, or set RELAY_URL to its address" if outcome.is_unconnected else "Check RELAY_URL"
            return Unreachable(f"no relay answers at {self.url}: {outcome.why[:MAX_TEXT]}. {fix}", code="unreachable")
        id = re.sub(r"[^!-~]", "", self._without_token(outcome.headers.get("x-request-id", "")))[:100]
        try:
            problem = models.Problem.model_validate_json(self._without_token(outcome.body.decode(errors="replace")))
        except ValidationError:
            detail = f"the server at {self.url} answered {outcome.status}, but not as a relay does: check RELAY_URL"
            return UnfitAnswer(detail, code=UNFIT, status=outcome.status, request_id=id)
        detail = problem.detail[:MAX_TEXT]
        return RelayError(
            f"set RELAY_TOKEN to a token of the relay: {detail}" if outcome.status == 401 else detail,
            code=problem.code[:100],
            status=outcome.status,
            request_id=id,
            mistakes=problem.errors[:100],
        )

    def _without_token(self, text: str) -> str:
        return text.replace(self.token, "[token]") if self.token else text

    def call(self, model: type[Model], method: str, path: str, document: Any = None, **options: Any) -> Steps[Model]:
        """The document of a successful answer. Raises RelayError."""
        answer = yield from self.answered(self.send(method, path, document, **options))
        return read(model, answer)

    # --- verbs

    def track(self, job_id: str, fields: Mapping[str, Any]) -> Steps[models.RegisteredJob]:
        return self.call(models.RegisteredJob, "POST", "/v1/jobs", _given(id=job_id, **fields), creates=True)

    def wait(self, job_id: str, timeout_seconds: float | None) -> Steps[models.Job]:
        """The job once it has ended. Logs why its polls fail. Raises WaitTimeout."""
        ends = time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
        most, logged = FIRST_WAIT_SECONDS, ""
        while True:
            asked = time.monotonic()
            left = max(0.0, ends - asked)
            seconds, most = ceil(min(left, most)), WAIT_SECONDS
            headers = {"Prefer": f"wait={seconds}"}
            send = self.send("GET", _path("jobs", job_id), headers=headers, seconds=seconds + self.timeout_seconds)
            answer = yield from self.answered(send, patience_seconds=min(self.retry_seconds, max(left, 1.0)))
            job = read(models.Job, answer)
            if not job.open:
                return job
            why = f"the relay's last poll failed with {job.last_error.code[:100]!r}" if job.last_error else ""
            if time.monotonic() >= ends:
                seen = why or f"it is {job.status or 'not polled yet'}"
                raise WaitTimeout(f"job {job_id[:200]!r} has not ended: {seen}", job)
            if why and why != logged:
                log.warning("job %r has not ended: %s", job_id[:200], why)
                logged = why
            if time.monotonic() < asked + 0.5:  # a relay that ends answers early
                yield Pause(0.5)

    def publish(self, events: Sequence[Mapping[str, Any] | BaseModel]) -> Steps[models.Publishing]:
        """Raises EventsRejected if one was not taken. An event without an id gets one before the first attempt."""
        if not all(isinstance(one, BaseModel | Mapping) for one in events):
            raise TypeError("give each event as an argument of its own: publish(*events)")
        documents = [
            {"specversion": "1.0", "id": str(uuid.uuid4())}
            | dict(one.model_dump(mode="json", exclude_unset=True) if isinstance(one, BaseModel) else one)
            for one in events
        ]
        media, body = ("cloudevents", documents[0]) if len(documents) == 1 else ("cloudevents-batch", documents)
        headers = {"Content-Type": f"application/{media}+json"}
        result = yield from self.call(models.Publishing, "POST", "/v1/events", body, headers=headers, creates=True)
        if result.rejected:
            raise EventsRejected(result)
        return result

    def subscribe(self, id: str, sink: str | None, secret: str | None, fields: Mapping[str, Any]) -> Steps[Subscribed]:
        if secret is None and sink is not None and self.token:
            secret = self._secret_of(id)
        config = {**(fields.get("config") or {}), **({"secret": secret} if secret else {})}
        wanted = _given(**{**fields, "config": config or None}, id=id, sink=sink)
        if sink is None:
            wanted["protocol"] = "PULL"
        document = {"subscriptions": [wanted]}
        try:
            applied = yield from self.call(
                models.SubscriptionsApplied, "POST", "/v1/subscriptions/apply", document, creates=True
            )
        except RelayError as error:
            if "secret" in config or not any(one.pointer.endswith("/config/secret") for one in error.mistakes):
                raise
            why = "the signing secret is made from the token: set RELAY_TOKEN, or give secret='whsec_…'"
            raise _reworded(error, why) from None
        return Subscribed(id, secret, applied.changes[0].action if applied.changes else "unchanged")

    def _secret_of(self, id: str) -> str:
        """The same for the same token and id, so that a restarted program has it."""
        made = hmac.digest(self.token.encode(), f"revor-relay-client/subscription/{id}".encode(), "sha256")
        return f"whsec_{base64.b64encode(made).decode()}"

    # --- a signed request without a public address

    def signed_request(self, job_id: str, type: str | None, timeout_seconds: float) -> Steps[Signed]:
        """Subscribes to the job's events, takes the first one, and removes the subscription. Raises WaitTimeout."""
        ends, secret = time.monotonic() + timeout_seconds, f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        job = yield from self.call(models.Job, "GET", _path("jobs", job_id))
        wanted = {
            "types": [type] if type else list(ENDS),
            "filters": [{"exact": {"subject": job.id}}],
            "description": "revor-relay-client: one signed request",
            "config": {"kind": "webhook", "start": "earliest", "secret": secret},
        }
        with Inbox(listens=self.is_local) as inbox:
            id = yield from self._inbox_subscription(inbox, wanted)
            try:
                seen = looked = time.monotonic()
                while seen < ends:
                    if (request := inbox.first()) is not None:
                        return Signed(*request, secret)
                    if inbox.url is None or seen > looked + 2:
                        looked = seen
                        try:
                            found = yield from self._waiting_request(id)
                        except RelayError as error:
                            if error.status != 403:
                                raise
                            if inbox.url is None:
                                raise _reworded(error, f"{error.detail}, or a relay that runs with --dev") from None
                            found = None
                        if found is not None:
                            return Signed(found.body.encode(), found.headers, secret)
                    yield Pause(0.05 if inbox.url else 1.0)
                    seen = time.monotonic()
                ended = "" if job.open else f": it has ended as {job.outcome}"
                wanted_type = f"{type[:100]!r}" if type else "event"
                raise WaitTimeout(
                    f"no {wanted_type} of job {job_id[:200]!r} came within {timeout_seconds:g} s{ended}", job
                )
            finally:
                with contextlib.suppress(RelayError):
                    yield from self.answered(self.send("DELETE", _path("subscriptions", id)), patience_seconds=5)

    def _inbox_subscription(self, inbox: Inbox, wanted: Mapping[str, Any]) -> Steps[str]:
        """A relay without `--dev` sends nothing to loopback: the request then waits, and is read."""
        path = "/v1/subscriptions"
        if inbox.url is not None:
            try:
                return (yield from self.call(_Id, "POST", path, {**wanted, "sink": inbox.url}, creates=True)).id
            except RelayError as error:
                if error.status != 422:
                    raise
                inbox.close()
        hidden = {**wanted, "sink": NOWHERE, "config": {**wanted["config"], "handshake": "required"}}
        return (yield from self.call(_Id, "POST", path, hidden, creates=True)).id

    def _waiting_request(self, id: str) -> Steps[models.SignedRequest | None]:
        page = yield from self.call(models.DeliveryPage, "GET", "/v1/deliveries", query={"subscription": id})
        if not page.items:
            return None
        return (yield from self.call(models.SignedRequest, "GET", _path("deliveries", page.items[-1].id, "request")))


class _Id(BaseModel):
    id: str


class Pulling:
    """The events of a subscription of protocol PULL, one after another.

    Asking for the next event acknowledges the one before it. `leave` gives back what was not acknowledged.
    """

    def __init__(
        self,
        core: Core,
        subscription_id: str,
        *,
        at_once: int,
        lease_seconds: float,
        limit: int | None,
        idle_seconds: float | None,
    ) -> None:
        self._core, self._id = core, subscription_id
        self._at_once, self._lease_seconds = at_once, lease_seconds
        self._limit, self._idle_seconds = limit, idle_seconds
        self._leased: deque[models.PulledDelivery] = deque()
        self._lease_ends, self._handled = 0.0, 0
        self._current: str | None = None

    def next(self) -> Steps[Event | None]:
        """The next event; None: `limit` or `idle_seconds` is reached."""
        if self._current is not None:
            yield from self._say("ack", [self._current])
            self._current, self._handled = None, self._handled + 1
        idle_until = time.monotonic() + (float("inf") if self._idle_seconds is None else self._idle_seconds)
        while self._limit is None or self._handled < self._limit:
            if self._leased and time.monotonic() < self._lease_ends:
                delivery = self._leased.popleft()
                self._current = delivery.delivery_id
                event = Event.model_validate(delivery.event.model_dump(exclude_unset=True))
                event.relay_id, event.attempt_number = delivery.event_id, delivery.attempt
                return event
            self._leased.clear()  # the lease has ended, so they are handed out again
            asked = time.monotonic()
            if asked > idle_until:
                return None
            yield from self._pull(min(PULL_SECONDS, idle_until - asked))
            if not self._leased:
                if asked >= idle_until - 0.001:
                    return None
                if time.monotonic() < asked + 0.2:
                    yield Pause(0.2)
        return None

    def _pull(self, wait_seconds: float) -> Steps[None]:
        most = self._at_once if self._limit is None else min(self._at_once, self._limit - self._handled)
        asked = {"max": most, "wait_seconds": round(wait_seconds, 3), "lease_seconds": self._lease_seconds}
        seconds = wait_seconds + self._core.timeout_seconds
        path = _path("subscriptions", self._id, "pull")
        pulled = yield from self._core.call(models.Pulled, "POST", path, asked, seconds=seconds)
        self._leased.extend(pulled.items)
        self._lease_ends = time.monotonic() + self._lease_seconds

    def leave(self, *, failed: bool) -> Steps[None]:
        """Gives back what is leased. `failed`: the current one counts as an attempt, the others were not tried."""
        current, self._current = self._current, None
        rest = [one.delivery_id for one in self._leased]
        self._leased.clear()
        if current is not None and not failed:
            rest.insert(0, current)
        with contextlib.suppress(RelayError):  # they come again when their lease ends
            if current is not None and failed:
                yield from self._say("nack", [current])
            if rest:
                yield from self._say("nack", rest, untried=True)

    def _say(self, verb: str, ids: Sequence[str], **more: Any) -> Steps[None]:
        path = _path("subscriptions", self._id, verb)
        yield from self._core.answered(self._core.send("POST", path, {"ids": list(ids), **more}, creates=True))


class Following:
    """A stream of server-sent events over as many connections as it takes."""

    def __init__(self, core: Core, job_id: str | None, after: str | None, query: Mapping[str, str | None]) -> None:
        self._core, self._job_id, self._after, self._query = core, job_id, after, query
        self._patience = Patience(core.retry_seconds)
        self._rest, self._data, self._id = b"", list[bytes](), ""
        self._empty, self._size, self._began = 0, 0, 0.0
        self.ended = False

    def begin(self) -> Steps[None]:
        """Finds the position of a stream of all events, so that a cut before its first event loses none."""
        if self._job_id is None and self._after is None:
            page = yield from self._core.call(models.EventPage, "GET", "/v1/events", query={"limit": "1"})
            self._after = page.ids[0] if page.ids else BEFORE_ALL

    def request(self) -> Send:
        """The next connection."""
        self._rest, self._data, self._id, self._size, self._began = b"", [], "", 0, time.monotonic()
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self._after is not None:
            headers["Last-Event-ID"] = self._after
        path = "/v1/events/stream" if self._job_id is None else _path("jobs", self._job_id, "events")
        return self._core.send("GET", path, query=self._query, headers=headers, seconds=SILENCE_SECONDS)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes. Raises UnfitAnswer."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            self._size = self._size + len(line) if line else 0
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif name == b"id":
                self._id = value.strip().decode("latin-1")
                if not re.fullmatch(r"[!-~]{0,200}", self._id):
                    raise unfit("an event of the stream has an id that no relay gives")
            elif not name and not value and self._data:
                event = _parsed(Event, b"\n".join(self._data))
                event.relay_id = self._id
                self._data = []
                events.append(event)
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise unfit(f"an event of the stream has more than {MAX_EVENT_BYTES >> 20} MiB")
        return events

    def took(self, event: Event) -> None:
        """The program has asked for the next event: the stream resumes after this one."""
        self._after, self._empty = event.relay_id or self._after, 0

    def broke(self) -> Pause:
        """A stream had begun, and has ended or was cut. That of a job is requested once more: 204 says that it is over.
        Raises Unreachable if it keeps ending without an event."""
        self._core.heard()
        self._after = self._after or BEFORE_ALL
        self._patience = Patience(self._core.retry_seconds)
        self._empty = 1 if time.monotonic() > self._began + WELL_SECONDS else self._empty + 1
        if self._empty > MAX_TRIES:
            raise Unreachable(f"the stream of {self._core.url} keeps ending at once", code="unreachable")
        return Pause(0 if self._empty == 1 else min(FIRST_PAUSE_SECONDS * 2 ** min(self._empty, 9), MAX_PAUSE_SECONDS))

    def refused(self, outcome: Answer | Failure) -> Pause:
        """No stream began. Raises RelayError unless another attempt may help."""
        if isinstance(outcome, Answer) and outcome.status == 204:
            self.ended = True
            return Pause(0)
        return self._core.pause(self._patience, outcome)


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """True if an answer is a stream of events."""
    return status == 200 and headers.get("content-type", "").startswith("text/event-stream")


UNFIT = "unfit_answer"


def unfit(detail: str) -> UnfitAnswer:
    """The error for an answer that is not a relay's."""
    return UnfitAnswer(detail, code=UNFIT)


def read(model: type[Model], answer: Answer) -> Model:
    """The document of an answer. Raises UnfitAnswer."""
    return _parsed(model, answer.body)


def _parsed(model: type[Model], raw: bytes) -> Model:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise unfit(f"the answer is not a relay's: {first['msg'][:200]} {place}".rstrip()) from None


def _reworded(error: RelayError, detail: str) -> RelayError:
    return RelayError(
        detail, code=error.code, status=error.status, request_id=error.request_id, mistakes=error.mistakes
    )


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _path(collection: str, id: str, action: str = "") -> str:
    part = quote(id, safe="", errors="surrogatepass")
    if not part.strip("."):  # httpx would take `..` for the folder above
        part = part.replace(".", "%2E")
    return f"/v1/{collection}/{part}" + (f"/{action}" if action else "")
