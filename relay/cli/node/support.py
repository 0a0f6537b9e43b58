"""The text for a support ticket: about the installation, or a job, an event, a delivery or a subscription. It is a part
of `relay doctor --bundle`, and `relay support` prints it alone."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from relay import __version__, build
from relay.cli.client import Api, ApiError, Unreachable, api, path_of
from relay.cli.deliveries.report import attempt_lines
from relay.cli.output import clean, working
from relay.clock import to_rfc3339, wall_clock
from relay.errors import RelayError, UsageError

MAX_CHARACTERS = 60_000
"""Common limit of a comment in ticket systems."""
MAX_LINE_CHARACTERS = 2_000
EXCERPT_CHARACTERS = 1_000
"""An excerpt of this length may have been truncated by the relay."""
MAX_READ_EVENTS, MAX_EVENTS = 1000, 100
"""A job's events are read from the first one, and the last ones are shown."""
MAX_DELIVERIES = 30
MAX_PER_STATE = 10
MAX_ACCOUNTS = 20
MAX_SUBSCRIPTIONS = 30
COLLECTIONS = {
    "dlv_": ("delivery", "deliveries"),
    "evt_": ("event", "events"),
    "sub_": ("subscription", "subscriptions"),
}

# Only these parts of a job and a sink's answer: others may contain personal data or credentials.
JOB_FIELDS = ("action", "channel", "attempt_count", "scheduled_at", "started_at", "next_attempt_at", "error")
ANSWER_HEADERS = ("server", "via", "content-type", "retry-after", "x-request-id", "cf-ray")

Document = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Case:
    """The API's answers about one id. `unknown` lists what could not be read, and the reasons."""

    about: str
    node_version: str | None = None
    readiness: Document | None = None
    sources: list[Document] = field(default_factory=list)
    job: Document | None = None
    explanation: Document | None = None
    events: list[Document] = field(default_factory=list)
    deliveries: list[Document] = field(default_factory=list)
    subscriptions: list[Document] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def support(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a job, event, delivery or subscription.")],
) -> None:
    """Print a text for a support ticket. It describes one id, without secrets, recipients and metadata."""
    with working("reading"):
        case = gather(api(), id)
    for line in report(case, now=wall_clock()):
        typer.echo(line)


def about_installation(client: Api) -> Case:
    """Reads the state of the installation: versions, readiness, accounts, and the first subscriptions."""
    case = Case(about="this installation")
    reader = _Reader(client, case)
    reader.add_node()
    case.subscriptions = reader.items("/v1/subscriptions", {}, MAX_SUBSCRIPTIONS)
    return case


def gather(client: Api, id: str) -> Case:
    """Reads everything about the id. Raises UsageError if it does not exist."""
    kind, found = _find(client, id)
    case = Case(about=f"{kind} {id}")
    reader = _Reader(client, case)
    job_id, query, event_ids = None, {}, list[str]()
    if kind == "job":
        case.job = found
    elif kind == "delivery":
        case.deliveries, job_id = [found], found["job_uid"]
    elif kind == "event":
        case.events, event_ids = [_ours(found, id)], [id]
        if found["id"] == id and found.get("partitionkey"):  # others have no job: about the relay, or published
            job_id, query = found.get("subject"), {"account": found.get("account")}
    else:
        case.subscriptions = [found]
        for state in ("dead", "pending", None):
            reader.add_deliveries({"subscription": id, "state": state}, MAX_PER_STATE)
    if job_id is not None:
        case.job = reader.get("the job", path_of("jobs", job_id), query=query)
    if case.job is not None:
        uid = case.job["uid"]
        case.explanation = reader.get("the explanation", path_of("jobs", uid, "explain"))
        events = reader.items(path_of("jobs", uid, "events"), {}, MAX_READ_EVENTS)
        case.events = events[-MAX_EVENTS:] or case.events
    if kind == "delivery" and not case.events:
        event = reader.get("the event", path_of("events", found["event_id"]))
        case.events = [] if event is None else [_ours(event, found["event_id"])]
    if kind == "job":
        event_ids = [event["id"] for event in reversed(case.events)]
    for event_id in event_ids:
        reader.add_deliveries({"event": event_id}, MAX_DELIVERIES)
    reader.add_subscriptions()
    reader.add_node()
    return case


def _ours(event: Document, id: str) -> Document:
    """The event; of one that a program has published only the relay's id, its type and its time: what else it holds
    may be about a person."""
    if event["id"] == id:
        return event
    return {name: value for name, value in event.items() if name in ("type", "time")} | {"id": id}


def _find(client: Api, id: str) -> tuple[str, Document]:
    """The kind of the resource with this id, and the resource."""
    kind, collection = COLLECTIONS.get(id[:4], ("job", "jobs"))
    found = None if kind == "job" else client.get_if_there(path_of(collection, id))
    if found is not None:
        return kind, found
    try:
        found = client.get_if_there(path_of("jobs", id))  # a job id of the upstream can have any form
    except ApiError as error:
        if error.problem != "ambiguous_job":
            raise
        raise UsageError(f"several accounts have a job {id!r:.210}. Use its uid (job_…)") from None
    if found is not None:
        return "job", found
    # A declared subscription has an id of the user's own choice.
    declared = client.get_if_there(path_of("subscriptions", id)) if kind == "job" else None
    if declared is None:
        raise UsageError(f"there is no job, event, delivery or subscription {id!r:.210}")
    return "subscription", declared


