"""Source definition: everything the relay knows about one upstream API, as data.

A preset is two YAML files beside this module: `<preset>.yaml` and `<preset>.hints.yaml`.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from relay.core.events.event import Hint, Origin, job_event_types
from relay.core.jobs.connect_accounts import LISTED_STATES
from relay.core.jobs.job import KNOWN_STATUSES, TERMINAL, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.sources.hints import Hints, Part

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads the presets ten times faster
_PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_Name = Annotated[str, Field(pattern=r"^[^\s.]+$")]
_Place = Annotated[str, Field(pattern=r"^[^\s.]+(\.[^\s.]+)*$")]
"""A path of names."""
_Path = Annotated[str, Field(pattern=r"^/[!-~]*$")]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", to_lower=True)]


class Envelope(Part):
    """The upstream's names for the parts of an answer."""

    ok: _Name
    request_id: _Name
    item: _Name
    error: _Name


class ItemFields(Part):
    """The upstream's name for each field of an item that the relay reads."""

    id: _Name
    status: _Name
    action: _Name
    channel: _Name
    attempt_count: _Name
    scheduled_at: _Name
    started_at: _Name
    finished_at: _Name
    next_attempt_at: _Name


class ProblemFields(Part):
    """The fields of an item that say why its job failed: the object at `field`, and the names inside it."""

    field: _Name
    code: _Name
    message: _Name
    retryable: _Name


class RecipientPlaces(Part):
    """The places of each part of the recipient: the first one with a text counts."""

    address: tuple[_Place, ...]
    profile_url: tuple[_Place, ...]
    phone: tuple[_Place, ...]


class RequestFields(Part):
    """The upstream's names for the fields the relay reads from a create's body."""

    spacing_seconds: _Name
    channel: _Name
    metadata: _Name
    connect_account_id: _Name
    recipient: RecipientPlaces


class ResultFields(Part):
    """The fields of an item that hold a successful job's result: the object at `field`, the names inside it for status
    and account, and the names to show."""

    field: _Name
    status: _Name
    connect_account_id: _Name
    fields: tuple[str, ...]


class ErrorFields(Part):
    """The names inside an error answer's error object."""

    code: _Name
    message: _Name
    request_id: _Name


class ErrorCodes(Part):
    """The upstream's error codes by meaning."""

    key_trouble: frozenset[str]
    forbidden: frozenset[str]
    not_found: frozenset[str]
    rate_limited: frozenset[str]
    unavailable: frozenset[str]


class ListingFields(Part):
    """The listing of connect accounts: its path, the envelope's field with the items, the names inside an item, and
    the upstream's status -> a member of LISTED_STATES."""

    path: _Path
    items: _Name
    id: _Name
    channel: _Name
    name: _Name
    status: _Name
    can_send: _Name
    states: Mapping[str, str]


class HeaderNames(Part):
    """Response headers, lower-cased: the key's budget, the account's, and the wait asked for in seconds."""

    limit: _Header
    remaining: _Header
    window_ms: _Header
    account_limit: _Header
    account_remaining: _Header
    retry_after: _Header
    request_id: _Header


class SourceDefinition(Part):
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
    base_path: _Path
    type_prefix: Annotated[str, Field(pattern=r"^(?!relay\.)([a-z0-9]+\.)+job$")]
    source_path: _Path
    account_source_path: _Path
    auth_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
    auth_format: Annotated[str, Field(pattern=r"^[ -~]*\{api_key\}[ -~]*$")]
    job_path: Annotated[str, Field(pattern=r"^/[!-~]*\{id\}[!-~]*$")]
    probe_path: _Path
    passed: frozenset[_Path]
    creates: frozenset[_Path]
    listing: ListingFields | None = None
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

    @model_validator(mode="after")
    def _check(self) -> "SourceDefinition":
        if not set(self.statuses.values()) <= set(KNOWN_STATUSES) or not set(self.statuses.values()) >= TERMINAL:
            raise ValueError(f"statuses must map to {', '.join(sorted(KNOWN_STATUSES))}, and to all terminal ones")
        if self.terminal != {word for word, own in self.statuses.items() if own in TERMINAL}:
            raise ValueError("terminal must have exactly those words of `statuses` that map to a terminal status")
        if self.listing is not None and not set(self.listing.states.values()) <= set(LISTED_STATES):
            raise ValueError(f"listing.states must map to {', '.join(LISTED_STATES)}")
        return self

    @property
    def event_types(self) -> tuple[str, ...]:
        """Every event type of this source's jobs."""
        return job_event_types(self.type_prefix)

    @cached_property
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

    def hint_for(self, problem: Problem | None, kind: str, channel: str | None = None) -> Hint | None:
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
    files = {"": f"{preset}.yaml", "hints": f"{preset}.hints.yaml"}
    values = {name: _read(directory / file) for name, file in files.items()}
    try:
        return SourceDefinition.model_validate({**values[""], "name": preset, "hints": values["hints"]})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name, *rest = first["loc"] or ("",)
        file, place = (files["hints"], rest) if name == "hints" else (files[""], [name, *rest])
        text = f"{file}: {'.'.join(map(str, place))}: {first['msg'].removeprefix('Value error, ')}"
        raise SettingsError(" ".join(text.split())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 (safe either way)
    except Exception as error:  # PyYAML raises more than YAMLError: `!!int ""` is an IndexError
        raise SettingsError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SettingsError(f"{path.name}: expected a mapping of keys")
    return values
