"""Source definition, version 2: everything the relay knows about one upstream API, as data.

A preset is a folder beside this module: `definition.yaml`, and `hints.yaml` if it explains errors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import Field, StrictBool, StrictInt, StrictStr, StringConstraints, ValidationError, model_validator

from relay.core.events.event import Hint, Origin, job_event_types
from relay.core.jobs.connect_accounts import LISTED_STATES
from relay.core.jobs.job import KNOWN_STATUSES, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.sources.hints import Hints, Part
from relay.sources.pointers import Pointer, at, document_of

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads the presets ten times faster
_PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_Path = Annotated[str, Field(pattern=r"^/[!-~]*$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", to_lower=True)]
_Scalar = StrictStr | StrictBool | StrictInt
State = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]


class Credential(Part):
    """How the API key is sent: in a header."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
    format: Annotated[str, Field(pattern=r"^[ -~]*\{key\}[ -~]*$")] = "{key}"


class Expected(Part):
    """A value that an answer has at a place, if it has one there."""

    at: Pointer
    is_: _Scalar = Field(alias="is")


class Answer(Part):
    """What every answer has in common.

    ok          another value there makes a 2xx answer an error
    request_id  the upstream's id of the request
    """

    ok: Expected | None = None
    request_id: Pointer | None = None


class Meanings(Part):
    """The upstream's error codes by meaning."""

    key_trouble: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    not_found: frozenset[str] = frozenset()
    rate_limited: frozenset[str] = frozenset()
    unavailable: frozenset[str] = frozenset()


class ErrorFields(Part):
    """Where an error answer says why. The other places begin at `at`; a text there is the code."""

    at: Pointer = ()
    code: Pointer = ("code",)
    message: Pointer = ("message",)
    request_id: Pointer | None = None
    meanings: Meanings = Meanings()


class HeaderNames(Part):
    """Response headers, lower-cased: the key's budget, the account's, and the wait asked for in seconds."""

    limit: _Header | None = None
    remaining: _Header | None = None
    window_ms: _Header | None = None
    account_limit: _Header | None = None
    account_remaining: _Header | None = None
    retry_after: _Header = "retry-after"
    request_id: _Header | None = None


class Rule(Part):
    """A condition on a job as an answer shows it, and the state that it proves. All parts that are given must hold.

    is, in  the value at the pointer is this one, or one of these
    there   true: there is a value at the pointer that is not null; false: there is none
    """

    at: Pointer
    is_: _Scalar | None = Field(None, alias="is")
    in_: tuple[_Scalar, ...] | None = Field(None, alias="in", min_length=1)
    there: bool | None = None
    state: State

    @model_validator(mode="after")
    def _check(self) -> "Rule":
        if sum(one is not None for one in (self.is_, self.in_, self.there)) != 1:
            raise ValueError("a rule has one of `is`, `in` and `there`")
        return self

    @property
    def values(self) -> tuple[_Scalar, ...]:
        """The values that match; none: `there` decides."""
        return self.in_ or (() if self.is_ is None else (self.is_,))

    def holds(self, item: Any) -> bool:
        """True if the item matches."""
        found = at(item, self.at)
        if self.there is not None:
            return (found is not None) is self.there
        return any(is_exactly(found, value) for value in self.values)

    def precedes(self, other: "Rule") -> bool:
        """True if the other rule, or one of its values, can match nothing that this one leaves."""
        if self.at != other.at:
            return False
        if self.there is not None:
            return other.there is self.there or (self.there and other.there is None)
        return any(is_exactly(one, value) for one in self.values for value in other.values)


def is_exactly(found: object, value: object) -> bool:
    """True if both are the same JSON value. In Python, true is 1."""
    return type(found) is type(value) and found == value


class Fields(Part):
    """The places in an item of what the relay reads. Times are RFC 3339."""

    id: Pointer
    action: Pointer | None = None
    channel: Pointer | None = None
    attempt_count: Pointer | None = None
    scheduled_at: Pointer | None = None
    started_at: Pointer | None = None
    finished_at: Pointer | None = None
    next_attempt_at: Pointer | None = None


class ProblemFields(Part):
    """Where an item says why its job failed. The other places begin at `at`; a text there is the message."""

    at: Pointer
    code: Pointer = ("code",)
    message: Pointer = ("message",)
    retryable: Pointer | None = None


