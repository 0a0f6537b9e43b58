"""Source definition, version 2: everything the relay knows about one upstream API, as data.

A preset is a folder beside this module: `definition.yaml`, and `hints.yaml` if it explains errors of its own. A user's
file has its hints in the section `hints`.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from relay.core.access.forwarding import path_refusal, without_parameter
from relay.core.access.netguard import is_within
from relay.core.events.event import JOB_PREFIX, Hint, Origin
from relay.core.jobs.job import NO_CODE, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.sources.documents import Document, Faults, Loc, read_document, refused
from relay.sources.hints import Hints, Part
from relay.sources.paths import (
    KEY_HERE,
    FixedPath,
    HeaderName,
    LowerHeader,
    PathPattern,
    RawPath,
    ResourceName,
    Url,
    headers_without_secrets,
    pattern_of,
    with_id,
    with_parameter,
)
from relay.sources.pointers import Pointer, at, document_of
from relay.sources.sections import (
    Answer,
    ConnectAccounts,
    Create,
    Credential,
    Credits,
    ErrorFields,
    Fields,
    HeaderNames,
    Limit,
    LongPoll,
    ProblemFields,
    ProgressFields,
    RequestFields,
    ResultFields,
    Rule,
    create_of,
    distinct,
)

ANSWERS = "answers"
"""The section of a user's file with its recorded answers. Those of a preset are in `answers.yaml` beside it."""

_PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_ADDRESS_CHARACTERS = 2_000
_ADDRESS = re.compile(r"(?:https?://[a-z0-9.-]+(?::[0-9]{1,5})?/|/(?!/))[!\"$-\[\]-~]*", re.IGNORECASE)
"""An absolute URL with a path and without user, password and fragment, or a path."""