@dataclass(frozen=True, slots=True)
class _Reader:
    """Adds resources to a case, and notes those that cannot be read. Raises Unreachable."""

    client: Api
    case: Case

    def get(self, what: str, path: str, **options: Any) -> Any:
        return self._read(what, lambda: self.client.get(path, **options), None)

    def items(self, path: str, query: Mapping[str, Any], limit: int) -> list[Any]:
        found: list[Any] = self._read(path, lambda: self.client.items(path, query, limit), [])
        return found

    def _read(self, what: str, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except Unreachable:
            raise
        except RelayError as error:
            self.case.unknown.append(f"{what}: {error}")
            return otherwise

    def add_deliveries(self, query: Mapping[str, Any], limit: int) -> None:
        if len(self.case.deliveries) >= MAX_DELIVERIES:
            return
        known = {delivery["id"] for delivery in self.case.deliveries}
        for one in self.items("/v1/deliveries", query, limit):
            if one["id"] not in known and len(self.case.deliveries) < MAX_DELIVERIES:
                self.case.deliveries.append(self.get("a delivery", path_of("deliveries", one["id"])) or one)

    def add_subscriptions(self) -> None:
        known = {subscription["id"] for subscription in self.case.subscriptions}
        for id in dict.fromkeys(delivery["subscription_id"] for delivery in self.case.deliveries):
            found = None if id in known else self.get("a subscription", path_of("subscriptions", id))
            if found is not None:
                self.case.subscriptions.append(found)

    def add_node(self) -> None:
        document = self.get("the version", "/openapi.json") or {}
        self.case.node_version = (document.get("info") or {}).get("version")
        self.case.readiness = self.get("/readyz", "/readyz", accepted=503)
        job = self.case.job
        for account in self.items("/v1/sources", {}, 1000):
            if job is None or (account["source"], account["account"]) == (job["source"], job["account"]):
                self.case.sources.append(account)


def report(case: Case, *, now: float) -> list[str]:
    """The lines of the text, at most `MAX_CHARACTERS`. Leaves out secrets, sink paths, recipients and metadata."""
    from relay.redaction import redact_text, secrets_of, without

    paths = (secrets_of((found["sink"] or "").removesuffix("?…"), "", ()) for found in case.subscriptions)
    hidden = sorted({path for found in paths for path in found}, key=len, reverse=True)
    lines: list[str] = []
    length = 0
    written = list(_lines(case, hidden, now))
    for place, line in enumerate(written):
        shown = redact_text(without(clean(line), hidden))[:MAX_LINE_CHARACTERS]
        length += len(shown) + 1
        if length > MAX_CHARACTERS - 100:
            lines.append(f"… cut off here, {len(written) - place} more lines")
            break
        lines.append(shown)
    return lines


def _lines(case: Case, hidden: Sequence[str], now: float) -> Iterator[str]:
    yield f"revor-relay, about {case.about}, at {to_rfc3339(now)}"
    yield "Left out: secrets, paths of sinks, recipients, metadata. Read the text before you paste it."
    yield ""
    yield "VERSIONS"
    command = f"command {__version__} ({build()}), Python {platform.python_version()}"
    yield f"node {case.node_version or 'unknown'}, {command}"
    yield f"the command runs on {platform.system()} {platform.release()} {platform.machine()}"
    yield ""
    yield from _node(case.readiness)
    for account in case.sources[:MAX_ACCOUNTS]:
        yield from _source(account)
    if len(case.sources) > MAX_ACCOUNTS:
        yield f"… {len(case.sources) - MAX_ACCOUNTS} more accounts"
    yield ""
    if case.job is not None:
        yield from _job(case.job, case.explanation)
    if case.events:
        yield f"EVENTS ({len(case.events)}{', the last ones' if len(case.events) >= MAX_EVENTS else ''})"
        for event in case.events:
            yield _event(event)
        yield ""
    for subscription in case.subscriptions:
        yield from _subscription(subscription)
    if case.deliveries:
        yield f"DELIVERIES ({len(case.deliveries)}{' or more' if len(case.deliveries) >= MAX_DELIVERIES else ''})"
        for delivery in case.deliveries:
            yield from _delivery(delivery, hidden)
        yield ""
    for unknown in case.unknown:
        yield f"not read: {unknown}"


def _node(readiness: Document | None) -> Iterator[str]:
    yield "NODE"
    if readiness is None:
        yield "/readyz: unknown"
        return
    yield f"/readyz: {readiness.get('status')}"  # a proxy in front of the relay may have answered
    yield from (f"problem: {problem}" for problem in readiness.get("problems") or ())
    yield from (f"note: {one}" for one in readiness.get("notes") or ())
    yield "checks: " + ", ".join(f"{name} {state}" for name, state in (readiness.get("checks") or {}).items())


def _source(account: Document) -> Iterator[str]:
    yield f"source {account['source']}/{account['account']}: " + _facts(
        account, "state", "since", "open_jobs", "due_jobs", "limit", "remaining", "window_seconds", "paused_until"
    )
    yield "  " + _facts(
        account,
        *("own_requests_per_second", "others_requests_per_second", "price_seconds"),
        *("expected_detection_delay_seconds", "last_completed_at"),
    )
    if account.get("problem"):
        yield "  problem: " + _facts(account["problem"], "code", "message", "request_id", "at")


def _job(job: Document, explanation: Document | None) -> Iterator[str]:
    yield f"JOB {job['uid']}"
    yield _facts(job, "id", "source", "account", "priority")
    yield _facts(job, "status", "outcome", "open", "sequence", "poll_count")
    yield _facts(job, "tracked_at", "last_polled_at", "next_poll_at", "closed_at")
    seen = {**job, "error": (job["problem"] or {}).get("code")}
    yield "upstream: " + (_facts(seen, *JOB_FIELDS) or "nothing")
    if job.get("last_error"):
        yield "last error: " + _facts(job["last_error"], "code", "message", "request_id", "at")
    if explanation is not None:
        yield f"explained: {explanation['sentence']}"
        yield _facts(explanation, "reason", "waiting_for", "not_before", "expected_delay_seconds", "last_request_id")
    yield ""


def _event(event: Document) -> str:
    data = event.get("data") if isinstance(event.get("data"), dict) else {}
    assert isinstance(data, dict)
    parts = [str(event.get("sequence") or "").lstrip("0") or "-", str(event.get("time") or "no time")]
    parts += [event["type"], event["id"]]
    if event.get("status"):
        parts.append(f"({event.get('previousstatus') or 'nothing'} → {event['status']})")
    parts.append(_facts(data, "detected_at", "inferred", "request_id"))
    return "  ".join(part for part in parts if part)


def _subscription(subscription: Document) -> Iterator[str]:
    config = subscription["config"]
    settings = subscription.get("protocolsettings") or {}
    yield f"SUBSCRIPTION {subscription['id']}"
    how = settings.get("method") or subscription.get("protocol", "HTTP")
    yield f"sink: {host_of_sink(subscription['sink'])}, {how}, {config['kind']}"
    yield _facts(subscription, "state", "state_since", "state_reason", "created_at", "source")
    yield from filter(None, [_facts(subscription, "failing_since", "failing_reason", "paused_until", "next_probe_at")])
    yield f"types: {', '.join(subscription.get('types') or ['all of jobs'])}"
    yield _facts(config, "ordering", "start", "timeout_seconds", "rate_per_second", "concurrency")
    yield f"retry_schedule: {' '.join(f'{pause:g}' for pause in config['retry_schedule']) or 'none'}"
    if settings.get("headers"):
        yield f"own headers: {', '.join(settings['headers'])} (values left out)"
    yield ""


def host_of_sink(sink: str | None) -> str:
    """The URL of a sink without its credentials, path and query."""
    if sink is None:
        return "none"
    parts = urlsplit(sink)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def _delivery(delivery: Document, hidden: Sequence[str]) -> Iterator[str]:
    yield f"{delivery['id']}: {delivery['event_id']} ({delivery['event_type']}) to {delivery['subscription_id']}"
    yield "  " + _facts(
        delivery,
        *("state", "reason", "attempt_count", "waiting_for", "next_attempt_at", "created_at", "ended_at"),
    )
    attempts = [_without_paths(attempt, hidden) for attempt in delivery.get("attempts") or ()]
    yield from (f"  {line}" for line in attempt_lines(attempts))
    if attempts:
        headers = {name.lower(): value for name, value in (attempts[-1].get("response_headers") or {}).items()}
        known = _facts(headers, *(name for name in ANSWER_HEADERS if headers.get(name)))
        if known:
            yield f"  last answer's headers: {known}"


def _without_paths(attempt: Document, hidden: Sequence[str]) -> Document:
    """The attempt, with the sinks' paths removed from its excerpt, also where it is truncated or in hex. Of a dry run
    the requests are left out: they name people."""
    from relay.redaction import without

    if attempt.get("requests"):
        attempt = {**attempt, "requests": []}
    excerpt = attempt.get("response_excerpt")
    if not excerpt or not hidden:
        return attempt
    cut = len(excerpt) >= EXCERPT_CHARACTERS
    if attempt.get("response_excerpt_encoding") == "hex":
        text = bytes.fromhex(excerpt).decode("latin-1")
        excerpt = without(text, hidden, cut=cut).encode("latin-1").hex()
    else:
        excerpt = without(excerpt, hidden, cut=cut)
    return {**attempt, "response_excerpt": excerpt}


def _facts(document: Document, *names: str) -> str:
    """The fields that are not null, as `name: value`."""
    return ", ".join(
        f"{name}: {f'{value:.4g}' if isinstance(value, float) else clean(value)}"
        for name in names
        if (value := document.get(name)) is not None
    )