class ResultFields(Part):
    """Where an item holds a successful job's result. The other places begin at `at`; `shown` are those that an event
    keeps if the item is too large for it."""

    at: Pointer
    status: Pointer | None = None
    connect_account_id: Pointer | None = None
    shown: tuple[Pointer, ...] = ()


class RecipientPlaces(Part):
    """The places of each part of the recipient: the first one with a text counts."""

    address: tuple[Pointer, ...] = ()
    profile_url: tuple[Pointer, ...] = ()
    phone: tuple[Pointer, ...] = ()


class RequestFields(Part):
    """The places in a create's body of what the relay reads."""

    spacing_seconds: Pointer | None = None
    channel: Pointer | None = None
    metadata: Pointer | None = None
    connect_account_id: Pointer | None = None
    recipient: RecipientPlaces = RecipientPlaces()


class Resource(Part):
    """Jobs of one kind.

    path     a GET of it shows one job
    creates  paths whose POST makes a job
    item     where an answer holds the job; the places below begin there
    status   where it names its state; shown while no rule matches
    states   the first rule that matches gives the state; without one the job is open
    """

    type_prefix: Annotated[str, Field(pattern=r"^(?!relay\.)([a-z0-9]+\.)+[a-z0-9]+$")]
    source_path: _Path
    path: Annotated[str, Field(pattern=r"^/[!-~]*\{id\}[!-~]*$")]
    creates: frozenset[_Path] = frozenset()
    item: Pointer = ()
    status: Pointer
    states: Annotated[tuple[Rule, ...], Field(min_length=1)]
    fields: Fields
    problem: ProblemFields | None = None
    result: ResultFields | None = None
    request: RequestFields = RequestFields()

    @model_validator(mode="after")
    def _check(self) -> "Resource":
        for place, rule in enumerate(self.states):
            for before, earlier in enumerate(self.states[:place]):
                if earlier.precedes(rule):
                    raise ValueError(f"states.{place} can never match, or not all of it: states.{before} matches first")
        if not {rule.state for rule in self.states} & {"succeeded", "failed", "cancelled"}:
            raise ValueError("states: no rule ends a job (succeeded, failed or cancelled)")
        return self

    @property
    def event_types(self) -> tuple[str, ...]:
        """Every event type of these jobs."""
        return job_event_types(self.type_prefix)

    @property
    def read_fields(self) -> tuple[tuple[str, ...], ...]:
        """The places in an item that the relay reads, except those of the problem."""
        fields = self.fields
        places: Iterable[tuple[str, ...] | None] = (
            *(fields.id, self.status, fields.action, fields.channel, fields.attempt_count),
            *(fields.scheduled_at, fields.started_at, fields.finished_at, fields.next_attempt_at),
        )
        result = self.result
        shown = () if result is None else tuple((*result.at, *names) for names in result.shown)
        return (*(place for place in places if place), *shown)

    def state_of(self, item: Any) -> State | None:
        """The state of an item; None: no rule matches."""
        return next((rule.state for rule in self.states if rule.holds(item)), None)

    def job_id_of(self, path: str) -> str | None:
        """The percent-encoded job id in this path; None for any other path."""
        before, _, after = self.path.partition("{id}")
        id = path[len(before) : len(path) - len(after)]
        return id if path.startswith(before) and path.endswith(after) and id and "/" not in id else None


class ConnectAccounts(Part):
    """The listing of connect accounts: its path, the places of the items and of what is read of each, and the
    upstream's status -> a member of LISTED_STATES."""

    source_path: _Path
    path: _Path
    items: Pointer
    id: Pointer
    channel: Pointer
    name: Pointer
    status: Pointer
    can_send: Pointer
    states: Mapping[str, str]

    @model_validator(mode="after")
    def _check(self) -> "ConnectAccounts":
        if not set(self.states.values()) <= set(LISTED_STATES):
            raise ValueError(f"states must map to {', '.join(LISTED_STATES)}")
        return self