class Resource(Part):
    """Jobs of one kind.

    type_prefix  of their events, as a reversed domain name
    succeeded_as  the last word of the type of a success
    source_path  the CloudEvents source of their events is the base URL with this path
    method      of a read
    path        a read of it shows one job; the id stays one segment at `{id}`, and may have slashes at `{+id}`
    status_paths  paths that a registration may name, by a `status_url` or by an id with slashes, which needs some;
                without one, only answers of the upstream give addresses. `{name}` stands for one segment, `{+name}` for
                several
    follows     headers of an answer that name the address at which the job is read from then on, the first one first;
                the last of several only if the status of the answer tells the state, else it names the result
    wait        how a read waits for a change
    min_interval_seconds  the documented shortest time between two reads of one job
    etag        a read with the last answer's ETag costs nothing while nothing changed
    creates     requests that make a job, by their paths
    item        where an answer holds the job; the places below begin there
    status      where it names its state; shown while no rule matches
    states      the first rule that matches gives the state; without one the job is open
    result_url  where a finished job has the address of its result, which becomes the event's data
    addresses   where the job has addresses of the upstream, which clients follow: the drop-in gives these, and those of
                headers such as `Location`, as its own
    fields      what the relay reads of a job
    problem     why it failed
    result      where a success says more
    progress    how far it is
    request     what the relay reads of a create's body
    """

    type_prefix: Annotated[str, Field(pattern=re.compile(rf"^{JOB_PREFIX}$(?!\n)"))]
    succeeded_as: Literal["succeeded", "completed"] = "succeeded"
    source_path: FixedPath
    path: Annotated[str, Field(pattern=r"^/[!-~]*\{\+?id\}[!-~]*$"), AfterValidator(with_id)]
    method: Literal["GET", "POST"] = "GET"
    status_paths: tuple[PathPattern, ...] = ()
    follows: tuple[LowerHeader, ...] = ()
    wait: LongPoll | None = None
    min_interval_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    etag: bool = False
    creates: tuple[Annotated[Create, BeforeValidator(create_of, json_schema_input_type=RawPath | Create)], ...] = ()
    item: Pointer = ()
    status: Pointer
    states: Annotated[tuple[Rule, ...], Field(min_length=1), AfterValidator(distinct)]
    fields: Fields
    problem: ProblemFields | None = None
    result: ResultFields | None = None
    progress: ProgressFields | None = None
    result_url: Pointer | None = None
    addresses: tuple[Pointer, ...] | None = None
    request: RequestFields = RequestFields()

    @model_validator(mode="after")
    def _check(self) -> "Resource":
        faults: list[tuple[Loc, str]] = []
        places = (self.fields.id, self.follows)
        if not any(places) and not all(one.id or one.location or one.status_url for one in self.creates):
            words = "nothing says where the job's id is: `fields.id`, or `id`, `location` or `status_url` of each"
            faults.append((("creates",), words))
        if self.has_paths_as_ids and not self.status_paths:
            faults.append((("path",), "with {+id} an id can name any path: list those of jobs in `status_paths`"))
        if self.etag and self.statuses:
            faults.append((("etag",), "an answer 304 does not tell the status that a rule with `http` needs"))
        if faults:
            raise Faults(faults)
        return self

    @cached_property
    def read_fields(self) -> tuple[tuple[str, ...], ...]:
        """The places in an item that the relay reads."""
        fields, problem = self.fields, self.problem
        times = (fields.scheduled_at, fields.started_at, fields.finished_at, fields.next_attempt_at)
        places: Iterable[tuple[str, ...] | None] = (
            *(fields.id, self.status, fields.action, fields.channel, fields.attempt_count),
            *(None if time is None else time.at for time in times),
            *(() if self.progress is None else self.progress.places),
        )
        result = self.result
        shown = () if result is None else tuple((*result.at, *names) for names in result.shown)
        of_problem: tuple[tuple[str, ...], ...] = ()
        if problem is not None:
            inner = ((), problem.code, problem.message, problem.retryable)
            of_problem = tuple((*problem.at, *names) for names in inner if names is not None)
        return (*(place for place in (*places, *of_problem) if place), *shown)

    def address_of(self, create: Create, answer: Any, headers: Mapping[str, str]) -> str | None:
        """The address at which a job is read, in the answer to its create; None if it names none. It may be one that is
        on no listed origin. `headers`: names lower-cased."""
        found = None if create.status_url is None else at(answer, create.status_url)
        if isinstance(found, str) and found:
            return found
        names = (*self.follows, *(() if create.location is None else (create.location,)))
        return next((headers[name] for name in names if headers.get(name)), None)

    def address_with_id(self, create: Create, answer: Any, headers: Mapping[str, str]) -> str | None:
        """The address that has the job's id, in the answer to its create; None if the id is elsewhere, or there is no
        address. Arguments as for `address_of`."""
        if create.location is not None:
            return headers.get(create.location)
        return self.address_of(create, answer, headers) if create.id is None and self.fields.id is None else None

    @cached_property
    def has_addresses(self) -> bool:
        """True if its jobs can have addresses of their own, at which they are read."""
        given = self.follows or self.status_paths
        return bool(given) or any(one.status_url or one.location for one in self.creates)

    @property
    def has_paths_as_ids(self) -> bool:
        """True if an id may have slashes, and so name another path."""
        return "{+id}" in self.path

    def may_be_at(self, path: str) -> bool:
        """True if a registration may name this path, however often a server decodes it."""
        while any(pattern_of(one).fullmatch(path) for one in self.status_paths):
            decoded = unquote(path)
            if decoded == path:
                return True
            path = decoded
        return False

    @cached_property
    def statuses(self) -> frozenset[int]:
        """The statuses of answers that prove a state by themselves."""
        return frozenset(status for rule in self.states for status in rule.http or ())

    def rule_of(self, item: Any, status_code: int = 200) -> Rule | None:
        """The rule that the answer to a read matches first; None: the job is open."""
        for rule in self.states:
            if rule.holds(item, status_code):
                return rule
        return None

    def needs_status(self, item: Any) -> bool:
        """True if the item does not tell the job's state without the status of the answer that had it."""
        return next((rule.at is None for rule in self.states if rule.at is None or rule.holds(item, 0)), False)

    def read_at(self, path: str, query: str) -> tuple[str, str] | None:
        """The percent-encoded id of the job that this address shows, and what the query has beside; None if it shows
        none."""
        before, _, own = self.path.partition("?")
        id = self.job_id_of(path)
        if not own:
            return None if id is None else (id, query)
        if id is None and path != before:
            return None
        left = query.split("&")
        for part in own.split("&"):
            start, is_id, _ = part.partition("{id}")
            given = next((one for one in left if (one.startswith(start) if is_id else one == part)), None)
            if given is None or (is_id and given == start):
                return None
            left.remove(given)
            id = given[len(start) :] if is_id else id
        return None if id is None else (id, "&".join(left))

    def create_at(self, path: str, method: str | None = None) -> Create | None:
        """The create that a request to this path is; None if it makes no job. `method`: of the request; None: any."""
        found = (one for one in self.creates if method is None or method in one.methods)
        return next((one for one in found if pattern_of(one.path).fullmatch(path)), None)

    def id_at(self, address: str) -> str | None:
        """The id of the job at an address: where the path of a read has it, below whatever base; else the last segment;
        None if the address has neither."""
        try:
            path = urlsplit(address).path
        except ValueError:
            return None
        if len(address) > MAX_ADDRESS_CHARACTERS:
            return None
        ends = (path[place:] for place, character in enumerate(path) if character == "/")
        found = next(filter(None, map(self.job_id_of, ends)), None)
        return unquote(found or path.rstrip("/").rpartition("/")[2]) or None

    def job_id_of(self, path: str) -> str | None:
        """The percent-encoded job id in this path; None for any other path."""
        found = pattern_of(self.path).fullmatch(path)
        return None if found is None else found.groupdict().get("id")


