"""Source definition: everything the relay knows about one upstream API, as data.

A preset is two YAML files beside this module: `<preset>.yaml` and `<preset>.hints.yaml`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from relay.core.events.event import Hint, Origin, job_event_types
from relay.core.jobs.connect_accounts import LISTED_STATES
from relay.core.jobs.job import KNOWN_STATUSES, PARTS, TERMINAL, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.sources.document import Section
from relay.sources.hints import Hints, load_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PATH = r"/[!-~]*"
_HEADER = r"[A-Za-z0-9-]+"
_NAME = r"[^\s.]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The upstream's names for the parts of an answer."""

    ok: str
    request_id: str
    item: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFields:
    """The upstream's name for each field of an item that the relay reads."""

    id: str
    status: str
    action: str
    channel: str
    attempt_count: str
    scheduled_at: str
    started_at: str
    finished_at: str
    next_attempt_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFields:
    """Where an item says why its job failed: the object at `field`, and the names inside it."""

    field: str
    code: str
    message: str
    retryable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFields:
    """The upstream's names for the fields the relay reads from a create's body.

    recipient  where each part of the recipient may be, as paths of names: the first one with a text counts
    """

    spacing_seconds: str
    channel: str
    metadata: str
    connect_account_id: str
    recipient: Mapping[str, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFields:
    """Where an item holds a successful job's result: the object at `field`, the names inside it for status and account,
    and the names to show."""

    field: str
    status: str
    connect_account_id: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFields:
    """The names inside an error answer's error object."""

    code: str
    message: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCodes:
    """The upstream's error codes by meaning."""

    key_trouble: frozenset[str]
    forbidden: frozenset[str]
    not_found: frozenset[str]
    rate_limited: frozenset[str]
    unavailable: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingFields:
    """The listing of connect accounts: its path, the envelope's field with the items, the names inside an item, and
    the upstream's status -> a member of LISTED_STATES."""

    path: str
    items: str
    id: str
    channel: str
    name: str
    status: str
    can_send: str
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderNames:
    """Response headers, lower-cased: the key's budget, the account's, and the wait asked for in seconds."""

    limit: str
    remaining: str
    window_ms: str
    account_limit: str
    account_remaining: str
    retry_after: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDefinition:
    """One upstream API.

    base_path  optional suffix of a base URL; `root` removes it
    passed     path prefixes that the proxy forwards
    creates    paths whose POST makes a job
    statuses   the upstream's status -> the relay's (a member of KNOWN_STATUSES)
    terminal   the upstream's terminal statuses
    listing    of connect accounts; None: there is none
    """

    name: str
    title: str
    base_path: str
    type_prefix: str
    source_path: str
    account_source_path: str
    auth_header: str
    auth_format: str
    job_path: str
    probe_path: str
    passed: frozenset[str]
    creates: frozenset[str]
    listing: ListingFields | None
    request: RequestFields
    statuses: Mapping[str, str]
    terminal: frozenset[str]
    envelope: Envelope
    item: ItemFields
    problem: ProblemFields
    result: ResultFields
    error: ErrorFields
    codes: ErrorCodes
    headers: HeaderNames
    hints: Hints

    @property
    def event_types(self) -> tuple[str, ...]:
        """Every event type of this source's jobs."""
        return job_event_types(self.type_prefix)

    @property
    def read_fields(self) -> tuple[str, ...]:
        """The item fields the relay reads, by the upstream's names; `a.b` is field b of object a."""
        item = self.item
        return (
            *(item.id, item.status, item.action, item.channel, item.attempt_count),
            *(item.scheduled_at, item.started_at, item.finished_at, item.next_attempt_at),
            *(f"{self.result.field}.{name}" for name in self.result.fields),
        )

    def root(self, base_url: str) -> str:
        """The base URL to append this definition's paths to."""
        return base_url.rstrip("/").removesuffix(self.base_path.rstrip("/")).rstrip("/")

    def event_source(self, base_url: str) -> str:
        """The CloudEvents `source` of this source's job events."""
        return self.root(base_url) + self.source_path

    def origin(self, base_url: str, dataschema: str) -> Origin:
        """The attributes shared by all events of this source. `dataschema`: of its job events."""
        return Origin(
            source=self.event_source(base_url),
            type_prefix=self.type_prefix,
            dataschema=dataschema,
            account_source=self.root(base_url) + self.account_source_path,
        )

    def job_url(self, base_url: str, external_id: str) -> str:
        """The URL of one job. Any id stays a single path segment."""
        segment = quote(external_id, safe="", errors="replace")
        if not segment.strip("."):
            segment = segment.replace(".", "%2E")  # URL libraries resolve a bare dot segment
        return self.root(base_url) + self.job_path.replace("{id}", segment)

    def job_id_of(self, path: str) -> str | None:
        """The percent-encoded job id in this path; None for any other path."""
        before, _, after = self.job_path.partition("{id}")
        id = path[len(before) : len(path) - len(after)]
        return id if path.startswith(before) and path.endswith(after) and id and "/" not in id else None

    def probe_url(self, base_url: str) -> str:
        """The URL of the cheapest call that shows whether a key works."""
        return self.root(base_url) + self.probe_path

    def listing_url(self, base_url: str) -> str | None:
        """The URL of the listing of connect accounts; None if there is none."""
        return None if self.listing is None else self.root(base_url) + self.listing.path

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """The header that carries the key."""
        return {self.auth_header: self.auth_format.replace("{api_key}", api_key)}

    def answer_body(self, item: Mapping[str, Any], request_id: str) -> bytes:
        """The answer to a job read in the upstream's shape."""
        names = self.envelope
        return dumps({names.ok: True, names.request_id: request_id, names.item: item})

    def error_body(self, code: str, message: str, request_id: str) -> bytes:
        """An error in the upstream's shape."""
        names, inner = self.envelope, self.error
        error = {inner.code: code, inner.message: message, inner.request_id: request_id}
        return dumps({names.ok: False, names.error: error})

    def hint_for(self, problem: Problem | None, kind: str, *, channel: str | None = None) -> Hint | None:
        """The hint for an event of `kind` (a JOB_EVENTS member) or a failed poll (POLL); None if nothing is wrong.

        `problem` is the Observation's, `channel` the job's.
        """
        return self.hints.find(problem, kind, channel)


def presets(directory: Path | None = None) -> tuple[str, ...]:
    """The names of the available definitions."""
    files = (directory or Path(__file__).parent).glob("*.yaml")
    return tuple(sorted(file.stem for file in files if _PRESET.fullmatch(file.stem)))


def load_definition(preset: str, *, directory: Path | None = None) -> SourceDefinition:
    """Loads and validates a definition with its hints. `directory` defaults to the shipped presets.

    Raises SettingsError that names the file and the key.
    """
    directory = directory or Path(__file__).parent
    known = presets(directory)
    if preset not in known:
        raise SettingsError(f"sources: there is no preset {preset!r}: {', '.join(known) or 'none is there'}")
    top = Section.load(directory / f"{preset}.yaml")
    events, auth, calls = top.section("events"), top.section("auth"), top.section("calls")
    result = top.section("result")
    statuses = _statuses(top.section("statuses"))
    definition = SourceDefinition(
        name=top.text("name", pattern=preset, expected=f"the preset's own name, {preset}"),
        title=top.text("title"),
        base_path=top.text("base_path", pattern=_PATH, expected="a path that begins with /"),
        type_prefix=events.text(
            "type_prefix",
            pattern=r"(?!relay\.)([a-z0-9]+\.)+job",
            expected="words with dots, the last one job",
        ),
        source_path=events.text("source_path", pattern=_PATH, expected="a path that begins with /"),
        account_source_path=events.text("account_source_path", pattern=_PATH, expected="a path that begins with /"),
        auth_header=auth.text("header", pattern=_HEADER, expected="a header's name"),
        auth_format=auth.text("format", pattern=r"[ -~]*\{api_key\}[ -~]*", expected="text with {api_key} in it"),
        job_path=calls.text("job", pattern=r"/[!-~]*\{id\}[!-~]*", expected="a path with {id} in it"),
        probe_path=calls.text("probe", pattern=_PATH, expected="a path that begins with /"),
        passed=_paths(top, "passed"),
        creates=_paths(top, "creates"),
        listing=_listing(top.optional_section("connect_accounts")),
        request=_request(top.section("request")),
        statuses=MappingProxyType(statuses),
        terminal=_terminal(top, statuses),
        envelope=Envelope(**_names(top.section("envelope"), Envelope)),
        item=ItemFields(**_names(top.section("item"), ItemFields)),
        problem=ProblemFields(**_names(top.section("problem"), ProblemFields)),
        result=ResultFields(
            field=result.text("field"),
            status=result.text("status", pattern=_NAME, expected="a name"),
            connect_account_id=result.text("connect_account_id", pattern=_NAME, expected="a name"),
            fields=result.texts("fields"),
        ),
        error=ErrorFields(**_names(top.section("error"), ErrorFields)),
        codes=_codes(top.section("codes")),
        headers=HeaderNames(**{k: v.lower() for k, v in _names(top.section("headers"), HeaderNames, _HEADER).items()}),
        hints=load_hints(directory / f"{preset}.hints.yaml"),
    )
    for section in (events, auth, calls, result, top):
        section.finish()
    return definition


def _paths(top: Section, name: str) -> frozenset[str]:
    paths = top.texts(name)
    if not all(re.fullmatch(_PATH, path) for path in paths):
        raise top.error(name, "expected paths that begin with /")
    return frozenset(paths)


def _listing(section: Section | None) -> ListingFields | None:
    if section is None:
        return None
    states = section.section("states")
    listing = ListingFields(
        path=section.text("path", pattern=_PATH, expected="a path that begins with /"),
        states=MappingProxyType({word: states.choice(word, LISTED_STATES) for word in states.names()}),
        **{
            name: section.text(name, pattern=_NAME, expected="a name")
            for name in ("items", "id", "channel", "name", "status", "can_send")
        },
    )
    section.finish()
    return listing


def _request(section: Section) -> RequestFields:
    parts = section.section("recipient")
    recipient = {part: _places(parts, part) for part in PARTS}
    parts.finish()
    request = RequestFields(
        recipient=MappingProxyType(recipient),
        **{
            name: section.text(name, pattern=_NAME, expected="a name")
            for name in ("spacing_seconds", "channel", "metadata", "connect_account_id")
        },
    )
    section.finish()
    return request


def _places(section: Section, name: str) -> tuple[tuple[str, ...], ...]:
    places = section.texts(name)
    if not all(re.fullmatch(rf"{_NAME}(\.{_NAME})*", place) for place in places):
        raise section.error(name, "expected names, or paths of names with dots")
    return tuple(tuple(place.split(".")) for place in places)


def _statuses(section: Section) -> dict[str, str]:
    words = {word: section.choice(word, KNOWN_STATUSES) for word in section.names()}
    missing = sorted(TERMINAL - set(words.values()))
    if missing:
        raise section.error(missing[0], "no status of the upstream maps to this")
    return words


def _terminal(top: Section, statuses: Mapping[str, str]) -> frozenset[str]:
    terminal = frozenset(top.texts("terminal"))
    if terminal != {word for word, own in statuses.items() if own in TERMINAL}:
        raise top.error("terminal", "expected exactly those words of `statuses` that map to a terminal status")
    return terminal


def _codes(section: Section) -> ErrorCodes:
    codes = {field.name: frozenset(section.texts(field.name)) for field in fields(ErrorCodes)}
    section.finish()
    return ErrorCodes(**codes)


def _names(section: Section, shape: type["DataclassInstance"], pattern: str = _NAME) -> dict[str, str]:
    names = {field.name: section.text(field.name, pattern=pattern, expected="a name") for field in fields(shape)}
    section.finish()
    return names