class SourceDefinition(Part):
    """One upstream API.

    base_path         optional suffix of a base URL; `root` removes it
    probe             path of a cheap call that shows whether a key works
    passed            path prefixes that the proxy forwards
    resources         by name; a registration that names none means the first
    connect_accounts  None: they are not watched
    """

    version: Literal[2]
    name: str
    title: Annotated[str, Field(min_length=1)]
    documentation: str = ""
    base_path: _Path = "/"
    credential: Credential
    answer: Answer = Answer()
    error: ErrorFields = ErrorFields()
    headers: HeaderNames = HeaderNames()
    probe: _Path
    passed: frozenset[_Path]
    resources: Annotated[Mapping[_Name, Resource], Field(min_length=1)]
    connect_accounts: ConnectAccounts | None = None
    hints: Hints

    @property
    def resource(self) -> Resource:
        """The first one."""
        return next(iter(self.resources.values()))

    def root(self, base_url: str) -> str:
        """The base URL to append this definition's paths to."""
        return base_url.rstrip("/").removesuffix(self.base_path.rstrip("/")).rstrip("/")

    def event_source(self, base_url: str) -> str:
        """The CloudEvents `source` of this source's job events."""
        return self.root(base_url) + self.resource.source_path

    def origin(self, base_url: str, dataschema: str) -> Origin:
        """The attributes shared by all events of this source. `dataschema`: of its job events."""
        listed = self.connect_accounts
        return Origin(
            source=self.event_source(base_url),
            type_prefix=self.resource.type_prefix,
            dataschema=dataschema,
            account_source=None if listed is None else self.root(base_url) + listed.source_path,
        )

    def job_url(self, base_url: str, external_id: str) -> str:
        """The URL of one job. Any id stays a single path segment."""
        segment = quote(external_id, safe="", errors="replace")
        if not segment.strip("."):
            segment = segment.replace(".", "%2E")  # URL libraries resolve a bare dot segment
        return self.root(base_url) + self.resource.path.replace("{id}", segment)

    def probe_url(self, base_url: str) -> str:
        """The URL of the cheapest call that shows whether a key works."""
        return self.root(base_url) + self.probe

    def listing_url(self, base_url: str) -> str | None:
        """The URL of the listing of connect accounts; None if there is none."""
        return None if self.connect_accounts is None else self.root(base_url) + self.connect_accounts.path

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """The header that carries the key."""
        return {self.credential.header: self.credential.format.replace("{key}", api_key)}

    def answer_body(self, item: Mapping[str, Any], request_id: str) -> bytes:
        """The answer to a job read in the upstream's shape."""
        return dumps(document_of([*self._common(request_id, is_ok=True), (self.resource.item, item)]))

    def error_body(self, code: str, message: str, request_id: str) -> bytes:
        """An error in the upstream's shape."""
        names = self.error
        found = [((*names.at, *names.code), code), ((*names.at, *names.message), message)]
        if names.request_id is not None:
            found.append(((*names.at, *names.request_id), request_id))
        return dumps(document_of([*self._common(None, is_ok=False), *found]))

    def _common(self, request_id: str | None, *, is_ok: bool) -> list[tuple[Sequence[str], Any]]:
        """What an answer of the upstream has beside the item or the error."""
        found: list[tuple[Sequence[str], Any]] = []
        ok = self.answer.ok
        if ok is not None and (is_ok or isinstance(ok.is_, bool)):
            found.append((ok.at, ok.is_ if is_ok else not ok.is_))
        if request_id is not None and self.answer.request_id is not None:
            found.append((self.answer.request_id, request_id))
        return found

    def hint_for(self, problem: Problem | None, kind: str, channel: str | None = None) -> Hint | None:
        """The hint for an event of `kind` (a JOB_EVENTS member) or a failed poll (POLL); None if nothing is wrong.

        `problem` is the Observation's, `channel` the job's.
        """
        return self.hints.find(problem, kind, channel)


def presets(directory: Path | None = None) -> tuple[str, ...]:
    """The names of the available definitions."""
    folders = (file.parent.name for file in (directory or Path(__file__).parent).glob("*/definition.yaml"))
    return tuple(sorted(name for name in folders if _PRESET.fullmatch(name)))


def load_definition(preset: str, *, directory: Path | None = None) -> SourceDefinition:
    """Loads and validates a definition with its hints. `directory` defaults to the shipped presets.

    Raises SettingsError that names the file and the key.
    """
    directory = directory or Path(__file__).parent
    known = presets(directory)
    if preset not in known:
        raise SettingsError(f"sources: there is no preset {preset!r}: {', '.join(known) or 'none is there'}")
    files = {"": f"{preset}/definition.yaml", "hints": f"{preset}/hints.yaml"}
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
    name = f"{path.parent.name}/{path.name}"
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 (safe either way)
    except Exception as error:  # PyYAML raises more than YAMLError: `!!int ""` is an IndexError
        raise SettingsError(f"{name}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(f"{name}: expected a mapping of keys")
    return values