_OWN_PATHS = ("/v1/", "/ui/", "/sources/", "/schemas/", "/.well-known/")
"""The relay's own at the root, where its API asks for a token."""


def _not_own(prefix: str) -> str:
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix} is no prefix of whole segments: end it with a slash")
    if any(prefix.startswith(own) or own.startswith(prefix) for own in _OWN_PATHS):
        raise ValueError(f"{prefix} has paths of the relay itself: leave it out, all paths are below /sources/NAME/")
    return prefix


class SourceDefinition(Part):
    """One upstream API.

    version           of this format
    title             the upstream's name, in texts for people
    documentation     where the upstream documents it
    website           where people sign in at the upstream; pages link to it
    seen              false: written from the documentation alone
    base_url          default of the setting; without it that has to be set
    origins           where requests may go besides the base URL: addresses that answers give
    base_path         optional suffix of a base URL; `root` removes it
    credential        how the API key is sent
    send_headers      fixed headers of every request
    answer            what every answer has
    error             what an error answer has
    headers           response headers with limits and pauses
    limit             applies where no header tells one
    probe             path of a cheap GET that answers 2xx if the key works; without one, polls of jobs show it
    passed            path prefixes that the drop-in forwards at the root; all paths are below /sources/NAME
    resources         by name; a registration that names none means the first
    connect_accounts  without it they are not watched
    credits           without it the setting `credits_low` is refused
    """

    version: Literal[2]
    name: str
    title: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
    documentation: str = ""
    website: Url | None = None
    seen: bool = True
    base_url: Url | None = None
    origins: tuple[Url, ...] = ()
    base_path: FixedPath = "/"
    credential: Credential
    send_headers: Annotated[
        Mapping[HeaderName, Annotated[str, Field(pattern=r"^[ -~]+$")]], AfterValidator(headers_without_secrets)
    ] = Field(default_factory=dict)
    answer: Answer = Answer()
    error: ErrorFields = ErrorFields()
    headers: HeaderNames = HeaderNames()
    limit: Limit | None = None
    probe: FixedPath | None = None
    passed: frozenset[Annotated[FixedPath, AfterValidator(_not_own)]] = frozenset()
    resources: Annotated[Mapping[ResourceName, Resource], Field(min_length=1)]
    connect_accounts: ConnectAccounts | None = None
    credits: Credits | None = None
    hints: Hints

    @model_validator(mode="after")
    def _check(self) -> "SourceDefinition":
        owner: dict[str, str] = {}
        faults: list[tuple[Loc, str]] = []
        for name, resource in self.resources.items():
            paths = (resource.path, *(one.path for one in resource.creates))
            taken = [path for path in paths if owner.setdefault(path, name) != name]
            faults += [(("resources", name), f"the path {path} belongs to resources.{owner[path]}") for path in taken]
            if self._has_key(resource.path):
                faults.append((("resources", name, "path"), KEY_HERE))
        if self.probe is not None and self._has_key(self.probe):
            faults.append((("probe",), KEY_HERE))
        if faults:
            raise Faults(faults)
        return self

    def _has_key(self, path: str) -> bool:
        """True if the path has the parameter that the key is sent in."""
        query, name = path.partition("?")[2], self.credential.query
        return name is not None and without_parameter(query, name) != query

    @property
    def resource(self) -> Resource:
        """The first one."""
        return next(iter(self.resources.values()))

    def resource_of(self, key: str) -> Resource:
        """The resource with this key, which jobs store. The first one for "", and for one that the definition no longer
        has: such jobs are shown, but not polled."""
        return self.resources.get(key) or self.resource

    def lacks(self, key: str) -> bool:
        """True if a job that stores this key is of a resource that the definition no longer has."""
        return key != "" and key not in self.resources

    def key_of(self, name: str) -> str:
        """The key of a resource by its name: "" for the first one."""
        return "" if name == next(iter(self.resources)) else name

    @cached_property
    def keyed(self) -> tuple[tuple[str, Resource], ...]:
        """Each resource with its key."""
        return tuple((self.key_of(name), resource) for name, resource in self.resources.items())

    def created_by(self, path: str, method: str = "POST") -> str | None:
        """The key of the resource of which a request to this path makes a job; None if it makes none."""
        for key, resource in self.keyed:
            if resource.create_at(path, method) is not None:
                return key
        return None

    def read_by(self, path: str, query: str = "") -> tuple[str, str, str] | None:
        """The key of a resource, the percent-encoded id of its job that a GET of this path reads, and what the query
        has beside; None if it reads none."""
        for key, resource in self.keyed:
            if (found := resource.read_at(path, query)) is not None:
                return key, *found
        return None

    def root(self, base_url: str) -> str:
        """The base URL to append this definition's paths to."""
        return base_url.rstrip("/").removesuffix(self.base_path.rstrip("/")).rstrip("/")

    def event_origins(self, base_url: str, dataschema: str) -> dict[str, Origin]:
        """The attributes shared by all events of a resource, by its key. `dataschema`: of job events."""
        root, listed = self.root(base_url), self.connect_accounts
        return {
            key: Origin(
                source=root + resource.source_path,
                type_prefix=resource.type_prefix,
                succeeded_as=resource.succeeded_as,
                tells_progress=resource.progress is not None and resource.progress.events,
                dataschema=dataschema,
                account_source=None if listed is None else root + listed.source_path,
                title=self.title,
                website=self.website,
            )
            for key, resource in self.keyed
        }

    def job_url(self, base_url: str, external_id: str, resource: str = "") -> str:
        """The URL of one job. Any id stays a single path segment."""
        path = self.resource_of(resource).path
        if "{+id}" in path:
            return self.root(base_url) + path.replace("{+id}", "/".join(map(_segment, external_id.split("/"))))
        return self.root(base_url) + path.replace("{id}", _segment(external_id))

    def address(self, base_url: str, text: object) -> tuple[str, bool] | None:
        """The URL of an address that an answer gives, and True if it is below the base URL. None: it is no address, or
        on no listed origin."""
        root = self.root(base_url)
        if not isinstance(text, str) or len(text) > MAX_ADDRESS_CHARACTERS or not _ADDRESS.fullmatch(text):
            return None
        url = f"{root}{text}" if text.startswith("/") else text
        base = self._base_of(url, root)
        if base is None or path_refusal(urlsplit(url).path.encode(), ("/",)) is not None:
            return None
        return url, base == root

    def may_name(self, base_url: str, url: str, resource: str) -> bool:
        """True if a registration of a resource may name this URL, of an address or of an id."""
        base = self._base_of(url, self.root(base_url))
        below = "" if base is None else urlsplit(url).path[len(urlsplit(base).path.rstrip("/")) :]
        return self.resource_of(resource).may_be_at(below)

    def _base_of(self, url: str, root: str) -> str | None:
        """The base URL or the listed origin that the URL is below."""
        for base in (root, *self.origins):
            if _scheme(url) == _scheme(base) and _is_below(url, base):
                return base
        return None

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """The header that carries the key."""
        way = self.credential
        if way.basic is not None:
            return {"Authorization": f"Basic {self.secrets_of(api_key)[0]}"}
        return {} if way.header is None else {way.header: way.format.replace("{key}", api_key)}

    def secrets_of(self, api_key: str) -> Sequence[str]:
        """The key in each form in which a request has it, the longest first."""
        basic = self.credential.basic
        if basic is None:
            return (api_key,)
        return b64encode(basic.replace("{key}", api_key).encode()).decode(), api_key

    def with_key(self, url: str, api_key: str) -> str:
        """The URL with the key, if it is sent there: in place of one that an address of the upstream has."""
        name = self.credential.query
        if name is None:
            return url
        before, mark, query = url.partition("?")
        left = without_parameter(query, name)
        return with_parameter(f"{before}{mark}{left}" if left else before, name, api_key)

    def answer_body(self, item: Mapping[str, Any], request_id: str, resource: str = "") -> bytes:
        """The answer to a job read in the upstream's shape."""
        return dumps(document_of([*self._common(request_id, is_ok=True), (self.resource_of(resource).item, item)]))

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
        return self.hints.find(problem, kind, channel, title=self.title, source=self.name)

    def explained(self, code: str) -> Hint | None:
        """The hint for failed jobs with this error code; empty, or NO_CODE: without one."""
        problem = None if code in ("", NO_CODE) else Problem(code=code, message="")
        return self.hint_for(problem, "failed")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _is_below(url: str, base: str) -> bool:
    try:
        return is_within(url, base)
    except ValueError:  # its port is none
        return False


def _segment(text: str) -> str:
    segment = quote(text, safe="", errors="replace")
    return segment if segment.strip(".") else segment.replace(".", "%2E")  # URL libraries resolve a bare dot segment


def presets(directory: Path | None = None) -> tuple[str, ...]:
    """The names of the available definitions."""
    folders = (file.parent.name for file in (directory or Path(__file__).parent).glob("*/definition.yaml"))
    return tuple(sorted(name for name in folders if _PRESET.fullmatch(name)))


def load_definition(preset: str, *, name: str = "", directory: Path | None = None) -> SourceDefinition:
    """The definition in a preset, with its hints. `name`: of the source in the settings; default: the preset's.
    `directory` defaults to the shipped presets.

    Raises SettingsError that names the file, the line and the key.
    """
    directory = directory or Path(__file__).parent
    known = presets(directory)
    if preset not in known:
        raise SettingsError(f"there is no preset {preset!r:.70}: {', '.join(known) or 'none is there'}")
    document = read_document(directory / preset / "definition.yaml", f"{preset}/definition.yaml")
    own_hints = directory / preset / "hints.yaml"
    hints = read_document(own_hints, f"{preset}/hints.yaml") if own_hints.exists() else None
    return definition_in(document, name or preset, hints)


def definition_in(document: Document, name: str, hints: Document | None = None) -> SourceDefinition:
    """The definition in a file. `name`: of the source in the settings. `hints`: of a file beside it; else those of its
    section `hints`. Its section ANSWERS is for the sandbox.

    Raises SettingsError with a line for each fault, which names the file, the line and the key.
    """
    values = {key: value for key, value in document.values.items() if key != ANSWERS}
    own = values.get("hints", {}) if hints is None else hints.values
    merged = _with_general(own) if isinstance(own, dict) else own
    try:
        found = SourceDefinition.model_validate({**values, "name": name, "hints": merged})
        errors = []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    if "name" in values:  # the settings give it
        errors.append({"type": "extra_forbidden", "loc": ("name",), "msg": "", "input": None})
    of_hints = [] if hints is None else [one for one in errors if one["loc"][:1] == ("hints",)]
    faults = document.faults((one for one in errors if one not in of_hints), _names())
    if hints is not None:
        faults += hints.faults(({**one, "loc": one["loc"][1:]} for one in of_hints), _names())
    if faults:
        raise refused(faults)
    return found


def _with_general(hints: Mapping[str, Any]) -> dict[str, Any]:
    """A source's hints, over those of every source."""
    found = dict(_general())
    for name, value in hints.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict) and name in _SECTIONS
        found[name] = {**found[name], **value} if both else value
    return found


@cache
def _general() -> Mapping[str, Any]:
    return read_document(Path(__file__).parent / "hints.yaml", "hints.yaml").values


_SECTIONS = frozenset({"channels", "codes", "patterns", "polls", "kinds"})


@cache
def _names() -> frozenset[str]:
    """Every key of a definition."""
    parts, names = [Part], set()
    while parts:
        part = parts.pop()
        parts += part.__subclasses__()
        names |= {field.alias or name for name, field in part.model_fields.items()}
    return frozenset(names - {"name"})
